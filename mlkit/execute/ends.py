"""Errors that end a request from outside its steps."""

from __future__ import annotations

from mlkit.errors import DeadlineExceeded, MlkitError
from mlkit.execute.program import Task

__all__ = ["deadline_passed", "loop_closed"]


def deadline_passed(task: Task | None = None) -> DeadlineExceeded:
    """Say that the deadline has passed, and where."""
    where = f" at step {task.name!r}" if task is not None else ""
    return DeadlineExceeded(f"the request's time ran out{where}")


def loop_closed(task: Task) -> MlkitError:
    """Say that an async step has nowhere to run."""
    return MlkitError(
        "the event loop that runs its async steps is closed", where=f"step {task.name!r}"
    )
