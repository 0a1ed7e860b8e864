"""Compiled graphs: the function, inputs and dependents of each node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mlkit.define.conform import Conform, conform_to
from mlkit.define.fresh import is_shared, separate
from mlkit.define.graph import EMPTY, Argument, Graph, Node, Result, Source, resolver, sources
from mlkit.define.openness import result_check
from mlkit.define.resource import turns_of
from mlkit.define.source import unknown_key
from mlkit.define.step import BatchedStep, Step
from mlkit.define.turn import Turn

__all__ = ["Program", "Task", "compile_graph"]

Getter = Callable[[Mapping[str, Any], Mapping[str, Any]], Any]


@dataclass(frozen=True, eq=False)
class Test:
    """A condition, compiled."""

    on: Source
    get: Getter
    keys: tuple[Any, ...]
    negated: bool
    known: tuple[Any, ...]

    def holds(self, arguments: Mapping[str, Any], results: Mapping[str, Any]) -> bool:
        """Whether it holds for a request.

        Raises:
            InputError: the branch has no arm for the key.
        """
        key = self.get(arguments, results)
        if self.known and key not in self.known:
            raise unknown_key(self.on, key, self.known)
        return (key in self.keys) is not self.negated


@dataclass(frozen=True, eq=False)
class Task:
    """One node, compiled.

    Attributes:
        index: position in the program's tasks.
        inputs: for each parameter, a function of ``(arguments, results)``.
        resources: loaded resources by keyword, the same for every call.
        upstream: number of tasks that it depends on.
        downstream: indices of the tasks that depend on it.
        to_go: number of steps on the longest path from it, inclusive, to the result.
        max_batch_size: maximum of items per call; 0 for a step that is not batched.
        wait_s: how long a partial batch waits for more items.
        splits: whether a batch that raises is bisected to find the failing item.
        when: conditions, all of which must hold for it to run.
        each: the parameter that takes the items of a list one by one, or None.
        streams: whether the step makes its result item by item.
        conform: the check of a result, or of an item, against the step's annotation; or None.
        turns: of resources that one call at a time may use.
        defaults: of parameters that the pipeline does not pass, and that can change.
        changes: parameters that the step changes in place; each call gets copies for them.
    """

    index: int
    name: str
    step: Step[..., Any]
    inputs: tuple[tuple[str, Getter], ...]
    resources: Mapping[str, Any]
    upstream: int
    downstream: tuple[int, ...]
    to_go: int
    max_batch_size: int
    wait_s: float
    splits: bool
    when: tuple[Test, ...]
    each: str | None
    streams: bool = False
    conform: Conform | None = None
    turns: tuple[Turn, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    changes: tuple[str, ...] = ()

    def keep(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Replace the inputs that the step changes by copies, and return the inputs."""
        for name in self.changes:
            if name in inputs:
                inputs[name] = separate(inputs[name])
        return inputs

    @property
    def batched(self) -> bool:
        """Whether a call takes several requests."""
        return self.max_batch_size > 0

    @property
    def queued(self) -> bool:
        """Whether it runs on the workers, and not on the event loop or a thread of its own."""
        return not (self.step.is_async or self.streams)


@dataclass(frozen=True)
class Program:
    """Tasks of a graph in topological order, without those whose values are given."""

    graph: Graph
    given: frozenset[str]
    tasks: tuple[Task, ...]
    roots: tuple[Task, ...]
    output: Getter
    arguments: frozenset[str]
    """Names of the arguments that its tasks or its output read."""
    conform: Conform | None
    """The check of the output against the pipeline's annotation, or None.

    Items of a pipeline that streams are checked one by one instead, as they are made.
    """

    def resized(self, sizes: Mapping[str, int]) -> Program:
        """Return a copy with other maximum batch sizes, by task name."""
        if not sizes:
            return self
        tasks = tuple(
            replace(task, max_batch_size=sizes.get(task.name, task.max_batch_size))
            if task.batched
            else task
            for task in self.tasks
        )
        roots = tuple(task for task in tasks if not task.upstream)
        return replace(self, tasks=tasks, roots=roots)


