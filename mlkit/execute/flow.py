"""Scheduling state of the requests in flight: which tasks are ready, skipped or done.

It has no locks, threads or loops: the executor serializes the calls, and afterwards performs what
they collected in `After`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from mlkit.errors import InputError
from mlkit.execute.call import CallResult
from mlkit.execute.execution import Execution, Part, Work, deadline_passed
from mlkit.execute.program import Program, Task
from mlkit.execute.queues import Job, Queues

__all__ = ["After", "Flow"]


@dataclass(slots=True)
class After:
    """Actions to perform once the lock is released.

    Attributes:
        done: requests that have finished.
        awaited: async and streaming steps to start.
        node_results: request, node and value for the ``on_node`` callbacks of finished nodes.
        resumed: functions that let generators go on.
        ready: whether new jobs were queued for the workers.
    """

    done: list[Execution] = field(default_factory=list)
    awaited: list[tuple[Work, Task]] = field(default_factory=list)
    node_results: list[tuple[Execution, str, Any]] = field(default_factory=list)
    resumed: list[Callable[[], object]] = field(default_factory=list)
    ready: bool = False

    def __bool__(self) -> bool:
        return bool(self.done or self.awaited or self.node_results)


class Flow:
    """The requests of an executor that are in flight."""

    def __init__(self, program: Program, workers: int, usual: int) -> None:
        self.program = program
        self.queues = Queues(program, workers, usual)
        self.open: set[Execution] = set()
        self.sizes: list[Counter[int]] = [Counter() for _ in program.tasks]
        self._failures = 0

    def begin(self, execution: Execution, after: After) -> None:
        """Start a request."""
        self.open.add(execution)
        self._push(execution, self.program.roots, execution.began, after)
        if not execution.left:
            self.finish(execution, None, None, after)

    def pick(self, after: After) -> Job | None:
        """Take the next job for a worker from the queues, if any."""
        late: list[tuple[Work, Task]] = []
        job = self.queues.pick(late)
        for work, task in late:
            self.finish(work.root, None, deadline_passed(task), after)
        return job

    def record(self, outcomes: Iterable[CallResult], after: After) -> None:
        """Record outcomes, and queue the tasks that they make ready."""
        for work, task, value, error, start, finish, size in outcomes:
            execution = work.root
            if task.queued:
                self.queues.ran(task, finish - start)
            if execution.finished:
                continue
            if task.streams:
                value = execution.results.setdefault(task.name, [])
            if task.each is not None:
                assert isinstance(work, Part)
                if not execution.gather(work, task, value, start, finish, size) and error is None:
                    continue
                value = execution.results.get(task.name)
                execution.failed_item = work.index
            else:
                execution.spans[task.index] = (start, finish, size)
            if error is not None:
                self.finish(execution, task, error, after)
                continue
            self._finished(execution, task, value, after)
            ready = execution.release(task)
            if ready:
                self._push(execution, ready, finish, after)
            if not execution.left:
                self.finish(execution, None, None, after)

    def count(self, task: Task, sizes: Sequence[int], took_s: float | None = None) -> None:
        """Record the sizes of a task's calls, and the duration of a whole batch in seconds."""
        self.sizes[task.index].update(sizes)
        if took_s is not None and len(sizes) == 1:  # a bisected batch is not representative
            self.queues.took(task, sizes[0], took_s)

    def finish(
        self, execution: Execution, task: Task | None, error: BaseException | None, after: After
    ) -> None:
        """Finish a request; `Execution.settle` wraps a task's exception later."""
        if execution.finished:
            return
        execution.finished = True
        execution.ended = perf_counter()
        execution.failed = task
        execution.error = error
        self.open.discard(execution)
        after.done.append(execution)
        if execution.buffer is not None and execution.buffer.resume is not None:
            after.resumed.append(execution.buffer.resume)
            execution.buffer.resume = None
        if error is not None:
            self._failures += 1
            # Amortized: rare enough to be cheap, frequent enough to bound the queues.
            if self._failures > 64 + len(self.open):
                self._failures = 0
                self.queues.sweep()

    def _finished(self, execution: Execution, task: Task, value: Any, after: After) -> None:
        execution.results[task.name] = value
        execution.left -= 1
        if execution.on_node is not None:
            after.node_results.append((execution, task.name, value))

    def _push(self, execution: Execution, tasks: Iterable[Task], now: float, after: After) -> None:
        """Queue tasks whose inputs are available; skip those whose conditions do not hold."""
        waiting = list(tasks)
        for task in waiting:  # it grows
            if execution.finished:
                return
            if task.when:
                try:
                    runs = execution.runs(task)
                except Exception as error:  # no arm for the key, or an unreadable field
                    failed = None if isinstance(error, InputError) else task
                    self.finish(execution, failed, error, after)
                    return
                if not runs:
                    execution.skip(task)
                    waiting += execution.release(task)
                    continue
            execution.ready_at[task.index] = now
            if task.each is not None:
                waiting += self._push_each(execution, task, now, after)
            elif not task.queued:
                after.awaited.append((execution, task))
            else:
                self.queues.push(task, execution)
                after.ready = True

    def _push_each(self, execution: Execution, task: Task, now: float, after: After) -> list[Task]:
        """Queue each item of a task's list; for an empty list, return the tasks it makes ready."""
        try:
            parts = execution.spread(task)
        except Exception as error:
            execution.spans[task.index] = (now, now, 0)
            self.finish(execution, task, error, after)
            return []
        if not parts:
            execution.spans[task.index] = (now, now, 0)
            self._finished(execution, task, [], after)
            return execution.release(task)
        for part in parts:
            if task.step.is_async:
                after.awaited.append((part, task))
            else:
                self.queues.push(task, part)
                after.ready = True
        return []
