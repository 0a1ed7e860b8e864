"""One execution as data: every node's value and time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mlkit.define.graph import Graph

__all__ = ["NodeRun", "Run"]

Status = Literal["done", "given", "failed", "skipped", "not run"]


@dataclass(frozen=True)
class NodeRun:
    """Outcome of one node.

    Attributes:
        value: its result, or None.
        ready_s: when its inputs were available, in seconds since the run began.
        start_s: when its function was called.
        finish_s: when its function returned or raised.
        batch_size: number of items of its call; 1 for steps that are not batched.
        error: what it raised.
        first_item_s: when a step that streams yielded its first item; None for any other step.
    """

    name: str
    status: Status
    value: Any = None
    ready_s: float = 0.0
    start_s: float = 0.0
    finish_s: float = 0.0
    batch_size: int = 1
    error: BaseException | None = None
    first_item_s: float | None = None

    @property
    def duration_s(self) -> float:
        """Seconds that its function ran."""
        return self.finish_s - self.start_s

    @property
    def waited_s(self) -> float:
        """Seconds from its inputs being available to its function being called."""
        return self.start_s - self.ready_s


@dataclass(frozen=True)
class Run:
    """One execution of a pipeline in this process: ``run["decode"].value``, ``run.value``.

    Attributes:
        graph: the graph that was run.
        arguments: by name.
        nodes: one per node of the graph, in the same order.
        total_s: seconds from the call to the result.
        error: the exception that ended it, or None.
    """

    graph: Graph
    arguments: Mapping[str, Any]
    nodes: tuple[NodeRun, ...]
    total_s: float
    output: Any = None
    error: BaseException | None = None

    @property
    def value(self) -> Any:
        """The pipeline's result; raises ``error`` if it failed."""
        if self.error is not None:
            raise self.error.with_traceback(None)
        return self.output

    def __getitem__(self, name: str) -> NodeRun:
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(f"no node {name!r}; there are {', '.join(n.name for n in self.nodes)}")

    def __repr__(self) -> str:
        done = sum(node.status == "done" for node in self.nodes)
        state = "failed" if self.error else "done"
        return (
            f"<run of {self.graph.name}: {state}, {done} of {len(self.nodes)} steps, "
            f"{self.total_s * 1e3:.1f} ms>"
        )

    def __str__(self) -> str:
        from mlkit.views.run import to_text

        return to_text(self)

    def _repr_html_(self) -> str:
        from mlkit.views.run import to_html

        return to_html(self)
