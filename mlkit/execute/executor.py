"""The executor: requests flow through a program's tasks on a pool of threads and one loop.

What runs here, offline and in a replica is this. Its rules:

- A free worker never waits while anything can run (work-conserving, no timers).
- What it takes next, `queues.py` says: batches fill while there is work to fill them with, a lone
  request never waits for company, and under load requests are finished before new ones are begun.
- An exception in a batch is traced to its item by halving: the others are not harmed.
- A request that is cancelled, late or failed is skipped wherever it is queued, and its async steps
  are cancelled. A plain function that runs cannot be stopped: what it gives is dropped.
- Single and async steps see the context variables of whoever submitted the request, batched ones
  those of whoever made the executor.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from time import perf_counter
from types import TracebackType
from typing import Any

from mlkit.define.loop import background_loop
from mlkit.errors import Cancelled, InputError
from mlkit.execute.call import Outcome, call_async, call_batch, call_single
from mlkit.execute.cores import default_workers
from mlkit.execute.ends import deadline_passed, loop_closed
from mlkit.execute.execution import Execution
from mlkit.execute.mailbox import Mailboxes
from mlkit.execute.program import Program, Task
from mlkit.execute.queues import Job, Queues

__all__ = ["Executor"]

logger = logging.getLogger(__name__)


class Executor:
    """Runs requests through a program. Use it as a context manager, or `close` it.

    Args:
        program: what to run.
        workers: threads that run plain and batched steps; `default_workers` by default.
        loop: where async steps run; mlkit's background loop by default.

    Raises:
        InputError: fewer than one worker.
    """

    def __init__(
        self,
        program: Program,
        *,
        workers: int | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if workers is not None and workers < 1:
            raise InputError("workers are threads, at least 1", got=repr(workers))
        self.program = program
        self.workers = workers or default_workers()
        self._loop = loop
        self._context = contextvars.copy_context()
        self._queues = Queues(program)
        # Plain locks only: an interrupt that comes while one written in Python is being taken can
        # leave it taken.
        self._lock = threading.Lock()
        self._alarms = [threading.Lock() for _ in range(self.workers)]
        self._asleep: list[threading.Lock] = []
        self._given_up = 0
        self._closed = False
        self._open: set[Execution] = set()
        self._loops = Mailboxes()
        name = f"mlkit-{program.graph.name}"
        self._threads = [
            threading.Thread(target=self._work, args=(alarm,), name=f"{name}-{i}", daemon=True)
            for i, alarm in enumerate(self._alarms)
        ]
        for alarm, thread in zip(self._alarms, self._threads, strict=True):
            alarm.acquire()
            thread.start()

    # ---- what callers use -------------------------------------------------------------------

    def submit(
        self,
        arguments: Mapping[str, Any],
        on_done: Callable[[Execution], None],
        *,
        given: Mapping[str, Any] | None = None,
        deadline: float | None = None,
    ) -> Execution:
        """Start a request.

        Args:
            arguments: those of the pipeline, by name.
            on_done: called exactly once when it is finished: from a thread of the executor, from
                the loop, or from whoever cancels it. It may submit and cancel, but not block.
            given: values of the program's given nodes.
            deadline: on `time.perf_counter`'s clock; past it no step of the request is started, an
                async one is cancelled, and the request fails.

        Raises:
            Cancelled: the executor is closed.
        """
        execution = Execution(self, arguments, given or {}, on_done, deadline)
        done: list[Execution] = []
        awaited: list[tuple[Execution, Task]] = []
        with self._lock:
            if self._closed:
                raise Cancelled("the executor is closed")
            self._open.add(execution)
            self._wake(self._push(execution, self.program.roots, execution.began, awaited))
            if not self.program.tasks:
                self._finish(execution, None, None, done)
        self._follow_up(done, awaited)
        return execution

    async def run(
        self, arguments: Mapping[str, Any], *, deadline: float | None = None
    ) -> Execution:
        """Run a request and return when it is finished; cancelling this gives the request up.

        May be called from any loop. Unlike `submit`, it ends at the deadline even where a step
        that cannot be stopped is still running.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Execution] = loop.create_future()

        def on_done(execution: Execution) -> None:
            self._loops.post(loop, _settle, future, execution)  # where it is closed, nobody waits

        execution = self.submit(arguments, on_done, deadline=deadline)
        left = execution.left_s
        timer = None if left is None else loop.call_later(left, self._expire, execution)
        try:
            return await future
        except BaseException:  # cancelled, or its loop is done with it
            execution.cancel()
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def cancel(self, execution: Execution) -> None:
        """Give a request up; without effect on one that is finished."""
        self._give_up(execution, Cancelled("given up by its caller"))

    @property
    def in_flight(self) -> int:
        """Requests begun and not finished."""
        return len(self._open)

    def queued(self) -> dict[str, int]:
        """Requests waiting for each node that runs on the workers, by its name."""
        with self._lock:
            waiting = self._queues.waiting()
        return {task.name: waiting[task.index] for task in self.program.tasks}

    def close(self, *, wait: bool = True) -> None:
        """Give up what is going on and end the threads.

        Args:
            wait: return when the functions that run now have returned (Python cannot stop them);
                without effect where one of them calls this.
        """
        with self._lock:
            self._closed = True
            left = list(self._open)
            self._asleep.clear()
            for alarm in self._alarms:
                if alarm.locked():
                    alarm.release()
        for execution in left:
            execution.cancel()
        if wait and threading.current_thread() not in self._threads:
            for thread in self._threads:
                thread.join()

    def __enter__(self) -> Executor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Whoever interrupts wants to go on now, not when a long step is through. And who closed it
        # before has decided that for himself.
        self.close(wait=not self._closed and not isinstance(error, KeyboardInterrupt))

    # ---- under the lock ---------------------------------------------------------------------

    def _push(
        self,
        execution: Execution,
        tasks: Iterable[Task],
        now: float,
        awaited: list[tuple[Execution, Task]],
    ) -> int:
        """Queue tasks of a request that can run now; how many of them are for the workers."""
        count = 0
        for task in tasks:
            execution.ready_at[task.index] = now
            if task.step.is_async:
                awaited.append((execution, task))
            else:
                self._queues.push(task, execution)
                count += 1
        return count

    def _wake(self, count: int) -> None:
        while count > 0 and self._asleep:
            self._asleep.pop().release()
            count -= 1

    def _pick(self, done: list[Execution]) -> Job | None:
        late: list[tuple[Execution, Task]] = []
        job = self._queues.pick(late)
        for execution, task in late:
            self._finish(execution, None, deadline_passed(task), done)
        return job

    def _record(
        self,
        outcomes: Iterable[Outcome],
        done: list[Execution],
        awaited: list[tuple[Execution, Task]],
    ) -> int:
        """Take up outcomes; how many jobs there are for the workers that were not there before."""
        woken = 0
        for execution, task, value, error, start, finish, size in outcomes:
            if execution.finished:
                continue
            execution.spans[task.index] = (start, finish, size)
            if error is not None:
                self._finish(execution, task, error, done)
                continue
            execution.results[task.name] = value
            execution.left -= 1
            if not execution.left:
                self._finish(execution, None, None, done)
                continue
            ready = execution.release(task)
            if ready:
                woken += self._push(execution, ready, finish, awaited)
        return woken

    def _finish(
        self,
        execution: Execution,
        task: Task | None,
        error: BaseException | None,
        done: list[Execution],
    ) -> None:
        """End a request; what a task raised is wrapped later, in `Execution.settle`."""
        if execution.finished:
            return
        execution.finished = True
        execution.ended = perf_counter()
        execution.failed = task
        execution.error = error
        self._open.discard(execution)
        done.append(execution)
        if error is not None:
            self._given_up += 1
            # So rarely that it costs next to nothing for each, so often that they do not pile up.
            if self._given_up > 64 + len(self._open):
                self._given_up = 0
                self._queues.sweep()

    # ---- on the workers ---------------------------------------------------------------------

    def _work(self, alarm: threading.Lock) -> None:
        outcomes: list[Outcome] = []
        while True:
            job = self._next(outcomes, alarm)
            if job is None:
                return
            task, executions = job
            context = (self._context if task.batched else executions[0].context).copy()
            try:
                if task.batched:
                    outcomes = context.run(call_batch, task, executions)
                else:
                    outcomes = [context.run(call_single, task, executions[0])]
            except BaseException as error:  # beside the step: no memory, an exception that resists
                now = perf_counter()
                outcomes = [Outcome(e, task, None, error, now, now, 1) for e in executions]
            del job, executions, context  # nothing is kept of it while this waits for more

    def _next(self, outcomes: list[Outcome], alarm: threading.Lock) -> Job | None:
        """Take up what was done and get something to do; None when it is time to go."""
        while True:
            done: list[Execution] = []
            awaited: list[tuple[Execution, Task]] = []
            with self._lock:
                woken = self._record(outcomes, done, awaited)
                outcomes.clear()
                job = self._pick(done)
                if job is not None:
                    self._wake(woken - 1)
                elif not done and not awaited:
                    if self._closed:
                        return None
                    self._asleep.append(alarm)
            if job is None and not done and not awaited:
                alarm.acquire()
                continue
            self._follow_up(done, awaited)
            if job is not None:
                return job

    # ---- anywhere, outside the lock ---------------------------------------------------------

    def _expire(self, execution: Execution) -> None:
        self._give_up(execution, deadline_passed())

    def _give_up(
        self, execution: Execution, error: BaseException, task: Task | None = None
    ) -> None:
        done: list[Execution] = []
        with self._lock:
            self._finish(execution, task, error, done)
        self._follow_up(done, [])

    def _follow_up(self, done: Iterable[Execution], awaited: list[tuple[Execution, Task]]) -> None:
        for execution in done:
            execution.settle()
            if execution.async_tasks:
                self._loops.post(self._async_loop, _cancel_async, execution)
            try:
                execution.on_done(execution)
            except KeyboardInterrupt:
                raise
            except BaseException:  # nobody is left whom it concerns, and the worker has to live
                logger.exception("on_done of a request to %r raised", self.program.graph.name)
        for execution, task in awaited:
            if not self._loops.post(self._async_loop, self._start_async, execution, task):
                self._give_up(execution, loop_closed(task))

    @property
    def _async_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop or background_loop()

    # ---- in the loop ------------------------------------------------------------------------

    def _start_async(self, execution: Execution, task: Task) -> None:
        if execution.expired:
            self._give_up(execution, deadline_passed(task))
        started = asyncio.get_running_loop().create_task(
            self._await(execution, task), context=execution.context.copy()
        )
        execution.async_tasks.add(started)
        started.add_done_callback(lambda ended: self._async_ended(execution, task, ended))
        if execution.finished:  # whoever ended it may not have seen this one
            started.cancel()

    async def _await(self, execution: Execution, task: Task) -> None:
        outcome = await call_async(task, execution)
        execution.async_tasks.discard(_this_task())
        if outcome is None:
            self._give_up(execution, deadline_passed(task))
            return
        done: list[Execution] = []
        awaited: list[tuple[Execution, Task]] = []
        with self._lock:
            self._wake(self._record([outcome], done, awaited))
        del outcome
        self._follow_up(done, awaited)

    def _async_ended(self, execution: Execution, task: Task, ended: asyncio.Task[None]) -> None:
        execution.async_tasks.discard(ended)
        if ended.cancelled():  # perhaps by a loop that is shut down, perhaps before it began
            execution.cancel()
        elif (error := ended.exception()) is not None:  # beside the step, as on the workers
            self._give_up(execution, error, task)


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


def _cancel_async(execution: Execution) -> None:
    for task in list(execution.async_tasks):
        task.cancel()


def _settle(future: asyncio.Future[Execution], execution: Execution) -> None:
    if not future.done():  # a client that went away has cancelled it
        future.set_result(execution)
