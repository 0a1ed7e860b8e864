"""The executor: requests flow through a program's tasks on a pool of threads and one loop.

What runs here, offline and in a replica is this. Its rules:

- A free worker never waits while anything can run (work-conserving, no timers).
- A batch that is full goes first; then single items, those nearest to a result first; then
  batches that are not full. So batches fill while there is work to fill them with, a lone request
  never waits for company, and under load requests are finished before new ones are begun.
- An exception in a batch is traced to its item by halving: the others are not harmed.
- A request that is cancelled, late or failed is skipped wherever it is queued.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from time import perf_counter
from types import TracebackType
from typing import Any, NamedTuple

from mlkit.define.loop import background_loop
from mlkit.define.step import BatchedStep, running_step
from mlkit.errors import Cancelled, DeadlineExceeded, DefinitionError
from mlkit.execute.execution import Execution
from mlkit.execute.program import Program, Task

__all__ = ["Executor", "cores"]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Outcome(NamedTuple):
    """What one task gave for one request."""

    execution: Execution
    task: Task
    value: Any
    error: BaseException | None
    start: float
    finish: float
    size: int


class Job(NamedTuple):
    """What a worker runs next: one request, or the requests of a batch."""

    task: Task
    executions: list[Execution]


class Executor:
    """Runs requests through a program. Use it as a context manager, or `close` it.

    Args:
        workers: threads that run plain and batched steps; the cores of this process by default.
        loop: where async steps run; mlkit's background loop by default.
    """

    def __init__(
        self,
        program: Program,
        *,
        workers: int | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.program = program
        self.workers = workers or cores()
        self._loop = loop
        self._ready: list[deque[Execution]] = [deque() for _ in program.tasks]
        order = sorted(program.tasks, key=lambda task: -task.depth)
        self._batched = [task for task in order if task.batched]
        self._single = [task for task in order if not task.batched and not task.step.is_async]
        self._changed = threading.Condition(threading.Lock())
        self._idle = 0
        self._closed = False
        self._open: set[Execution] = set()
        self._handed: deque[tuple[asyncio.Future[Execution], Execution]] = deque()
        self._threads = [
            threading.Thread(target=self._work, name=f"mlkit-{program.graph.name}-{i}", daemon=True)
            for i in range(self.workers)
        ]
        for thread in self._threads:
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
            on_done: called once, from a thread of the executor or its loop, when it is finished.
            given: values of the program's given nodes.
            deadline: on `time.perf_counter`'s clock; past it the request fails.

        Raises:
            Cancelled: the executor is closed.
        """
        execution = Execution(self, arguments, given or {}, on_done, deadline)
        done: list[Execution] = []
        awaited: list[Task] = []
        with self._changed:
            if self._closed:
                raise Cancelled("the executor is closed")
            self._open.add(execution)
            for task in self.program.roots:
                self._push(execution, task, awaited, execution.began)
            if not self.program.tasks:
                self._finish(execution, None, None, done)
            self._wake(len(self.program.roots) - len(awaited))
        self._follow_up(done, [(execution, task) for task in awaited])
        return execution

    async def run(
        self, arguments: Mapping[str, Any], *, deadline: float | None = None
    ) -> Execution:
        """Run a request and return when it is finished; cancelling this gives the request up."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Execution] = loop.create_future()
        execution = self.submit(
            arguments, lambda done: self._hand_over(loop, future, done), deadline=deadline
        )
        try:
            return await future
        except asyncio.CancelledError:
            execution.cancel()
            raise

    def cancel(self, execution: Execution) -> None:
        """Give a request up; without effect on one that is finished."""
        done: list[Execution] = []
        with self._changed:
            self._finish(execution, None, Cancelled("given up by its caller"), done)
        self._follow_up(done, [])
        for task in list(execution.async_tasks):
            task.get_loop().call_soon_threadsafe(task.cancel)

    @property
    def in_flight(self) -> int:
        """Requests begun and not finished."""
        return len(self._open)

    def queued(self) -> dict[str, int]:
        """Requests waiting for each node, by its name."""
        return {task.name: len(self._ready[task.index]) for task in self.program.tasks}

    def close(self) -> None:
        """Give up what is going on and end the threads; a step that runs is waited for."""
        with self._changed:
            self._closed = True
            left = list(self._open)
            self._changed.notify_all()
        for execution in left:
            execution.cancel()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def __enter__(self) -> Executor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # ---- queues, under the lock -------------------------------------------------------------

    def _push(
        self, execution: Execution, task: Task, awaited: list[Task], now: float
    ) -> None:
        execution.ready_at[task.index] = now
        if task.step.is_async:
            awaited.append(task)
        else:
            self._ready[task.index].append(execution)

    def _wake(self, count: int) -> None:
        if count > 0 and self._idle:
            self._changed.notify(min(count, self._idle))

    def _pick(self, done: list[Execution]) -> Job | None:
        """The next job by the rules above; None where nothing can run."""
        for task in self._batched:
            if len(self._ready[task.index]) >= task.max_batch_size:
                job = self._take(task, done)
                if job:
                    return job
        for task in (*self._single, *self._batched):
            if self._ready[task.index]:
                job = self._take(task, done)
                if job:
                    return job
        return None

    def _take(self, task: Task, done: list[Execution]) -> Job | None:
        queue = self._ready[task.index]
        taken: list[Execution] = []
        while queue and len(taken) < (task.max_batch_size or 1):
            execution = queue.popleft()
            if execution.finished:
                continue
            if execution.expired:
                self._finish(execution, None, _late(task), done)
                continue
            taken.append(execution)
        return Job(task, taken) if taken else None

    def _record(
        self,
        outcomes: list[Outcome],
        done: list[Execution],
        awaited: list[tuple[Execution, Task]],
    ) -> int:
        """Take up outcomes; how many tasks can run now that could not before."""
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
            for index in task.downstream:
                execution.waiting[index] -= 1
                if not execution.waiting[index]:
                    here: list[Task] = []
                    self._push(execution, self.program.tasks[index], here, finish)
                    awaited += [(execution, t) for t in here]
                    woken += not here
        return woken

    def _finish(
        self,
        execution: Execution,
        task: Task | None,
        error: BaseException | None,
        done: list[Execution],
    ) -> None:
        if execution.finished:
            return
        execution.finished = True
        execution.ended = perf_counter()
        execution.failed = task
        self._open.discard(execution)
        if error is None:
            try:
                execution.output = self.program.output(execution.arguments, execution.results)
            except Exception as raised:
                error = raised
        if error is not None:
            execution.error = execution.failure(task, error)
        done.append(execution)

    # ---- outside the lock -------------------------------------------------------------------

    def _work(self) -> None:
        outcomes: list[Outcome] = []
        while True:
            job = self._next(outcomes)
            if job is None:
                return
            outcomes = self._call(job)

    def _next(self, outcomes: list[Outcome]) -> Job | None:
        """Take up what was done and get something to do; None when it is time to go."""
        while True:
            done: list[Execution] = []
            awaited: list[tuple[Execution, Task]] = []
            with self._changed:
                woken = self._record(outcomes, done, awaited)
                job = self._pick(done)
                self._wake(woken - 1)
                if job is None and not done and not awaited:
                    if self._closed:
                        return None
                    self._idle += 1
                    self._changed.wait()
                    self._idle -= 1
                    job = self._pick(done)
            outcomes = []
            self._follow_up(done, awaited)
            if job is not None:
                return job

    def _call(self, job: Job) -> list[Outcome]:
        task, executions = job
        if task.batched:
            return _call_batch(task, executions, perf_counter(), len(executions))
        execution = executions[0]
        return [execution.context.copy().run(_call_single, task, execution)]

    def _follow_up(
        self, done: list[Execution], awaited: list[tuple[Execution, Task]]
    ) -> None:
        for execution in done:
            execution.on_done(execution)
        if not awaited:
            return
        loop = self._loop or background_loop()
        if _running_loop() is loop:
            for execution, task in awaited:
                self._start_async(execution, task)
        else:
            loop.call_soon_threadsafe(self._start_all, awaited)

    def _start_all(self, awaited: list[tuple[Execution, Task]]) -> None:
        for execution, task in awaited:
            self._start_async(execution, task)

    def _start_async(self, execution: Execution, task: Task) -> None:
        if execution.finished:
            return
        started = asyncio.get_running_loop().create_task(
            self._await(execution, task), context=execution.context.copy()
        )
        execution.async_tasks.add(started)
        started.add_done_callback(execution.async_tasks.discard)

    async def _await(self, execution: Execution, task: Task) -> None:
        running_step.set(task.name)
        start = perf_counter()
        value, error = None, None
        try:
            value = await _within(execution.deadline, task, _coroutine(task, execution))
        except asyncio.CancelledError:
            if not execution.finished:
                self.cancel(execution)
            raise
        except BaseException as raised:
            error = raised
        done: list[Execution] = []
        awaited: list[tuple[Execution, Task]] = []
        outcome = Outcome(execution, task, value, error, start, perf_counter(), 1)
        with self._changed:
            self._wake(self._record([outcome], done, awaited))
        self._follow_up(done, awaited)

    def _hand_over(
        self,
        loop: asyncio.AbstractEventLoop,
        future: asyncio.Future[Execution],
        execution: Execution,
    ) -> None:
        if _running_loop() is loop:
            _settle(future, execution)
            return
        # One wake-up of the loop for all that finishes before it looks.
        first = not self._handed
        self._handed.append((future, execution))
        if first and not loop.is_closed():
            loop.call_soon_threadsafe(self._settle_all)

    def _settle_all(self) -> None:
        while self._handed:
            _settle(*self._handed.popleft())


def _settle(future: asyncio.Future[Execution], execution: Execution) -> None:
    if not future.done():  # a client that went away has cancelled it
        future.set_result(execution)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _late(task: Task) -> DeadlineExceeded:
    return DeadlineExceeded(f"the request's time ran out before step {task.name!r}")


def _coroutine(task: Task, execution: Execution) -> Coroutine[Any, Any, Any]:
    arguments, results = execution.arguments, execution.results
    values = {name: get(arguments, results) for name, get in task.inputs}
    coroutine: Coroutine[Any, Any, Any] = task.step.fn(**values, **task.resources)
    return coroutine


async def _within(
    deadline: float | None, task: Task, coroutine: Coroutine[Any, Any, Any]
) -> Any:
    if deadline is None:
        return await coroutine
    late = False
    try:
        async with asyncio.timeout(max(0.0, deadline - perf_counter())) as scope:
            try:
                return await coroutine
            finally:
                late = scope.expired()
    except TimeoutError as error:
        if late or scope.expired():
            raise _late(task) from None
        raise error


def _call_single(task: Task, execution: Execution) -> Outcome:
    """Run one request's task in this context; what it raises is its outcome."""
    running_step.set(task.name)
    start = perf_counter()
    value, error = None, None
    try:
        arguments, results = execution.arguments, execution.results
        values = {name: get(arguments, results) for name, get in task.inputs}
        value = task.step.fn(**values, **task.resources)
    except BaseException as raised:
        error = _trimmed(raised)
    return Outcome(execution, task, value, error, start, perf_counter(), 1)


