"""Calls of step functions: single, batched, async and streaming.

All exceptions of a step become outcomes, `SystemExit` included: none reaches the worker thread or
the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import aclosing, closing, nullcontext
from time import perf_counter
from types import CoroutineType, FrameType
from typing import Any, NamedTuple

from mlkit.define.fresh import fresh, separate
from mlkit.define.step import BatchedStep, not_awaited, running_step
from mlkit.define.turn import in_turn, in_turn_async
from mlkit.errors import Cancelled, DefinitionError
from mlkit.execute.execution import Part, Work, deadline_passed
from mlkit.execute.program import Task

__all__ = [
    "CallResult",
    "call_async",
    "call_batch",
    "call_single",
    "call_streaming",
    "call_streaming_async",
]


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
        if task.turns:
            value = _exclusive(task, execution)
        else:
            value = task.step.fn(**_inputs(task, execution), **task.resources)
        if isinstance(value, CoroutineType):
            raise not_awaited(task.name, value)
        if task.conform is not None:
            value = task.conform(value)
    except BaseException as raised:
        try:
            return CallResult(execution, task, None, _trimmed(raised), start, perf_counter(), 1)
        finally:
            del execution  # the traceback keeps this frame alive, which must not hold the request
    return CallResult(execution, task, value, None, start, perf_counter(), 1)


def _exclusive(task: Task, execution: Work) -> Any:
    try:
        with in_turn(task.turns):
            _check_open(task, execution)
            return task.step.fn(**_inputs(task, execution), **task.resources)
    finally:
        del execution  # the traceback of an error keeps this frame alive


def _check_open(task: Task, execution: Work) -> None:
    """Check that a request neither ended nor became late while it waited for its turn."""
    try:
        if execution.root.finished:
            raise Cancelled("the request has ended")
        if execution.expired:
            raise deadline_passed(task)
    finally:
        del execution  # as above


def call_batch(task: Task, executions: list[Work], sizes: list[int]) -> list[CallResult]:
    """Run a batch in this context; bisect it if it raises, to isolate the failing items.

    Args:
        task: the batched task.
        executions: the requests in the batch.
        sizes: receives the number of items of each call.
    """
    running_step.set(task.name)
    start = perf_counter()
    late: list[CallResult] = []
    try:
        if not task.turns:
            return _call_batch(task, executions, sizes, start)
        with in_turn(task.turns):
            return _call_batch(task, _in_time(task, executions, start, late), sizes, start) + late
    finally:  # as above: a traceback may keep this frame alive
        del executions, late


def _in_time(
    task: Task, executions: list[Work], start: float, late: list[CallResult]
) -> list[Work]:
    """Return the requests that have not ended while they waited for their turn.

    Args:
        task: the task.
        executions: the requests of a batch.
        start: when they began to wait.
        late: receives the results of those that are past their deadline.
    """
    left: list[Work] = []
    for execution in executions:
        if not execution.finished and execution.expired:
            error, now = deadline_passed(task), perf_counter()
            late.append(CallResult(execution, task, None, error, start, now, 1))
        elif not execution.finished:
            left.append(execution)
    return left


def _call_batch(
    task: Task, executions: list[Work], sizes: list[int], start: float
) -> list[CallResult]:
    size = len(executions)
    if not size:
        return []
    outcomes: list[CallResult] = []
    parts = [executions]
    while parts:
        part = parts.pop()
        sizes.append(len(part))
        values, error, divisible = _attempt(task, part)
        if error is None or len(part) == 1 or not (task.splits and divisible):
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


def _attempt(task: Task, executions: list[Work]) -> tuple[list[Any], BaseException | None, bool]:
    """Return one result per request and None, or as many Nones and the exception.

    The last value is whether the exception may be that of one item.
    """
    step, size = task.step, len(executions)
    assert isinstance(step, BatchedStep)
    returned = False
    try:
        columns = {
            name: [get(e.arguments, e.results) for e in executions] for name, get in task.inputs
        }
        if task.each is not None:
            columns[task.each] = [e.item for e in executions if isinstance(e, Part)]
        # Copied anew where a batch that failed is split: it may have changed its items.
        for name in columns.keys() & task.changes:
            columns[name] = list(map(separate, columns[name]))
        defaults = {name: fresh(default) for name, default in task.defaults.items()}
        results = step.call_unchecked(columns, {**task.resources, **task.keep(defaults)})
        returned = True
        values = step.split(results, size)
        if len(values) != size:  # len() may differ from the number of items iterated: a DataFrame
            raise DefinitionError(f"{len(values)} results for {size} items")
    except BaseException as raised:
        del executions
        # A wrong number of results is an error of the step, not of an item.
        of_step = returned and isinstance(raised, DefinitionError)
        return [None] * size, _trimmed(raised), not of_step
    return values, None, False


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
            if task.turns:
                async with in_turn_async(task.turns):
                    value = await task.step.fn(**_inputs(task, execution), **task.resources)
            else:
                value = await task.step.fn(**_inputs(task, execution), **task.resources)
        if task.conform is not None:
            value = task.conform(value)
    except BaseException as raised:
        if isinstance(raised, asyncio.CancelledError) and _is_cancelled():
            raise
        if isinstance(raised, TimeoutError) and scope.expired():
            return None
        try:
            return CallResult(execution, task, None, _trimmed(raised), start, perf_counter(), 1)
        finally:
            del execution
    finally:
        running_step.reset(token)
    return CallResult(execution, task, value, None, start, perf_counter(), 1)


def call_streaming(task: Task, execution: Work, deliver: Callable[[Any], bool]) -> CallResult:
    """Run one request's generator in this thread and context, and close it.

    Args:
        task: the task.
        execution: the request.
        deliver: takes each item; False ends the generator early.
    """
    running_step.set(task.name)
    start = perf_counter()
    conform = task.conform
    try:
        with in_turn(task.turns):
            _check_open(task, execution)
            items = iter(task.step.fn(**_inputs(task, execution), **task.resources))
            with closing(items) if isinstance(items, Generator) else nullcontext():
                for item in items:
                    item = item if conform is None else conform(item)
                    if not deliver(fresh(item)):  # it may be changed while it waits
                        break
    except BaseException as raised:
        try:
            return CallResult(execution, task, None, _trimmed(raised), start, perf_counter(), 1)
        finally:
            del execution, deliver
    return CallResult(execution, task, None, None, start, perf_counter(), 1)


async def call_streaming_async(
    task: Task, execution: Work, deliver: Callable[[Any], Awaitable[bool]]
) -> CallResult:
    """Run one request's async generator in this task and context, and close it.

    Raises:
        asyncio.CancelledError: this call was cancelled.
    """
    running_step.set(task.name)
    start = perf_counter()
    conform = task.conform
    try:
        async with in_turn_async(task.turns):
            _check_open(task, execution)
            async with aclosing(
                task.step.fn(**_inputs(task, execution), **task.resources)
            ) as items:
                async for item in items:
                    item = item if conform is None else conform(item)
                    if not await deliver(fresh(item)):
                        break
    except BaseException as raised:
        if isinstance(raised, asyncio.CancelledError) and _is_cancelled():
            raise
        try:
            return CallResult(execution, task, None, _trimmed(raised), start, perf_counter(), 1)
        finally:
            del execution, deliver
    return CallResult(execution, task, None, None, start, perf_counter(), 1)


def _inputs(task: Task, execution: Work) -> dict[str, Any]:
    arguments, results = execution.arguments, execution.results
    inputs = {name: get(arguments, results) for name, get in task.inputs}
    if task.defaults:
        inputs |= {name: fresh(default) for name, default in task.defaults.items()}
    if task.each is not None:
        assert isinstance(execution, Part)
        inputs[task.each] = execution.item
    return task.keep(inputs) if task.changes else inputs


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
