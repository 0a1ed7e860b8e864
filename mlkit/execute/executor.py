"""The executor: requests flow through a program's tasks on a pool of threads and one loop.

What runs here, offline and in a replica is this. Its rules:

- A free worker never waits while anything can run: no timers, but for a step that asks for one
  with ``batch_wait_timeout_s``.
- What it takes next, `queues.py` says: batches fill while there is work to fill them with, a lone
  request never waits for company, under load requests are finished before new ones are begun, and
  where batches are not quicker, the oldest request goes first.
- An exception in a batch is traced to its item by halving: the others are not harmed. A step with
  ``split_failed_batches=False`` is not called again: its whole batch fails.
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
from collections.abc import Callable, Mapping
from math import inf
from time import perf_counter
from types import TracebackType
from typing import Any

from mlkit.define.loop import background_loop
from mlkit.errors import Cancelled, InputError
from mlkit.execute.call import Outcome, call_async, call_batch, call_single
from mlkit.execute.cores import default_workers, usual_workers
from mlkit.execute.ends import deadline_passed, loop_closed
from mlkit.execute.execution import Execution, Work
from mlkit.execute.flow import After, Flow
from mlkit.execute.mailbox import Mailboxes
from mlkit.execute.program import Program, Task
from mlkit.execute.queues import Job

__all__ = ["Executor"]

logger = logging.getLogger(__name__)


class Executor:
    """Runs requests through a program. Use it as a context manager, or `close` it.

    Args:
        program: what to run.
        workers: threads that run plain and batched steps, and may all be busy; by default
            `default_workers`, of which only `usual_workers` are where calls are short and work does
            not pile up.
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
        self._flow = Flow(program, self.workers, workers or usual_workers())
        # Plain locks only: an interrupt that comes while one written in Python is being taken can
        # leave it taken.
        self._lock = threading.Lock()
        self._alarms = [threading.Lock() for _ in range(self.workers)]
        # Until when each sleeps; the last to fall asleep is the first to be woken.
        self._asleep: dict[threading.Lock, float] = {}
        # What each worker has in hand: a call that goes on keeps it, though its request is over.
        self._in_hand: list[list[Work] | None] = [None] * self.workers
        self._closed = False
        self._loops = Mailboxes()
        name = f"mlkit-{program.graph.name}"
        self._threads = [
            threading.Thread(target=self._work, args=(i, alarm), name=f"{name}-{i}", daemon=True)
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
        on_node: Callable[[str, Any], None] | None = None,
    ) -> Execution:
        """Start a request.

        Args:
            arguments: those of the pipeline, by name.
            on_done: called exactly once when it is finished: from a thread of the executor, from
                the loop, or from whoever cancels it. It may submit and cancel, but not block.
            given: values of the program's given nodes.
            deadline: on `time.perf_counter`'s clock; past it no step of the request is started, an
                async one is cancelled, and the request fails.
            on_node: called with name and value of each node that has finished, in their order and
                before ``on_done``; under the same rules.

        Raises:
            Cancelled: the executor is closed.
        """
        execution = Execution(
            self.program, self.cancel, arguments, given or {}, on_done, deadline, on_node
        )
        after = After()
        with self._lock:
            if self._closed:
                raise Cancelled("the executor is closed")
            self._flow.begin(execution, after)
            if after.ready:
                self._wake()
        self._follow_up(after)
        return execution

    async def run(
        self,
        arguments: Mapping[str, Any],
        *,
        deadline: float | None = None,
        on_node: Callable[[str, Any], None] | None = None,
    ) -> Execution:
        """Run a request and return when it is finished; cancelling this gives the request up.

        May be called from any loop. Unlike `submit`, it ends at the deadline even where a step
        that cannot be stopped is still running.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Execution] = loop.create_future()

        def on_done(execution: Execution) -> None:
            self._loops.post(loop, _settle, future, execution)  # where it is closed, nobody waits

        execution = self.submit(arguments, on_done, deadline=deadline, on_node=on_node)
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
        return len(self._flow.open)

    def abandoned(self, after_s: float = 0.0) -> int:
        """Count the workers held by calls that nobody waits for any more.

        Their requests were given up or are late; Python cannot stop the functions.

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
        """Requests waiting for each node that runs on the workers, by its name."""
        with self._lock:
            waiting = self._flow.queues.waiting()
        return {task.name: waiting[task.index] for task in self.program.tasks}

    def batch_sizes(self) -> dict[str, dict[int, int]]:
        """How many calls of each size each node's function had, those made to split a batch too."""
        with self._lock:
            return {task.name: dict(self._flow.sizes[task.index]) for task in self.program.tasks}

    def close(self, *, wait: bool = True) -> None:
        """Give up what is going on and end the threads.

        Args:
            wait: return when the functions that run now have returned (Python cannot stop them);
                without effect where one of them calls this.
        """
        with self._lock:
            self._closed = True
            left = list(self._flow.open)
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

    def _wake(self) -> None:
        """Under the lock: have another worker look for something to do, where there is room."""
        if self._asleep and self._flow.queues.room(self._busy):
            self._asleep.popitem()[0].release()

    @property
    def _busy(self) -> int:
        """Under the lock: workers that do something, or are looking for it."""
        return self.workers - len(self._asleep)

    def _watched(self, due: float) -> bool:
        """Under the lock: whether a worker that sleeps will be awake by then."""
        return any(until <= due for until in self._asleep.values())

    # ---- on the workers ---------------------------------------------------------------------

    def _work(self, index: int, alarm: threading.Lock) -> None:
        outcomes: list[Outcome] = []
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
            except BaseException as error:  # beside the step: no memory, an exception that resists
                now = perf_counter()
                outcomes = [Outcome(e, task, None, error, now, now, 1) for e in work]
            called = task, sizes, _took(outcomes) if task.batched else None
            self._in_hand[index] = None
            del job, work, context  # nothing is kept of it while this waits for more

    def _next(
        self,
        outcomes: list[Outcome],
        called: tuple[Task, list[int], float | None] | None,
        alarm: threading.Lock,
    ) -> Job | None:
        """Take up what was done and get something to do; None when it is time to go."""
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
                    # Who is soon back takes what waits beside it himself.
                    if self._asleep and flow.queues and not flow.queues.brief(job.task):
                        self._wake()
                    # Of a batch that waits for more, one who has nothing else to do keeps the time.
                    if self._asleep and not self._watched(flow.queues.due):
                        self._wake()
                elif not after:
                    if self._closed:
                        return None
                    # Where there is no room, those who are busy look when they are through.
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
        """Wait for the alarm, or until a batch that waits for more is to go as it is."""
        if until == inf:
            alarm.acquire()
            return
        longest = threading.TIMEOUT_MAX  # an hour of waiting for a batch is allowed, an age is not
        if alarm.acquire(timeout=min(max(0.0, until - perf_counter()), longest)):
            return
        with self._lock:
            if self._asleep.pop(alarm, None) is None:  # it went off in this moment
                alarm.acquire(blocking=False)

    # ---- anywhere, outside the lock ---------------------------------------------------------

    def _expire(self, execution: Execution) -> None:
        self._give_up(execution, deadline_passed())

    def _give_up(
        self, execution: Execution, error: BaseException, task: Task | None = None
    ) -> None:
        after = After()
        with self._lock:
            self._flow.finish(execution, task, error, after)
        self._follow_up(after)

    def _follow_up(self, after: After) -> None:
        for execution, node, value in after.told:
            assert execution.on_node is not None
            self._tell(execution.on_node, node, value)
        for execution in after.done:
            execution.settle()
            if execution.async_tasks:
                self._loops.post(self._async_loop, _cancel_async, execution)
            self._tell(execution.on_done, execution)
        for work, task in after.awaited:
            if not self._loops.post(self._async_loop, self._start_async, work, task):
                self._give_up(work.root, loop_closed(task))

    def _tell(self, listener: Callable[..., None], *what: Any) -> None:
        try:
            listener(*what)
        except KeyboardInterrupt:
            raise
        except BaseException:  # nobody is left whom it concerns, and the worker has to live
            logger.exception("a listener of %r raised", self.program.graph.name)

    @property
    def _async_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop or background_loop()

    # ---- in the loop ------------------------------------------------------------------------

    def _start_async(self, work: Work, task: Task) -> None:
        execution = work.root
        if execution.expired:
            self._give_up(execution, deadline_passed(task))
        started = asyncio.get_running_loop().create_task(
            self._await(work, task), context=execution.context.copy()
        )
        execution.async_tasks.add(started)
        started.add_done_callback(lambda ended: self._async_ended(execution, task, ended))
        if execution.finished:  # whoever ended it may not have seen this one
            started.cancel()

    async def _await(self, work: Work, task: Task) -> None:
        outcome = await call_async(task, work)
        work.root.async_tasks.discard(_this_task())
        if outcome is None:
            self._give_up(work.root, deadline_passed(task))
            return
        after = After()
        with self._lock:
            self._flow.count(task, (1,))
            self._flow.record([outcome], after)
            if after.ready:
                self._wake()
        del outcome
        self._follow_up(after)

    def _async_ended(self, execution: Execution, task: Task, ended: asyncio.Task[None]) -> None:
        execution.async_tasks.discard(ended)
        if ended.cancelled():  # perhaps by a loop that is shut down, perhaps before it began
            execution.cancel()
        elif (error := ended.exception()) is not None:  # beside the step, as on the workers
            self._give_up(execution, error, task)


def _took(outcomes: list[Outcome]) -> float | None:
    return outcomes[-1].finish - outcomes[0].start if outcomes else None


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
