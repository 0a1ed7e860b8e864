"""Pipelines of notebooks that no kernel runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from mlkit.errors import MlkitError, did_you_mean
from mlkit.export.cells import Statement, execute, read_notebook
from mlkit.export.reach import needed
from mlkit.pipelines import Pipeline

__all__ = ["pipeline_of"]


def pipeline_of(
    path: Path, name: str, application: str | None = None
) -> tuple[Pipeline[..., Any], Any]:
    """Execute what a pipeline needs of a notebook, as ``__main__`` of this process; return it.

    With it comes the value of a variable that has a user's application, or None.

    The working directory becomes the notebook's folder, as in a kernel. Cells that only show
    something, deploy or measure are not executed.

    Raises:
        MlkitError: there is no such notebook or pipeline, or a statement raises.
    """
    cells = read_notebook(path)
    os.chdir(path.absolute().parent)
    sys.path.insert(0, str(Path.cwd()))

    def choose(statements: list[Statement]) -> list[Statement]:
        names = {bound for statement in statements for bound in statement.binds}
        others = [] if application is None else [application]
        for each in (name, *others):
            if each not in names:
                raise MlkitError(
                    f"no cell assigns {each!r}", where=str(path), fix=did_you_mean(each, names)
                )
        return needed(name, statements, others)

    namespace = execute(cells, choose)
    value = namespace[name]
    if not isinstance(value, Pipeline):
        raise MlkitError(f"{name!r} is a {type(value).__name__}, not a pipeline", where=str(path))
    return value, None if application is None else namespace[application]
