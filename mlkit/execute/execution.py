"""The state of one request."""

from __future__ import annotations

import asyncio
import contextvars
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any, TypeAlias

from mlkit.define.graph import Result, sources
from mlkit.errors import DeadlineExceeded, MlkitError, StepError
from mlkit.execute.buffer import AHEAD, Buffer
from mlkit.execute.priority import Priority, rank
from mlkit.execute.program import Program, Task
from mlkit.execute.run import NodeRun, Run

__all__ = ["Execution", "Part", "Work", "deadline_passed"]


class Execution:
    """One request. Attributes are written under the executor's lock.

    Attributes:
        results: values of nodes by name, given ones included.
        finished: whether it has ended; no further task of it starts.
        error: the exception that ended it, or None.
        output: the pipeline's result, once finished without an error.
        rank: its place in queues; those with a lower one go first.
        item_times: when each item of a result that streams was made.
    """

    __slots__ = (
        "__weakref__",
        "_gathered",
        "_give_up",
        "arguments",
        "async_tasks",
        "began",
        "buffer",
        "context",
        "deadline",
        "ended",
        "error",
        "failed",
        "failed_item",
        "finished",
        "item_times",
        "left",
        "on_done",
        "on_node",
        "output",
        "program",
        "rank",
        "ready_at",
        "results",
        "skipped",
        "spans",
        "waiting",
    )

    def __init__(
        self,
        program: Program,
        give_up: Callable[[Execution], None],
        arguments: Mapping[str, Any],
        given: Mapping[str, Any],
        on_done: Callable[[Execution], object],
        deadline: float | None,
        on_node: Callable[[str, Any], None] | None = None,
        buffer: Buffer | None = None,
        priority: Priority = Priority.INTERACTIVE,
    ) -> None:
        tasks = program.tasks
        self.program = program
        self._give_up = give_up
        self.arguments = arguments
        self.results: dict[str, Any] = dict(given)
        self.on_done = on_done
        self.on_node = on_node
        self.buffer = buffer
        self.item_times = array("d")
        self.deadline = deadline
        self.context = contextvars.copy_context()
        self.waiting = [task.upstream for task in tasks]
        self.left = len(tasks)
        self.ready_at = [0.0] * len(tasks)
        self.spans: list[tuple[float, float, int] | None] = [None] * len(tasks)
        self.skipped: set[int] = set()
        self._gathered: dict[int, _Gathered] = {}
        self.async_tasks: set[asyncio.Task[Any]] = set()
        self.finished = False
        self.failed: Task | None = None
        self.failed_item = 0
        self.error: BaseException | None = None
        self.output: Any = None
        self.began = perf_counter()
        self.rank = rank(self.began, deadline, priority)
        self.ended = 0.0

    @property
    def root(self) -> Execution:
        """The request itself; for a `Part`, the request that it belongs to."""
        return self

    def cancel(self) -> None:
        """Cancel the request; its queued tasks never run."""
        self._give_up(self)

    @property
    def expired(self) -> bool:
        """Whether its deadline has passed."""
        return self.deadline is not None and perf_counter() > self.deadline

    @property
    def left_s(self) -> float | None:
        """Seconds to its deadline, 0 past it; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - perf_counter())

    def release(self, task: Task) -> list[Task]:
        """Return the tasks that become ready when this one is done."""
        ready = []
        for index in task.downstream:
            self.waiting[index] -= 1
            if not self.waiting[index]:
                ready.append(self.program.tasks[index])
        return ready

    def runs(self, task: Task) -> bool:
        """Whether the conditions of a task hold.

        Raises:
            InputError: a branch has no arm for the key.
        """
        return all(test.holds(self.arguments, self.results) for test in task.when)

    def skip(self, task: Task) -> None:
        """Skip a task whose conditions do not hold."""
        self.skipped.add(task.index)
        self.left -= 1

    def spread(self, task: Task) -> list[Part]:
        """Return one part per item of the list that a task runs over.

        Raises:
            TypeError: the value is not iterable.
        """
        get = next(get for name, get in task.inputs if name == task.each)
        items = list(get(self.arguments, self.results))
        self._gathered[task.index] = _Gathered([None] * len(items), len(items))
        return [Part(self, i, item) for i, item in enumerate(items)]

    def gather(
        self, part: Part, task: Task, value: Any, start: float, finish: float, size: int
    ) -> bool:
        """Record the result of one item; True if it was the last, and the list is complete."""
        gathered = self._gathered[task.index]
        gathered.values[part.index] = value
        gathered.left -= 1
        before = self.spans[task.index] or (start, finish, size)
        self.spans[task.index] = (
            min(before[0], start),
            max(before[1], finish),
            max(before[2], size),
        )
        if gathered.left:
            return False
        self.results[task.name] = gathered.values
        return True

    def add_item(self, task: Task, item: Any, resume: Callable[[], object]) -> tuple[bool, bool]:
        """Add an item to the result of a task that streams.

        Returns:
            whether its consumer has to be notified, and whether its generator has to wait for
            ``resume`` to be called.
        """
        items = self.results.setdefault(task.name, [])
        if task.downstream:  # it is made whole for other steps
            items.append(item)
            return False, False
        self.item_times.append(perf_counter())
        if self.buffer is None or len(items) < AHEAD:  # the first ones are kept for `App.peek`
            items.append(item)
        if self.buffer is None:
            return False, False
        first = self.buffer.put(item, resume)
        return first, self.buffer.resume is not None

    def settle(self) -> None:
        """Compute the output, or the final error.

        This runs user code (fields, texts of exceptions), so it must not hold the executor's lock.
        """
        name = self.program.graph.name
        if self.error is None:
            try:
                output = self.program.output(self.arguments, self.results)
                conform = self.program.conform
                self.output = output if conform is None else conform(output)
            except BaseException as raised:
                self.error = self.of_output(raised)
        elif self.failed is not None:
            item = None if self.failed.each is None else self.failed_item
            self.error = _step_error(self.failed.name, name, self.error, item)

    def of_output(self, cause: BaseException) -> MlkitError:
        """Return the error for an output that is wrong, or has no form: of the step that made it.

        It is the pipeline's own if it is composed of several results.
        """
        name = self.program.graph.name
        made = [
            result.node
            for result in sources(self.program.graph.output, Result, routing=False)
            if result.node in self.results
        ]
        if len(made) == 1:
            return _step_error(made[0], name, cause, None)
        error = MlkitError(_summary(cause), where=f"pipeline {name!r}", **_parts(cause))
        error.__cause__ = cause
        return error

    def to_run(self) -> Run:
        """Snapshot of values and times; may be called while the request is in flight."""
        tasks = {task.name: task for task in self.program.tasks}
        nodes = tuple(self._node(node.name, tasks.get(node.name)) for node in self.program.graph)
        run = Run(
            self.program.graph,
            self.arguments,
            nodes,
            (self.ended or perf_counter()) - self.began,
            self.output,
            self.error,
        )
        if isinstance(self.error, StepError):
            self.error.run = run
        return run

    def _node(self, name: str, task: Task | None) -> NodeRun:
        if task is None:
            is_given = name in self.program.given
            return NodeRun(name, "given" if is_given else "not run", self.results.get(name))
        span = self.spans[task.index]
        if span is None:
            return NodeRun(name, "skipped" if task.index in self.skipped else "not run")
        start, finish, size = span
        failed = task is self.failed
        return NodeRun(
            name,
            "failed" if failed else "done",
            self.results.get(name),
            self.ready_at[task.index] - self.began,
            start - self.began,
            finish - self.began,
            size,
            self.error.__cause__ if failed and self.error else None,
            self.item_times[0] - self.began if task.streams and self.item_times else None,
        )


@dataclass(slots=True)
class _Gathered:
    """Results of the finished items of one list."""

    values: list[Any]
    left: int


class Part:
    """One item of a list that a task runs over; queued and batched like a request."""

    __slots__ = ("index", "item", "rank", "root")

    def __init__(self, root: Execution, index: int, item: Any) -> None:
        self.root = root
        self.index = index
        self.item = item
        self.rank = root.rank

    def __getattr__(self, name: str) -> Any:
        return getattr(self.root, name)


Work: TypeAlias = Execution | Part
"""A unit of work of a task."""


def deadline_passed(task: Task | None = None) -> DeadlineExceeded:
    """Build the error for a request past its deadline."""
    where = f" at step {task.name!r}" if task is not None else ""
    return DeadlineExceeded(f"the request exceeded its deadline{where}")


def _step_error(step: str, pipeline: str, cause: BaseException, item: int | None) -> StepError:
    if isinstance(cause, StepError):  # raised by a stage in another process
        return cause
    summary = _summary(cause) if item is None else f"item {item}: {_summary(cause)}"
    error = StepError(summary, step=step, pipeline=pipeline, **_parts(cause))
    error.__cause__ = cause
    return error


def _parts(cause: BaseException) -> dict[str, Any]:
    parts = ("expected", "got", "fix")
    return {p: getattr(cause, p, None) for p in parts} if isinstance(cause, MlkitError) else {}


def _summary(cause: BaseException) -> str:
    """Type and message of an exception; the type alone if its message cannot be computed."""
    kind = type(cause).__name__
    try:
        message = cause.what if isinstance(cause, MlkitError) else str(cause)
    except Exception:
        return kind
    return f"{kind}: {message}" if message else kind
