"""What is waiting for a worker, and which of it goes next.

- Where batches are quicker, so far as is known, or where work has piled up, throughput goes first:
  full batches, and those that have waited for longer than they take; then single items, those
  nearest to a result first; then batches that are not full.
- Else the oldest request goes first, whatever it waits for, and alone: requests that share the
  cores slow one another, and one after the other they are finished sooner. For the same reason
  not all workers are busy then.
- A batch that is not full may wait for more, where its step asks for that.
- Requests that are finished (cancelled, failed) are skipped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from time import perf_counter
from typing import NamedTuple

from mlkit.execute.execution import Work
from mlkit.execute.program import Program, Task

__all__ = ["Job", "Queues"]

FEW = 2
"""Jobs waiting for each worker, on an average, up to which work does not pile up."""

WHILE_S = 0.5
"""Seconds that this average looks back, roughly: a burst is none, callers who never stop are."""

WORTH = 0.75
"""Share of the time of a call for one that an item of a batch may take for batches to be worth it.

Less than 1 by much: what a batch gains, each of its items pays for by waiting for all of them.
"""

BRIEF_S = 0.0005
"""Seconds that a call takes on an average, below which it is not worth waking another worker.

The two would wait for the interpreter, and for a core that another process has, for as long.
"""

LONG_S = 0.05
"""Seconds that a call takes on an average, above which all workers may be busy.

Whoever takes so long may be waiting and not computing, and others should not wait for him.
"""

MEMORY = 0.02
"""Share of the newest call in these averages: what takes long once in a hundred is not brief."""


class Job(NamedTuple):
    """What a worker runs next: one request, or the requests of a batch."""

    task: Task
    work: list[Work]


class Queues:
    """One queue for each task that runs on the workers. Not safe for threads: it has no lock.

    Args:
        program: whose tasks they are.
        workers: how many there are.
        usual: how many of them are to be busy at most where calls are short and work does not pile
            up; all by default.
        now: the clock, in seconds.
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
        self._few = FEW * workers
        self._backlog = _Backlog(now)
        # Infinite until the first call; what runs in the loop keeps no worker.
        self._mean_s = [0.0 if task.step.is_async else inf for task in program.tasks]
        self._took = [_Took() for _ in program.tasks]
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
        """Add a request whose task can run."""
        self._queues[task.index].append(execution)

    def __bool__(self) -> bool:
        """Whether anything is waiting."""
        return any(self._queues)

    def room(self, busy: int) -> bool:
        """Whether another worker is to look for something to do, beside so many busy ones."""
        return (
            busy < self._usual or max(self._mean_s, default=0.0) > LONG_S or self._throughput_first
        )

    @property
    def _throughput_first(self) -> bool:
        piled_up = self._backlog.mean(sum(map(len, self._queues))) > self._few
        return piled_up or self._batches_pay

    def pick(self, late: list[tuple[Work, Task]]) -> Job | None:
        """Take out the next job; None where nothing is waiting.

        Args:
            late: gets the requests that were found past their deadline, and were taken out.
        """
        if self._throughput_first:
            return self._pick_for_throughput(late)
        while (found := self._oldest()) is not None:
            task, queue = found
            most = task.max_batch_size if self._took[task.index].batches_pay else 1
            job = _take(task, queue, most, late)
            if job is not None:
                return job
        return None

    def _oldest(self) -> tuple[Task, deque[Work]] | None:
        """Where the request waits that came first; of its tasks the one nearest to the result."""
        best, came = None, inf
        for task, queue in self._in_order:
            while queue and queue[0].finished:
                queue.popleft()
            if queue and queue[0].began < came and not self._waits(task, queue):
                best, came = (task, queue), queue[0].began
        return best

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
        """Whether a batch is held back for more to come."""
        if not task.wait_s or len(queue) >= task.max_batch_size:
            return False
        return _until(task, queue) > self._now()

    def ran(self, task: Task, seconds: float) -> None:
        """Note how long a call on a worker took."""
        self._mean_s[task.index] = _smoothed(self._mean_s[task.index], seconds, MEMORY)

    def brief(self, task: Task) -> bool:
        """Whether a call takes so little time that whoever makes it is back at once."""
        return self._mean_s[task.index] < BRIEF_S

    def took(self, task: Task, size: int, seconds: float) -> None:
        """Note how long a call of a batched task took, for how many items."""
        self._took[task.index].note(size, seconds)
        self._batches_pay = any(took.call_s < inf and took.batches_pay for took in self._took)

    def _is_late(self, task: Task, queue: deque[Work]) -> bool:
        """Whether a batch has waited for longer than a call of it takes.

        Without this, requests that have just come are begun before those that wait for their batch.
        So long as a call takes, enough come to fill the next.
        """
        took = self._took[task.index].call_s
        if took == inf or task.wait_s:
            return False
        return bool(self._now() - queue[0].ready_at[task.index] > took)

    @property
    def due(self) -> float:
        """When the next batch that waits for more is to go as it is; infinite where none does."""
        return min((_until(task, queue) for task, queue in self._patient), default=inf)

    def sweep(self) -> None:
        """Drop the requests that are finished."""
        for queue in self._queues:
            left = [execution for execution in queue if not execution.finished]
            queue.clear()
            queue.extend(left)

    def waiting(self) -> list[int]:
        """How many requests wait for each task, by its index."""
        return [sum(not execution.finished for execution in queue) for queue in self._queues]


