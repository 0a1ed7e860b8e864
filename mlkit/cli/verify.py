"""``mlkit verify``: an exported folder against its golden requests."""

from __future__ import annotations

import argparse
from pathlib import Path

from mlkit.cli.arguments import Commands

__all__ = ["add", "run"]


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "verify",
        help="compare an exported pipeline with its golden requests",
        description="Send the golden requests of an export to its module in a fresh process, and "
        "compare the answers. Exits with 1 if one differs.",
        epilog="A server is sent the bearer token in MLKIT_TOKEN.",
    )
    parser.add_argument("folder", type=Path, help="the exported folder")
    parser.add_argument("--url", help="send them to this server as well")
    parser.add_argument(
        "--serve", action="store_true", help="send them to the folder under `serve run` as well"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print what differs."""
    from mlkit.export import verify

    outcome = verify(arguments.folder, url=arguments.url, serve=arguments.serve)
    print(outcome)
    return 0 if outcome.equal else 1
