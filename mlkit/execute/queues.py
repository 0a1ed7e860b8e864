"""Queues of a program's tasks, and the policy for what runs next.

- If batches are measurably faster, or if queues have grown, throughput has priority: full
  batches, and those that have waited for longer than a call takes; then single items, those nearest
  to the result first; then partial batches.
- Otherwise latency has priority: the oldest request runs next, unbatched. Requests that share the
  cores slow one another and finish sooner one after the other; for the same reason, not all workers
  are busy then.
- A partial batch waits for more items if its step has a ``batch_wait_timeout_s``.
- A queue is in the order of `priority.rank`: the earliest deadline first, and interactive requests
  before bulk ones. "Oldest" above means the lowest rank, which is the order of arrival among
  requests of one class and with one timeout.
- Requests that are finished (cancelled, failed) or past their deadline are skipped.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable
from itertools import islice
from math import inf
from operator import attrgetter
from time import perf_counter
from typing import NamedTuple

from mlkit.execute.execution import Work
from mlkit.execute.program import Program, Task

__all__ = ["Job", "Queues"]

BACKLOG_PER_WORKER = 2
"""Mean queue length per worker above which throughput has priority over latency."""

BACKLOG_WINDOW_S = 0.5
"""Time constant of this mean in seconds: a burst does not raise it, a sustained load does."""

BATCH_GAIN = 0.75
"""Maximum time per item in a batch, relative to a single call, for batches to pay.

It is well below 1, since each item of a batch waits for all the others.
"""

SHORT_CALL_S = 0.0005
"""Mean call time in seconds below which waking another worker does not pay.

The two would wait as long for the GIL, or for a core that another process uses.
"""

LONG_CALL_S = 0.05
"""Mean call time in seconds above which all workers may be busy.

