"""``mlkit export``: a pipeline as a folder."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from mlkit.cli.arguments import Commands, UsageError
from mlkit.cli.target import load

__all__ = ["add", "run"]


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "export",
        help="write a pipeline to a folder that is deployed without its notebook",
        description="Write a pipeline to a folder: its code, data, requirements, configurations "
        "for Serve, KubeRay and Docker, and golden requests. Of a notebook, only those statements "
        "are executed that the pipeline needs.",
    )
    parser.add_argument(
        "target",
        metavar="SOURCE:PIPELINE",
        help="notebook or module with the pipeline, such as notebooks/01_define.ipynb:species",
    )
    parser.add_argument("folder", type=Path, help="folder to write")
    parser.add_argument(
        "--examples",
        type=Path,
        metavar="FILE",
        help="JSON list of inputs for golden requests, as in pipeline.map",
    )
    parser.add_argument(
        "--fastapi",
        metavar="NAME",
        help="variable of the notebook or module with the FastAPI application that embeds it",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the folder."""
    folder = arguments.folder.absolute()
    examples = None if arguments.examples is None else _examples(arguments.examples)
    source, _, name = arguments.target.rpartition(":")
    if source.endswith(".ipynb"):
        from mlkit.export.notebook import pipeline_of

        pipeline, application = pipeline_of(Path(source), name, arguments.fastapi)
    else:
        pipeline, application = load(arguments.target), None
        if arguments.fastapi is not None:
            application = getattr(sys.modules[source], arguments.fastapi, None)
            if application is None:
                raise UsageError(f"module {source!r} has no {arguments.fastapi!r}")
    from mlkit.export import export

    print(export(pipeline, folder, examples=examples, fastapi=application))
    return 0


def _examples(file: Path) -> list[Any]:
    try:
        examples = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--examples {file}: {error}") from None
    if not isinstance(examples, list):
        raise UsageError(f"--examples {file}: not a list")
    return examples
