"""Whether the code in the notebook is still that of an app."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from mlkit.pipelines import Pipeline
from mlkit.serving.bundle import code_of

__all__ = ["Definition", "outdated"]


class Definition:
    """Where the pipeline of an app is defined.

    A cell that runs again binds its name to another pipeline. One that has no name of its own, such
    as ``deploy(tag.replace(...))``, is the same object for ever, but its steps are looked up again.

    Args:
        name: the pipeline's name.
        pipeline: the pipeline that was deployed; None if another kernel has deployed it.
    """

    def __init__(self, name: str, pipeline: Pipeline[..., Any] | None) -> None:
        self._name = name
        self._pipeline = pipeline
        self._module = "__main__" if pipeline is None else pipeline.fn.__module__
        self._is_named = pipeline is None or self._current() is pipeline

    def _current(self) -> Any:
        return getattr(sys.modules.get(self._module), self._name, None)

    @property
    def pipeline(self) -> Pipeline[..., Any] | None:
        """The current pipeline; None if it no longer exists."""
        current = self._current() if self._is_named else self._pipeline
        return current if isinstance(current, Pipeline) else None


def outdated(code: Mapping[str, str], pipeline: Pipeline[..., Any] | None) -> tuple[str, ...]:
    """Return the names of changed steps, or of the pipeline; empty if unknown.

    Args:
        code: the deployed code, from `code_of`.
        pipeline: the pipeline as it is now.
    """
    if pipeline is None or not code:
        return ()
    try:
        now = code_of(pipeline.graph)
    except Exception:  # its cells do not fit together at the moment
        return ()
    return tuple(name for name in {**code, **now} if code.get(name) != now.get(name))
