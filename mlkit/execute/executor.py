"""The executor: runs requests through a program on worker threads and an event loop.

The same executor runs single calls, offline maps and served replicas:

- An idle worker takes a job as soon as one is ready. There are no timers, except for steps with a
  ``batch_wait_timeout_s``.
- `queues.py` decides what runs next: batches fill from what is queued, a single request never waits
  for others, under load started requests finish before new ones start, and the oldest request runs
  first if batches do not pay.
- If a batch raises, it is bisected to isolate the failing item; the others succeed. With
  ``split_failed_batches=False``, the whole batch fails.
- Requests that are cancelled, failed or past their deadline are skipped in all queues, and their
  async steps are cancelled. A running plain function cannot be stopped; its result is discarded.
- A step that streams runs in a thread of its own, from its first item to its last, or on the event
  loop if it is async; it waits when it is a few items ahead of the consumer. See `items.py`.
- Single, async and streaming steps run in the context of the caller that submitted the request,
  batched steps in the context in which the executor was created.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable, Mapping
from math import inf
from time import perf_counter
from types import TracebackType
from typing import Any

from mlkit.define.loop import background_loop
from mlkit.errors import Cancelled, InputError
from mlkit.execute import unqueued
from mlkit.execute.buffer import Buffer
from mlkit.execute.call import CallResult, call_batch, call_single
from mlkit.execute.cores import default_workers, usual_workers
from mlkit.execute.execution import Execution, Work, deadline_passed
from mlkit.execute.flow import After, Flow
from mlkit.execute.mailbox import Mailboxes
from mlkit.execute.priority import Priority
from mlkit.execute.program import Program, Task
from mlkit.execute.queues import Job

__all__ = ["Executor"]

logger = logging.getLogger(__name__)


class Executor:
    """Runs requests through a program. Use it as a context manager, or `close` it.

    Args:
        program: a compiled graph.
        workers: threads for plain and batched steps; by default `default_workers`, of which only
            `usual_workers` are busy while calls are short and queues do not grow.
        loop: event loop for async steps; mlkit's background loop by default.

    Attributes:
        streaming: threads of generators that run.
        submitted: number of requests since the start.

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
            raise InputError(
                "too few threads", where="workers", expected="at least 1", got=repr(workers)
            )
        self.program = program
        self.workers = workers or default_workers()
        self._context = contextvars.copy_context()
        self._flow = Flow(program, self.workers, workers or usual_workers())
        # Plain locks only: an interrupt during the acquisition of a lock implemented in Python can
        # leave it locked.
        self._lock = threading.Lock()
        self._alarms = [threading.Lock() for _ in range(self.workers)]
        # Wake-up time of each idle worker; the last to fall asleep is woken first.
        self._asleep: dict[threading.Lock, float] = {}
        # The job of each worker: a running call keeps it after its request has ended.
        self._in_hand: list[list[Work] | None] = [None] * self.workers
        self._closed = False
        self._loop = loop
        self._loops = Mailboxes()
        self.streaming: set[threading.Thread] = set()
        self.submitted = 0
        name = f"mlkit-{program.graph.name}"
        self._threads = [
            threading.Thread(target=self._work, args=(i, alarm), name=f"{name}-{i}", daemon=True)
            for i, alarm in enumerate(self._alarms)
        ]
        for alarm, thread in zip(self._alarms, self._threads, strict=True):
            alarm.acquire()
            thread.start()

    # ---- public -----------------------------------------------------------------------------

    def submit(
        self,
        arguments: Mapping[str, Any],
        on_done: Callable[[Execution], object],
        *,
        given: Mapping[str, Any] | None = None,
        deadline: float | None = None,
        on_node: Callable[[str, Any], None] | None = None,
        buffer: Buffer | None = None,
        priority: Priority = Priority.INTERACTIVE,
    ) -> Execution:
        """Start a request.

        Args:
            arguments: arguments of the pipeline, by name.
            on_done: called exactly once when the request is finished, in a worker thread, the event
                loop, or the thread that cancels it. It may submit and cancel, but not block.
            given: values of the program's given nodes.
            deadline: on the clock of `time.perf_counter`; past it no step of the request starts,
                its async steps are cancelled, and the request fails.
            on_node: called with name and value of each finished node, in order and before
                ``on_done``; under the same rules.
            buffer: takes the items of a result that streams, for `take`; without it, the result is
                the list of them.
            priority: class of the request; see `mlkit.execute.priority`.

        Raises:
            Cancelled: the executor is closed.
        """
        execution = Execution(
            self.program,
            self.cancel,
            arguments,
            given or {},
            on_done,
            deadline,
            on_node,
            buffer,
            priority,
        )
        after = After()
        with self._lock:
            if self._closed:
                raise Cancelled("the executor is closed")
            self.submitted += 1
            self._flow.begin(execution, after)
            if after.ready:
                self._wake()
        self._follow_up(after)
        return execution

    async def run(
        self,
        arguments: Mapping[str, Any],
        *,
        given: Mapping[str, Any] | None = None,
        deadline: float | None = None,
        on_node: Callable[[str, Any], None] | None = None,
        priority: Priority = Priority.INTERACTIVE,
    ) -> Execution:
        """Run a request and return it when it is finished; cancelling this cancels the request.

        May be called from any loop. Unlike `submit`, it ends at the deadline even if a plain
        function is still running.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Execution] = loop.create_future()

        def on_done(execution: Execution) -> None:
            self._loops.post(
                loop, _settle, future, execution
            )  # if it is closed, no one awaits the result

        execution = self.submit(
            arguments,
            on_done,
            given=given,
            deadline=deadline,
            on_node=on_node,
            priority=priority,
        )
        left = execution.left_s
        timer = None if left is None else loop.call_later(left, self.expire, execution)
        try:
            return await future
        except BaseException:  # cancelled, or the loop is closing
            execution.cancel()
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def take(self, execution: Execution) -> list[Any]:
        """Take the items of a request that streams; its generator goes on if it waits."""
        assert execution.buffer is not None
        with self._lock:
            items, resume = execution.buffer.take()
            if items and (deadline := execution.buffer.deadline()) is not None:
                execution.deadline = deadline
        if resume is not None:
            resume()
        return items

    def cancel(self, execution: Execution) -> None:
        """Cancel a request; no effect on a finished one."""
        self.fail(execution, Cancelled("cancelled by its caller"))

    def expire(self, execution: Execution) -> None:
        """End a request at its deadline; no effect on a finished one."""
        self.fail(execution, deadline_passed())

    def post(self, loop: asyncio.AbstractEventLoop, call: Callable[..., None], *args: Any) -> bool:
        """Make a call in a loop, at once if it runs in this thread; False if it is closed."""
        return self._loops.post(loop, call, *args)

    @property
    def max_busy(self) -> int:
        """Maximum number of workers that make calls at a time; all of them by default."""
        return self._flow.queues.max_busy

    @max_busy.setter
    def max_busy(self, workers: int) -> None:
        with self._lock:
            self._flow.queues.max_busy = min(workers, self.workers)
            self._wake()

    @property
    def async_loop(self) -> asyncio.AbstractEventLoop:
        """Event loop of async steps."""
        return self._loop or background_loop()

    @property
    def in_flight(self) -> int:
        """Number of requests submitted and not finished."""
        return len(self._flow.open)

    def abandoned(self, after_s: float = 0.0) -> int:
        """Count the workers held by abandoned calls.

        Their requests were cancelled or are late; Python cannot stop the functions.

        Args:
            after_s: count only calls whose requests came longer ago than this, in seconds.
        """
        came = perf_counter() - after_s
        return sum(
            all(item.root.finished and item.root.began <= came for item in work)
            for work in list(self._in_hand)
            if work is not None
        )

    def queued(self) -> dict[str, int]:
        """Number of queued requests per node that runs on the workers."""
        with self._lock:
            waiting = self._flow.queues.waiting()
        return {task.name: waiting[task.index] for task in self.program.tasks}

    def batch_sizes(self) -> dict[str, dict[int, int]]:
        """Number of calls per node and batch size, including those to split failed batches."""
        with self._lock:
            return {task.name: dict(self._flow.sizes[task.index]) for task in self.program.tasks}

    def close(self, *, wait: bool = True) -> None:
        """Cancel the requests in flight and stop the threads.

        Args:
            wait: wait for running functions, which Python cannot stop; no effect if one of them
                calls this.
        """
        with self._lock:
            self._closed = True
            unfinished = list(self._flow.open)
            self._asleep.clear()
            for alarm in self._alarms:
                if alarm.locked():
                    alarm.release()
        for execution in unfinished:
            execution.cancel()
        threads = (*self._threads, *self.streaming)
        if wait and threading.current_thread() not in threads:
            for thread in threads:
                thread.join()

    def __enter__(self) -> Executor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # After an interrupt, return at once rather than after a long step. If it is closed already,
        # that call has decided whether to wait.
        self.close(wait=not self._closed and not isinstance(error, KeyboardInterrupt))

    def _wake(self) -> None:
        """Under the lock: wake another worker, if one more may be busy."""
        if self._asleep and self._flow.queues.room(self._busy):
            self._asleep.popitem()[0].release()

    @property
    def _busy(self) -> int:
        """Under the lock: number of workers awake."""
        return self.workers - len(self._asleep)

    def _watched(self, due: float) -> bool:
        """Under the lock: whether an idle worker wakes up by then."""
        return any(until <= due for until in self._asleep.values())

    # ---- on the workers ---------------------------------------------------------------------

    def _work(self, index: int, alarm: threading.Lock) -> None:
        outcomes: list[CallResult] = []
        called: tuple[Task, list[int], float | None] | None = None
        while True:
            job = self._next(outcomes, called, alarm)
            if job is None:
                return
            task, work = job
            self._in_hand[index] = work
            context = (self._context if task.batched else work[0].context).copy()
            sizes: list[int] = []
            try:
                if task.batched:
                    outcomes = context.run(call_batch, task, work, sizes)
                else:
                    outcomes = [context.run(call_single, task, work[0])]
                    sizes.append(1)
            except BaseException as error:  # outside of the step, such as out of memory
                now = perf_counter()
                outcomes = [CallResult(e, task, None, error, now, now, 1) for e in work]
            called = task, sizes, _duration_s(outcomes) if task.batched else None
            self._in_hand[index] = None
            del job, work, context  # an idle worker must not keep them alive

    def _next(
        self,
        outcomes: list[CallResult],
        called: tuple[Task, list[int], float | None] | None,
        alarm: threading.Lock,
    ) -> Job | None:
        """Record outcomes and wait for the next job; None once the executor is closed."""
        flow = self._flow
        while True:
            after = After()
            with self._lock:
                if called is not None:
                    flow.count(*called)
                    called = None
                flow.record(outcomes, after)
                outcomes.clear()
                room = flow.queues.room(self._busy - 1)
                job = flow.pick(after) if room else None
                if job is not None:
                    # After a short call, this worker takes what is queued besides.
                    if self._asleep and flow.queues and not flow.queues.brief(job.task):
                        self._wake()
                    # An idle worker watches the timeout of a partial batch.
                    if self._asleep and not self._watched(flow.queues.due):
                        self._wake()
                elif not after:
                    if self._closed:
                        return None
                    # Otherwise the busy workers look for jobs after their calls.
                    due = flow.queues.due if room else inf
                    until = inf if self._watched(due) else due
                    self._asleep[alarm] = until
            if job is None and not after:
                self._sleep(alarm, until)
                continue
            self._follow_up(after)
            if job is not None:
                return job

    def _sleep(self, alarm: threading.Lock, until: float) -> None:
        """Wait for the alarm, or until a partial batch must run."""
        if until == inf:
            alarm.acquire()
            return
        left_s = min(max(0.0, until - perf_counter()), threading.TIMEOUT_MAX)
        if alarm.acquire(timeout=left_s):
            return
        with self._lock:
            if self._asleep.pop(alarm, None) is None:  # it was released meanwhile
                alarm.acquire(blocking=False)

    # ---- on any thread, without the lock ----------------------------------------------------

    def fail(self, execution: Execution, error: BaseException, task: Task | None = None) -> None:
        """End a request with an error of a task; no effect on a finished one."""
        after = After()
        with self._lock:
            self._flow.finish(execution, task, error, after)
        self._follow_up(after)

    def _follow_up(self, after: After) -> None:
        for resume in after.resumed:
            resume()
        for execution, node, value in after.node_results:
            assert execution.on_node is not None
            self._notify(execution.on_node, node, value)
        for execution in after.done:
            execution.settle()
            if execution.async_tasks:
                unqueued.cancel(self, execution)
            self._notify(execution.on_done, execution)
        for work, task in after.awaited:
            unqueued.start(self, work, task)

    def _notify(self, listener: Callable[..., object], *args: Any) -> None:
        try:
            listener(*args)
        except KeyboardInterrupt:
            raise
        except BaseException:  # there is no caller to raise to, and the worker must survive
            logger.exception("a listener of %r raised", self.program.graph.name)

    def add_item(
        self, execution: Execution, task: Task, item: Any, resume: Callable[[], object]
    ) -> bool:
        """Add an item; return whether its generator has to wait for ``resume`` to be called."""
        with self._lock:
            if execution.finished:
                return False
            is_first, waits = execution.add_item(task, item, resume)
        if is_first:
            assert execution.buffer is not None
            self._notify(execution.buffer.on_item)
        return waits

    def record(self, task: Task, outcome: CallResult) -> None:
        """Record the outcome of a call that no worker made."""
        after = After()
        with self._lock:
            self._flow.count(task, (1,))
            self._flow.record([outcome], after)
            if after.ready:
                self._wake()
        del outcome
        try:
            self._follow_up(after)
        finally:  # from Python 3.12 on, the traceback of an error keeps this frame alive
            del after


def _duration_s(outcomes: list[CallResult]) -> float | None:
    return outcomes[-1].finish - outcomes[0].start if outcomes else None


def _settle(future: asyncio.Future[Execution], execution: Execution) -> None:
    if not future.done():  # a disconnected client has cancelled it
        future.set_result(execution)