def _until(task: Task, queue: deque[Work]) -> float:
    """Until when a batch that is not full may wait; infinite where there is none."""
    while queue and queue[0].finished:
        queue.popleft()
    return queue[0].ready_at[task.index] + task.wait_s if queue else inf


class _Backlog:
    """How many jobs have been waiting lately, as an exponential average over time."""

    __slots__ = ("_looked", "_mean", "_now")

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._mean = 0.0
        self._looked = now()

    def mean(self, waiting: int) -> float:
        """The average, with how many wait now."""
        now = self._now()
        self._mean += (waiting - self._mean) * min(1.0, (now - self._looked) / WHILE_S)
        self._looked = now
        return self._mean


class _Took:
    """How long the calls of a batched task have taken lately.

    Attributes:
        call_s: a call, of whatever size, on an average; infinite before the first.
        alone_s: a call for one item, at its best: others hold it up, for a core or a model.
        item_s: an item of a call for several, likewise.
    """

    __slots__ = ("alone_s", "call_s", "item_s")

    def __init__(self) -> None:
        self.call_s = self.alone_s = self.item_s = inf

    def note(self, size: int, seconds: float) -> None:
        self.call_s = _smoothed(self.call_s, seconds)
        if size == 1:
            self.alone_s = _least(self.alone_s, seconds)
        else:
            self.item_s = _least(self.item_s, seconds / size)

    @property
    def batches_pay(self) -> bool:
        """Whether an item is quicker in a batch, so far as is known.

        What is wrong here mends itself: where too little gets done, work piles up, and then batches
        are made and timed whatever this says.
        """
        return inf in (self.alone_s, self.item_s) or self.item_s < WORTH * self.alone_s


def _smoothed(before: float, new: float, share: float = 0.2) -> float:
    return new if before == inf else before + share * (new - before)


def _least(before: float, new: float) -> float:
    """The least, slowly forgotten."""
    return min(new, 1.01 * before)


def _take(task: Task, queue: deque[Work], most: int, late: list[tuple[Work, Task]]) -> Job | None:
    taken: list[Work] = []
    room = most or 1
    while queue and len(taken) < room:
        execution = queue.popleft()
        if execution.finished:
            continue
        if execution.deadline is not None and execution.expired:
            late.append((execution, task))
        else:
            taken.append(execution)
    return Job(task, taken) if taken else None