Such a call may be waiting rather than computing, and must not hold up others.
"""

CALL_SMOOTHING = 0.02
"""Weight of the newest call in mean call times: one slow call in a hundred still counts."""


_rank = attrgetter("rank")


class Job(NamedTuple):
    """The next call of a worker: one request, or the requests of a batch."""

    task: Task
    work: list[Work]


class Queues:
    """One queue per task that runs on the workers. Not thread-safe.

    Args:
        program: the tasks to queue for.
        workers: number of workers.
        usual: maximum of busy workers while calls are short and queues do not grow; all by default.
        now: clock in seconds.

    Attributes:
        max_busy: maximum of busy workers at any time.
    """

    def __init__(
        self,
        program: Program,
        workers: int = 1,
        usual: int | None = None,
        now: Callable[[], float] = perf_counter,
    ) -> None:
        self._now = now
        self._usual = workers if usual is None else usual
        self.max_busy = workers
        self._backlog = _Backlog(now)
        # Infinite until the first call.
        self._mean_s = [inf if task.queued else 0.0 for task in program.tasks]
        self._calls = [_CallTimes() for _ in program.tasks]
        self._batches_pay = any(task.batched for task in program.tasks)
        nearest_first = sorted(program.tasks, key=lambda task: task.to_go)
        self._queues: list[deque[Work]] = [deque() for _ in program.tasks]
        pairs = [(task, self._queues[task.index]) for task in nearest_first]
        self._batched = [(task, queue) for task, queue in pairs if task.batched]
        self._patient = [(task, queue) for task, queue in self._batched if task.wait_s]
        self._in_order = [
            *((task, queue) for task, queue in pairs if not task.batched),
            *self._batched,
        ]

    def push(self, task: Task, execution: Work) -> None:
        """Queue a request whose task is ready."""
        queue = self._queues[task.index]
        if queue and execution.rank < queue[-1].rank:
            insort(queue, execution, key=_rank)
        else:  # as good as always
            queue.append(execution)

    def __bool__(self) -> bool:
        """Whether any request is queued."""
        return any(self._queues)

    def room(self, busy: int) -> bool:
        """Whether another worker should look for a job while ``busy`` ones already are."""
        if busy >= self.max_busy:
            return False
        if busy < self._usual or max(self._mean_s, default=0.0) > LONG_CALL_S:
            return True
        return self._throughput_first

    @property
    def _throughput_first(self) -> bool:
        backlog = self._backlog.mean(sum(map(len, self._queues)))
        return backlog > BACKLOG_PER_WORKER * self.max_busy or self._batches_pay

    def pick(self, late: list[tuple[Work, Task]]) -> Job | None:
        """Take the next job; None if no job is ready.

        Args:
            late: receives the requests past their deadline, which leave the queue.
        """
        if self._throughput_first:
            return self._pick_for_throughput(late)
        while (oldest := self._oldest()) is not None:
            task, queue = oldest
            limit = task.max_batch_size if self._calls[task.index].batches_pay else 1
            job = _take(task, queue, limit, late)
            if job is not None:
                return job
        return None

    def _oldest(self) -> tuple[Task, deque[Work]] | None:
        """Task and queue of the oldest request; of its tasks, the one nearest to the result."""
        oldest, lowest = None, inf
        for task, queue in self._in_order:
            while queue and queue[0].finished:
                queue.popleft()
            if queue and queue[0].rank < lowest and not self._waits(task, queue):
                oldest, lowest = (task, queue), queue[0].rank
        return oldest

    def _pick_for_throughput(self, late: list[tuple[Work, Task]]) -> Job | None:
        for task, queue in self._batched:
            if len(queue) >= task.max_batch_size or (queue and self._is_late(task, queue)):
                job = _take(task, queue, task.max_batch_size, late)
                if job is not None:
                    return job
        for task, queue in self._in_order:
            if queue and not self._waits(task, queue):
                job = _take(task, queue, task.max_batch_size, late)
                if job is not None:
                    return job
        return None

    def _waits(self, task: Task, queue: deque[Work]) -> bool:
        """Whether a partial batch waits for more items."""
        if not task.wait_s or len(queue) >= task.max_batch_size:
            return False
        return _since(task, queue) + task.wait_s > self._now()

    def ran(self, task: Task, seconds: float) -> None:
        """Record the duration of a call on a worker."""
        self._mean_s[task.index] = _smoothed(self._mean_s[task.index], seconds, CALL_SMOOTHING)

    def brief(self, task: Task) -> bool:
        """Whether calls of a task are so short that their worker is free again at once."""
        return self._mean_s[task.index] < SHORT_CALL_S

    def took(self, task: Task, size: int, seconds: float) -> None:
        """Record the size and duration of a call of a batched task."""
        self._calls[task.index].record(size, seconds)
        self._batches_pay = any(times.call_s < inf and times.batches_pay for times in self._calls)

    def _is_late(self, task: Task, queue: deque[Work]) -> bool:
        """Whether a batch has waited for longer than a call takes.

        Without this, new requests would start before those that wait for their batch. Meanwhile,
        enough requests arrive to fill the next batch.
        """
        call_s = self._calls[task.index].call_s
        if call_s == inf or task.wait_s:
            return False
        return self._now() - _since(task, queue) > call_s

    @property
    def due(self) -> float:
        """When the next partial batch must run, on the clock; infinite if none waits."""
        return min(
            (_since(task, queue) + task.wait_s for task, queue in self._patient), default=inf
        )

    def sweep(self) -> None:
        """Drop finished requests."""
        for queue in self._queues:
            unfinished = [execution for execution in queue if not execution.finished]
            queue.clear()
            queue.extend(unfinished)

    def waiting(self) -> list[int]:
        """Number of queued requests per task, by index."""
        return [sum(not execution.finished for execution in queue) for queue in self._queues]


def _since(task: Task, queue: deque[Work]) -> float:
    """Since when the next batch waits; infinite for an empty queue.

    Its first request in the order of rank need not be the one that has waited for the longest.
    """
    while queue and queue[0].finished:
        queue.popleft()
    batch = islice(queue, task.max_batch_size)  # the scan is short, however long the queue is
    return min((each.ready_at[task.index] for each in batch if not each.finished), default=inf)


class _Backlog:
    """Exponential moving average of the total queue length."""

    __slots__ = ("_mean", "_now", "_updated")

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._mean = 0.0
        self._updated = now()

    def mean(self, waiting: int) -> float:
        """Update the average with the present length and return it."""
        now = self._now()
        self._mean += (waiting - self._mean) * min(1.0, (now - self._updated) / BACKLOG_WINDOW_S)
        self._updated = now
        return self._mean


class _CallTimes:
    """Recent call times of a batched task, in seconds; infinite before the first call.

    Attributes:
        call_s: moving average over calls of any size.
        alone_s: recent minimum of calls with one item, to exclude waits for cores or locks.
        item_s: recent minimum per item of calls with several.
    """

    __slots__ = ("alone_s", "call_s", "item_s")

    def __init__(self) -> None:
        self.call_s = self.alone_s = self.item_s = inf

    def record(self, size: int, seconds: float) -> None:
        self.call_s = _smoothed(self.call_s, seconds)
        if size == 1:
            self.alone_s = _least(self.alone_s, seconds)
        else:
            self.item_s = _least(self.item_s, seconds / size)

    @property
    def batches_pay(self) -> bool:
        """Whether an item is measurably faster in a batch.

        A wrong estimate corrects itself: if throughput is too low, queues grow, and then batches
        run and are timed regardless.
        """
        return inf in (self.alone_s, self.item_s) or self.item_s < BATCH_GAIN * self.alone_s


def _smoothed(mean: float, new: float, weight: float = 0.2) -> float:
    return new if mean == inf else mean + weight * (new - mean)


def _least(least: float, new: float) -> float:
    """Update a minimum that decays slowly."""
    return min(new, 1.01 * least)


def _take(task: Task, queue: deque[Work], limit: int, late: list[tuple[Work, Task]]) -> Job | None:
    taken: list[Work] = []
    limit = limit or 1
    while queue and len(taken) < limit:
        execution = queue.popleft()
        if execution.finished:
            continue
        if execution.deadline is not None and execution.expired:
            late.append((execution, task))
        else:
            taken.append(execution)
    return Job(task, taken) if taken else None
