"""Calls of step functions: single, batched and async.

All exceptions of a step become outcomes, `SystemExit` included: none reaches the worker thread or
the event loop.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from types import FrameType
from typing import Any, NamedTuple

from mlkit.define.step import BatchedStep, running_step
from mlkit.errors import DefinitionError
from mlkit.execute.execution import Part, Work
from mlkit.execute.program import Task

__all__ = ["CallResult", "call_async", "call_batch", "call_single"]


class CallResult(NamedTuple):
    """Result of one task for one request."""

    execution: Work
    task: Task
    value: Any
    error: BaseException | None
    start: float
    finish: float
    size: int


def call_single(task: Task, execution: Work) -> CallResult:
    """Run one request's task in this context."""
    running_step.set(task.name)
    start = perf_counter()
    try:
        value = task.step.fn(**_inputs(task, execution), **task.resources)
        if task.conform is not None:
            value = task.conform(value)
    except BaseException as raised:
        outcome = CallResult(execution, task, None, _trimmed(raised), start, perf_counter(), 1)
        try:
            return outcome
        finally:
            # The traceback keeps this frame alive, which must not hold the request, nor a
            # reference cycle through it.
            del execution, outcome
    return CallResult(execution, task, value, None, start, perf_counter(), 1)


def call_batch(task: Task, executions: list[Work], sizes: list[int]) -> list[CallResult]:
    """Run a batch in this context; bisect it if it raises, to isolate the failing items.

    Args:
        task: the batched task.
        executions: the requests in the batch.
        sizes: receives the number of items of each call.
    """
    running_step.set(task.name)
    start, size = perf_counter(), len(executions)
    outcomes: list[CallResult] = []
    parts = [executions]
    while parts:
        part = parts.pop()
        sizes.append(len(part))
        values, error = _attempt(task, part)
        # A wrong number of results is an error of the step, not of an item.
        whole = len(part) == 1 or not task.splits or isinstance(error, DefinitionError)
        if error is None or whole:
            finish = perf_counter()
            outcomes += [
                _conformed(CallResult(execution, task, value, error, start, finish, size))
                for execution, value in zip(part, values, strict=True)
            ]
            continue
        middle = len(part) // 2
        left = [[e for e in half if not e.finished] for half in (part[middle:], part[:middle])]
        parts += [half for half in left if half]
    try:
        return outcomes
    finally:  # as above: a traceback may keep this frame alive
        del executions, outcomes, part, values, error


def _conformed(result: CallResult) -> CallResult:
    """Check a result against the step's annotation: a wrong one fails alone."""
    conform = result.task.conform
    if result.error is not None or conform is None:
        return result
    try:
        value = conform(result.value)
        return result if value is result.value else result._replace(value=value)
    except DefinitionError as error:
        return result._replace(value=None, error=error)


def _attempt(task: Task, executions: list[Work]) -> tuple[list[Any], BaseException | None]:
    """Return one result per request and None, or as many Nones and the exception."""
    step, size = task.step, len(executions)
    assert isinstance(step, BatchedStep)
    try:
        columns = {
            name: [get(e.arguments, e.results) for e in executions] for name, get in task.inputs
        }
        if task.each is not None:
            columns[task.each] = [e.item for e in executions if isinstance(e, Part)]
        values = step.call_batch(columns, dict(task.resources))
        if len(values) != size:  # len() may differ from the number of items iterated: a DataFrame
            raise DefinitionError(f"{len(values)} results for {size} items")
    except BaseException as raised:
        del executions
        return [None] * size, _trimmed(raised)
    return values, None


async def call_async(task: Task, execution: Work) -> CallResult | None:
    """Run one request's async task; return None if the request's deadline passed.

    Raises:
        asyncio.CancelledError: this call was cancelled; one that the step itself raises is an
            outcome.
    """
    token = running_step.set(task.name)
    start = perf_counter()
    try:
        async with asyncio.timeout(execution.left_s) as scope:
            value = await task.step.fn(**_inputs(task, execution), **task.resources)
        if task.conform is not None:
            value = task.conform(value)
    except BaseException as raised:
        if isinstance(raised, asyncio.CancelledError) and _is_cancelled():
            raise
        if isinstance(raised, TimeoutError) and scope.expired():
            return None
        outcome = CallResult(execution, task, None, _trimmed(raised), start, perf_counter(), 1)
        try:
            return outcome
        finally:
            del execution, outcome
    finally:
        running_step.reset(token)
    return CallResult(execution, task, value, None, start, perf_counter(), 1)


def _inputs(task: Task, execution: Work) -> dict[str, Any]:
    arguments, results = execution.arguments, execution.results
    inputs = {name: get(arguments, results) for name, get in task.inputs}
    if task.each is not None:
        assert isinstance(execution, Part)
        inputs[task.each] = execution.item
    return inputs


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _trimmed(error: BaseException) -> BaseException:
    """Strip mlkit's own frames from the head of an exception's traceback."""
    frame = error.__traceback__
    while frame is not None and _is_ours(frame.tb_frame):
        frame = frame.tb_next
    return error.with_traceback(frame) if frame is not None else error


def _is_ours(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__"))
    return module.startswith(("mlkit.execute.", "mlkit.define."))
