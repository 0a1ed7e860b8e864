"""Calls that no worker makes: async steps on an event loop, generators in threads of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from mlkit.errors import MlkitError
from mlkit.execute.call import CallResult, call_async, call_streaming, call_streaming_async
from mlkit.execute.execution import Execution, Work, deadline_passed
from mlkit.execute.program import Program, Task

__all__ = ["Caller", "cancel", "start"]


class Caller(Protocol):
    """The executor that the calls belong to.

    Attributes:
        program: the program that it runs.
        streaming: threads of generators that run.
    """

    program: Program
    streaming: set[threading.Thread]

    @property
    def async_loop(self) -> asyncio.AbstractEventLoop:
        """Event loop of async steps."""

    def post(self, loop: asyncio.AbstractEventLoop, call: Callable[..., None], *args: Any) -> bool:
        """Make a call in a loop; False if it is closed."""

    def record(self, task: Task, outcome: CallResult) -> None:
        """Record the outcome of a call."""

    def fail(self, execution: Execution, error: BaseException, task: Task | None = None) -> None:
        """End a request with an error; no effect on a finished one."""

    def add_item(
        self, execution: Execution, task: Task, item: Any, resume: Callable[[], object]
    ) -> bool:
        """Add an item; return whether its generator has to wait for ``resume`` to be called."""


def start(caller: Caller, work: Work, task: Task) -> None:
    """Start the call of an async or streaming step."""
    if not task.step.is_async:
        _start_thread(caller, work.root, task)
    elif not caller.post(caller.async_loop, _start_async, caller, work, task):
        where = f"step {task.name!r}"
        caller.fail(work.root, MlkitError("its event loop is closed", where=where))


def cancel(caller: Caller, execution: Execution) -> None:
    """Cancel the async calls of a request."""
    caller.post(caller.async_loop, _cancel_tasks, execution)


def _cancel_tasks(execution: Execution) -> None:
    for task in list(execution.async_tasks):
        task.cancel()


# ---- in threads -----------------------------------------------------------------------------


def _start_thread(caller: Caller, execution: Execution, task: Task) -> None:
    if execution.expired:
        caller.fail(execution, deadline_passed(task))
    if execution.finished:
        return
    thread = threading.Thread(
        target=execution.context.copy().run,
        args=(_stream, caller, execution, task),
        name=f"mlkit-{caller.program.graph.name}-{task.name}",
        daemon=True,
    )
    caller.streaming.add(thread)
    try:
        thread.start()
    except RuntimeError as error:  # there are too many
        caller.streaming.discard(thread)
        caller.fail(execution, error, task)


def _stream(caller: Caller, execution: Execution, task: Task) -> None:
    alarm = threading.Lock()
    alarm.acquire()
    deliver = partial(_deliver, caller, execution, task, alarm)
    outcome = call_streaming(task, execution, deliver)
    try:
        caller.record(task, outcome)
    finally:
        del outcome, deliver, execution  # since Python 3.12, an error's traceback keeps this frame
    caller.streaming.discard(threading.current_thread())


def _deliver(
    caller: Caller, execution: Execution, task: Task, alarm: threading.Lock, item: Any
) -> bool:
    if caller.add_item(execution, task, item, alarm.release):
        alarm.acquire()
    return not execution.finished


# ---- in the loop ----------------------------------------------------------------------------


def _start_async(caller: Caller, work: Work, task: Task) -> None:
    execution = work.root
    if execution.expired:
        caller.fail(execution, deadline_passed(task))
    started = asyncio.get_running_loop().create_task(
        _await(caller, work, task), context=execution.context.copy()
    )
    execution.async_tasks.add(started)
    started.add_done_callback(partial(_ended, caller, execution, task))
    if execution.finished:  # it may have ended before this task was registered
        started.cancel()


async def _await(caller: Caller, work: Work, task: Task) -> None:
    outcome: CallResult | None
    if task.streams:
        outcome = await _stream_async(caller, work.root, task)
    else:
        outcome = await call_async(task, work)
    work.root.async_tasks.difference_update({asyncio.current_task()})
    if outcome is None:
        caller.fail(work.root, deadline_passed(task))
        return
    del work
    try:
        caller.record(task, outcome)
    finally:
        del outcome  # since Python 3.12, an error's traceback keeps this frame


async def _stream_async(caller: Caller, execution: Execution, task: Task) -> CallResult:
    deliver = partial(_deliver_async, caller, execution, task, asyncio.Event())
    try:
        return await call_streaming_async(task, execution, deliver)
    finally:
        del execution, deliver  # as in `_stream`


async def _deliver_async(
    caller: Caller, execution: Execution, task: Task, room: asyncio.Event, item: Any
) -> bool:
    loop = asyncio.get_running_loop()
    room.clear()
    if caller.add_item(execution, task, item, partial(caller.post, loop, room.set)):
        await room.wait()
    return not execution.finished


def _ended(caller: Caller, execution: Execution, task: Task, ended: asyncio.Task[None]) -> None:
    execution.async_tasks.discard(ended)
    if ended.cancelled():  # by a loop that shuts down, or before it started
        execution.cancel()
    elif (error := ended.exception()) is not None:  # outside of the step, as on the workers
        caller.fail(execution, error, task)
