"""The command line, ``mlkit``: a module per command, with its options and what it does.

Exit codes: 0 on success and after a requested shutdown, 1 on errors, 2 on usage errors. Of
``mlkit load`` with an objective: 0 if it was met, 1 if it was missed, 3 if it is undecided.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from mlkit import __version__
from mlkit.cli import dashboard, doctor, export, grpc, load, map, serve, verify
from mlkit.cli.arguments import UsageError, say
from mlkit.errors import MlkitError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Args:
        argv: command-line arguments without the program name; ``sys.argv[1:]`` by default.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.run is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        code: int = arguments.run(arguments)
        return code
    except UsageError as error:
        say(f"error: {error}")
        return 2
    except MlkitError as error:
        say(f"error: {error}")
        return 1
    except BrokenPipeError:  # the reader of stdout has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mlkit",
        description="Serve inference pipelines, load-test servers and check this machine.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in (serve, grpc, map, export, verify, load, doctor, dashboard):
        command.add(commands)
    version = commands.add_parser("version", help="print the version")
    version.set_defaults(run=_version)
    return parser


def _version(arguments: argparse.Namespace) -> int:
    print(f"mlkit {__version__}")
    return 0