def compile_graph(
    graph: Graph,
    given: frozenset[str] = frozenset(),
    loop: asyncio.AbstractEventLoop | None = None,
) -> Program:
    """Compile a graph, and load the resources of its tasks.

    Args:
        graph: a traced pipeline.
        given: nodes whose values are passed with each submission; these, and those that only they
            need, are left out.
        loop: event loop of the async steps, which runs in another thread; mlkit's background loop
            by default.
    """
    needed = set(graph.needed(given))
    for node in reversed(graph.nodes):  # conditions included
        if node.name in needed:
            needed.update(name for name in node.upstream if name not in given)
    nodes = [node for node in graph if node.name in needed]
    index = {node.name: i for i, node in enumerate(nodes)}
    ups = [tuple(index[u] for u in node.upstream if u in index) for node in nodes]
    downs = [tuple(j for j, up in enumerate(ups) if i in up) for i in range(len(nodes))]
    to_go = [1] * len(nodes)
    for i in reversed(range(len(nodes))):
        to_go[i] += max((to_go[j] for j in downs[i]), default=0)
    tasks = tuple(
        _compile(graph, node, i, len(ups[i]), downs[i], to_go[i], loop)
        for i, node in enumerate(nodes)
    )
    return Program(
        graph,
        given,
        tasks,
        tuple(task for task in tasks if not task.upstream),
        resolver(graph.output),
        _arguments(graph, nodes),
        None if _streamed(graph) else _border(graph, graph.type_of(graph.output), graph.returns),
    )


def _streamed(graph: Graph) -> Node | None:
    """The node whose items are those of the pipeline, if it streams."""
    output = graph.output
    if not graph.streams or not isinstance(output, Result) or output.path:
        return None
    return graph[output.node] if graph[output.node].step.streams else None


def _border(graph: Graph, type_: Any, declared: Any) -> Conform | None:
    """The check of a result, or an item, of the pipeline: its type if another one is declared."""
    if declared is EMPTY:  # a segment's results go to other steps, as any values do
        return None
    fits = None if type_ == declared else conform_to(declared)
    return _chained(fits, result_check(declared, graph))


def _chained(*checks: Conform | None) -> Conform | None:
    known = [check for check in checks if check is not None]
    if len(known) < 2:
        return next(iter(known), None)
    first, second = known
    return lambda value: second(first(value))


def _compile(
    graph: Graph,
    node: Node,
    i: int,
    upstream: int,
    downstream: tuple[int, ...],
    to_go: int,
    loop: asyncio.AbstractEventLoop | None,
) -> Task:
    step, changes = node.step, node.step.changes
    made = step.streamed_type if step.streams else step.return_type
    conform = conform_to(made)
    if node is _streamed(graph):
        conform = _chained(conform, _border(graph, made, graph.items))
    return Task(
        i,
        node.name,
        step,
        tuple((parameter, resolver(source)) for parameter, source in node.inputs.items()),
        {name: resource.get(loop) for name, resource in step.resources.items()},
        upstream,
        downstream,
        to_go,
        step.max_batch_size if isinstance(step, BatchedStep) else 0,
        step.options.batch_wait_timeout_s,
        step.options.split_failed_batches,
        tuple(Test(c.on, resolver(c.on), c.keys, c.negated, c.known) for c in node.when),
        node.each,
        step.streams,
        conform,
        turns_of(step.resources),
        {
            name: parameter.default
            for name, parameter in step.parameters.items()
            if name not in node.inputs and (name in changes or not is_shared(parameter.default))
        },
        tuple(sorted(changes)),
    )


def _arguments(graph: Graph, nodes: list[Node]) -> frozenset[str]:
    read = [source for node in nodes for source in node.sources] + [graph.output]
    return frozenset(a.name for source in read for a in sources(source, Argument))
