"""The state of one request on its way through a program."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any, TypeAlias

from mlkit.errors import MlkitError, StepError
from mlkit.execute.program import Program, Task
from mlkit.execute.run import NodeRun, Run

__all__ = ["Execution", "Part", "Work"]


class Execution:
    """One request. Fields are written under the executor's lock, or by the one task that runs.

    Attributes:
        results: values of nodes by name, given ones included.
        finished: no task of it will start any more.
        error: what ended it early, or None.
        output: what the pipeline returns, once finished without an error.
    """

    __slots__ = (
        "__weakref__",
        "_gathered",
        "_give_up",
        "arguments",
        "async_tasks",
        "began",
        "context",
        "deadline",
        "ended",
        "error",
        "failed",
        "failed_item",
        "finished",
        "left",
        "on_done",
        "on_node",
        "output",
        "program",
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
        on_done: Callable[[Execution], None],
        deadline: float | None,
        on_node: Callable[[str, Any], None] | None = None,
    ) -> None:
        tasks = program.tasks
        self.program = program
        self._give_up = give_up
        self.arguments = arguments
        self.results: dict[str, Any] = dict(given)
        self.on_done = on_done
        self.on_node = on_node
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
        self.ended = 0.0

    @property
    def root(self) -> Execution:
        """The request itself; of a `Part`, the one that it belongs to."""
        return self

    def cancel(self) -> None:
        """Give it up: what is queued of it never runs, and nobody else notices."""
        self._give_up(self)

    @property
    def expired(self) -> bool:
        """Whether its time has run out."""
        return self.deadline is not None and perf_counter() > self.deadline

    @property
    def left_s(self) -> float | None:
        """Seconds to its deadline, 0 past it; None where it has none."""
        return None if self.deadline is None else max(0.0, self.deadline - perf_counter())

    def release(self, task: Task) -> list[Task]:
        """Tasks that can run now that this one is done."""
        free = []
        for index in task.downstream:
            self.waiting[index] -= 1
            if not self.waiting[index]:
                free.append(self.program.tasks[index])
        return free

    def runs(self, task: Task) -> bool:
        """Whether the conditions of a task hold.

        Raises:
            InputError: a branch has no arm for what was found.
        """
        return all(test.holds(self.arguments, self.results) for test in task.when)

    def skip(self, task: Task) -> None:
        """Pass over a task whose conditions do not hold."""
        self.skipped.add(task.index)
        self.left -= 1

    def spread(self, task: Task) -> list[Part]:
        """A part for each item of the list that a task runs over.

        Raises:
            TypeError: it is no list.
        """
        get = next(get for name, get in task.inputs if name == task.each)
        items = list(get(self.arguments, self.results))
        self._gathered[task.index] = _Gathered([None] * len(items), len(items))
        return [Part(self, i, item) for i, item in enumerate(items)]

    def gather(
        self, part: Part, task: Task, value: Any, start: float, finish: float, size: int
    ) -> bool:
        """Take up what one item gave; True when it was the last, and the list is in the results."""
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

    def settle(self) -> None:
        """Work out what it ends with.

        It runs code of users (fields, the text of exceptions), hence outside the executor's lock.
        """
        name = self.program.graph.name
        if self.error is None:
            try:
                self.output = self.program.output(self.arguments, self.results)
            except BaseException as raised:
                self.error = MlkitError(_told(raised), where=f"pipeline {name!r}")
                self.error.__cause__ = raised
        elif self.failed is not None:
            item = None if self.failed.each is None else self.failed_item
            self.error = _step_error(self.failed.name, name, self.error, item)

    def to_run(self) -> Run:
        """What happened, as data; may be taken while it is still going on."""
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
            given = name in self.program.given
            return NodeRun(name, "given" if given else "not run", self.results.get(name))
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
        )


@dataclass(slots=True)
class _Gathered:
    """What the items of one list have given so far."""

    values: list[Any]
    left: int


class Part:
    """One item of a list that a task runs over: queued and batched like a request of its own."""

    __slots__ = ("index", "item", "root")

    def __init__(self, root: Execution, index: int, item: Any) -> None:
        self.root = root
        self.index = index
        self.item = item

    def __getattr__(self, name: str) -> Any:
        return getattr(self.root, name)


Work: TypeAlias = Execution | Part
"""What a task is called for."""


def _step_error(step: str, pipeline: str, cause: BaseException, item: int | None) -> StepError:
    if isinstance(cause, StepError):  # of a stage in another process: it names the step
        return cause
    parts = {
        part: getattr(cause, part, None)
        for part in ("expected", "got", "fix")
        if isinstance(cause, MlkitError)
    }
    told = _told(cause) if item is None else f"item {item}: {_told(cause)}"
    error = StepError(told, step=step, pipeline=pipeline, **parts)
    error.__cause__ = cause
    return error


def _told(cause: BaseException) -> str:
    """An exception in one line, also where its own text cannot be had."""
    kind = type(cause).__name__
    try:
        what = cause.what if isinstance(cause, MlkitError) else str(cause)
    except Exception:
        return kind
    return f"{kind}: {what}" if what else kind
