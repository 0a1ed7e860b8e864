"""``mlkit dashboard``: a dashboard for Grafana."""

from __future__ import annotations

import argparse
import json

from mlkit.cli.arguments import Commands

__all__ = ["add", "run"]


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("dashboard", help="print a dashboard for Grafana, in JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the dashboard."""
    from mlkit.metrics.grafana import dashboard

    print(json.dumps(dashboard(), indent=2))
    return 0
