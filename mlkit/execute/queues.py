"""What is waiting for a worker, and which of it goes next.

- A batch that is full goes first, and one that has waited for longer than it will take; then
  single items, those nearest to a result first; then batches that are not full.
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


class Job(NamedTuple):
    """What a worker runs next: one request, or the requests of a batch."""

    task: Task
    work: list[Work]


class Queues:
    """One queue for each task that runs on the workers. Not safe for threads: it has no lock."""

    def __init__(self, program: Program, now: Callable[[], float] = perf_counter) -> None:
        self._now = now
        self._took_s = [inf] * len(program.tasks)
        nearest_first = sorted(program.tasks, key=lambda task: -task.depth)
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

    def pick(self, late: list[tuple[Work, Task]]) -> Job | None:
        """Take out the next job; None where nothing is waiting.

        Args:
            late: gets the requests that were found past their deadline, and were taken out.
        """
        for task, queue in self._batched:
            if len(queue) >= task.max_batch_size or (queue and self._is_late(task, queue)):
                job = _take(task, queue, late)
                if job is not None:
                    return job
        for task, queue in self._in_order:
            if queue:
                if task.wait_s and _until(task, queue) > self._now():
                    continue
                job = _take(task, queue, late)
                if job is not None:
                    return job
        return None

    def took(self, task: Task, seconds: float) -> None:
        """Note how long a call of a batched task took."""
        before = self._took_s[task.index]
        self._took_s[task.index] = seconds if before == inf else 0.8 * before + 0.2 * seconds

    def _is_late(self, task: Task, queue: deque[Work]) -> bool:
        """Whether a batch has waited for longer than a call of it takes.

        Without this, requests that have just come are begun before those that wait for their batch:
        that fills batches, and at less than full load makes the unlucky wait for many others. So
        long as a call takes, enough come to fill the next.
        """
        took = self._took_s[task.index]
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


def _take(task: Task, queue: deque[Work], late: list[tuple[Work, Task]]) -> Job | None:
    taken: list[Work] = []
    room = task.max_batch_size or 1
    while queue and len(taken) < room:
        execution = queue.popleft()
        if execution.finished:
            continue
        if execution.deadline is not None and execution.expired:
            late.append((execution, task))
        else:
            taken.append(execution)
    return Job(task, taken) if taken else None
