"""``mlkit map``: a pipeline on data larger than memory."""

from __future__ import annotations

import argparse
import sys

from mlkit.cli.arguments import Commands, count, say
from mlkit.cli.signals import interrupt_on_signals
from mlkit.cli.target import load

__all__ = ["add", "run"]


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "map",
        help="run a pipeline on data larger than memory",
        description="Run a pipeline on Parquet files, or on the files of a folder, by Ray Data. "
        "The same command continues after an interrupt.",
    )
    parser.add_argument("target", metavar="MODULE:PIPELINE", help="pipeline to run")
    parser.add_argument("source", help="path or URI of Parquet files, or of a folder of files")
    parser.add_argument("output", help="folder for the results")
    parser.add_argument("--id", metavar="COLUMN", help="column that identifies a row")
    parser.add_argument(
        "--address", default="local", help="of a Ray cluster; by default, Ray is started here"
    )
    parser.add_argument(
        "--batch-size",
        type=count,
        default=512,
        metavar="N",
        help="rows that a worker takes at a time (%(default)s)",
    )
    parser.add_argument("--workers", type=count, metavar="N", help="processes at most")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the pipeline, and print a summary."""
    from mlkit.serving import map_dataset

    pipeline = load(arguments.target)
    try:
        with interrupt_on_signals():
            outcome = map_dataset(
                pipeline,
                arguments.source,
                arguments.output,
                id=arguments.id,
                address=arguments.address,
                batch_size=arguments.batch_size,
                workers=arguments.workers,
                progress=sys.stderr.isatty(),
            )
    except KeyboardInterrupt:
        say("interrupted; the same command continues")
        return 130
    print(outcome)
    return 0
