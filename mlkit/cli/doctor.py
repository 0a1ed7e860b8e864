"""``mlkit doctor``: the installation and this machine."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from mlkit.cli.arguments import Commands
from mlkit.errors import MissingExtra

__all__ = ["add", "capabilities", "run"]


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "doctor",
        help="check the installation and this machine",
        description="Report installed versions, the capabilities of this machine, and problems. "
        "Exits with 1 if a problem prevents serving.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the report."""
    from mlkit.serving.kernel.doctor import examine

    report = examine(capabilities())
    print(report.to_json() if arguments.json else report)
    return 0 if report.healthy else 1


def capabilities() -> dict[str, str]:
    """Capabilities of this machine for models; a library that fails to load is reported."""
    try:
        from mlkit.models.target import cpu_has_bf16, cuda_available
    except MissingExtra as error:
        return {"models": f"{error.what}; {error.fix}"}

    def probe(check: Callable[[], bool], yes: str, no: str) -> str:
        try:
            return yes if check() else no
        except Exception as error:
            return f"unknown: {type(error).__name__}: {error}"

    return {
        "CPU precision": probe(cpu_has_bf16, "bf16, fp32", "fp32"),
        "CUDA": probe(cuda_available, "yes", "no"),
    }