def _call_batch(
    task: Task, executions: list[Execution], start: float, size: int
) -> list[Outcome]:
    """Run a batch; halve it where it raises, until the items at fault are alone."""
    step = task.step
    assert isinstance(step, BatchedStep)
    values: list[Any] = [None] * len(executions)
    error: BaseException | None = None
    token = running_step.set(task.name)
    try:
        columns = {
            name: [get(e.arguments, e.results) for e in executions] for name, get in task.inputs
        }
        values = step.call_batch(columns, dict(task.resources))
    except BaseException as raised:
        error = _trimmed(raised)
    finally:
        running_step.reset(token)
    # A wrong number of results is the step's fault, whatever its items.
    if error is not None and len(executions) > 1 and not isinstance(error, DefinitionError):
        middle = len(executions) // 2
        return [
            *_call_batch(task, executions[:middle], start, size),
            *_call_batch(task, executions[middle:], start, size),
        ]
    finish = perf_counter()
    return [
        Outcome(execution, task, value, error, start, finish, size)
        for execution, value in zip(executions, values, strict=True)
    ]


def _trimmed(error: BaseException) -> BaseException:
    """The exception with the executor's own frames taken off its traceback."""
    frame = error.__traceback__
    while frame is not None and frame.tb_frame.f_globals.get("__name__", "").startswith(
        ("mlkit.execute.", "mlkit.define.")
    ):
        frame = frame.tb_next
    return error.with_traceback(frame) if frame is not None else error
