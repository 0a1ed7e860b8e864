"""Errors that end a request outside of its steps."""

from __future__ import annotations

from mlkit.errors import DeadlineExceeded, MlkitError
from mlkit.execute.program import Task

__all__ = ["deadline_passed", "loop_closed"]


def deadline_passed(task: Task | None = None) -> DeadlineExceeded:
    """Build the error for a request past its deadline."""
    where = f" at step {task.name!r}" if task is not None else ""
    return DeadlineExceeded(f"the request exceeded its deadline{where}")


def loop_closed(task: Task) -> MlkitError:
    """Build the error for an async step whose event loop is closed."""
    return MlkitError("its event loop is closed", where=f"step {task.name!r}")
