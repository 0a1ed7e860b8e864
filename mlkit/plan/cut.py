"""Partitioning of a graph along its stages.

The nodes of a stage run in as few remote calls as the graph allows: the nodes of one call form a
segment. A stage has several segments if nodes elsewhere must run in between. In the front's graph,
each segment becomes one node that calls it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from inspect import Parameter as Inspected
from inspect import Signature
from typing import Any, get_origin

from mlkit.define.graph import (
    Argument,
    Choice,
    Collection,
    Constant,
    Graph,
    Node,
    Parameter,
    Result,
    Source,
    sources,
)
from mlkit.define.step import Step

__all__ = ["Cut", "RemoteStep", "Segment", "cut", "model_parameter"]

Atom = Argument | Result | Choice
"""A value passed between processes as a whole; of a branch, only the selected arm."""


@dataclass(frozen=True)
class Segment:
    """Nodes of one stage that run in one call.

    Attributes:
        name: unique in its graph; that of its node if it has only one.
        graph: its nodes, with one parameter per value from outside; it returns a tuple of the
            values that are used outside, or streams its last node.
    """

    name: str
    stage: str
    nodes: tuple[str, ...]
    graph: Graph


@dataclass(frozen=True)
class Cut:
    """A partitioned graph.

    Attributes:
        front: the front's graph, with one node per segment, whose step is a `RemoteStep`.
        segments: in topological order.
    """

    front: Graph
    segments: tuple[Segment, ...]


class RemoteStep(Step[..., Any]):
    """Stands for a segment in another process; ``call`` is set before the first request.

    The ``call`` of a segment that streams returns an async generator.

    Attributes:
        takes: names of its inputs.
        model: the input that names a model of a pool in the segment; None without one.
    """

    def __init__(
        self,
        stage: str,
        segment: str,
        parameters: tuple[str, ...],
        streaming: bool = False,
        model: str | None = None,
    ) -> None:
        self.stage = stage
        self.segment = segment
        self.takes = parameters
        self.model = model
        self.call: Callable[[RemoteStep, dict[str, Any]], Any] | None = None
        super().__init__(_remote(self, streaming))
        self.name = segment

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteStep, (self.stage, self.segment, self.takes, self.yields, self.model)


def _remote(step: RemoteStep, streaming: bool) -> Callable[..., Any]:
    async def remote(**inputs: Any) -> Any:
        assert step.call is not None
        return await step.call(step, inputs)

    async def remote_items(**inputs: Any) -> AsyncIterator[Any]:
        assert step.call is not None
        async with aclosing(step.call(step, inputs)) as items:
            async for item in items:
                yield item

    fn: Any = remote_items if streaming else remote
    fn.__name__ = step.segment
    fn.__signature__ = Signature([Inspected(name, Inspected.KEYWORD_ONLY) for name in step.takes])
    del fn.__annotations__["return"]  # the types are those of the segment
    typed: Callable[..., Any] = fn
    return typed


def cut(graph: Graph, stages: Mapping[str, str]) -> Cut:
    """Partition a graph.

    Args:
        graph: the graph of a pipeline.
        stages: stage by node; nodes without one remain in the front.
    """
    groups = _groups(graph, stages)
    group_of = {name: key for key, names in groups.items() for name in names}
    segments: list[Segment] = []
    moved: dict[Result, Result] = {}
    remote: dict[str, Node] = {}
    names = _names(graph, groups)
    for key, members in groups.items():
        segment, node, results = _segment(graph, names[key], stages[members[0]], members)
        segments.append(segment)
        moved.update(results)
        remote[segment.name] = node
    nodes = [*(node for node in graph if node.name not in group_of), *remote.values()]

    def follow(atom: Atom) -> Source:
        return moved.get(atom, atom) if isinstance(atom, Result) else atom

    front = Graph(
        graph.name,
        graph.parameters,
        _sorted([_rewritten(node, follow) for node in nodes]),
        mapped(graph.output, follow),
        graph.returns,
        graph.doc,
        graph.items,
        graph.idempotent,
    )
    order = {node.name: i for i, node in enumerate(front.nodes)}
    return Cut(front, tuple(sorted(segments, key=lambda segment: order[segment.name])))


Key = tuple[Any, ...]


def _groups(graph: Graph, stages: Mapping[str, str]) -> dict[Key, list[str]]:
    """Nodes that run in one call, by stage, condition and number of changes of these upstream.

    An edge between groups always leads to a higher number, so that there are no cycles.
    """
    where: dict[str, Any] = {}
    depth: dict[str, int] = {}
    groups: dict[Key, list[str]] = {}
    for node in graph:
        place = (stages.get(node.name), node.when)
        where[node.name] = place
        depth[node.name] = max(
            (depth[up] + (where[up] != place) for up in node.upstream), default=0
        )
        if place[0] is not None:
            groups.setdefault((*place, depth[node.name]), []).append(node.name)
    return groups


def _names(graph: Graph, groups: Mapping[Key, list[str]]) -> dict[Key, str]:
    """Name each group, distinct from other groups and from the nodes of the front."""
    singles = {members[0] for members in groups.values() if len(members) == 1}
    grouped = {name for members in groups.values() for name in members}
    taken = singles | {node.name for node in graph if node.name not in grouped}
    names = {}
    for key, members in groups.items():
        name = members[0] if len(members) == 1 else _free(key[0], taken)
        taken.add(name)
        names[key] = name
    return names


def _free(name: str, taken: set[str]) -> str:
    candidates = (name if i == 1 else f"{name}_{i}" for i in range(1, len(taken) + 3))
    return next(candidate for candidate in candidates if candidate not in taken)


def _segment(
    graph: Graph, name: str, stage: str, members: list[str]
) -> tuple[Segment, Node, dict[Result, Result]]:
    """Return a group as a segment, the node that calls it, and the new sources of its results."""
    inside = frozenset(members)
    inner = [graph[member] for member in members]
    entering = _distinct(
        atom
        for node in inner
        for source in node.inputs.values()
        for atom in _atoms(source)
        if not isinstance(atom, Result) or atom.node not in inside
    )
    # Named by position, since an argument and a node may have the same name.
    names = {atom: f"in_{i}" for i, atom in enumerate(entering)}
    read = _distinct(
        atom
        for source in _read_outside(graph, inside)
        for atom in sources(source, Result)
        if atom.node in inside
    )
    # A part of a value that leaves as a whole is selected in the front.
    leaving = [atom for atom in read if not atom.path or Result(atom.node) not in read]

    def follow(atom: Atom) -> Source:
        return Argument(names[atom]) if atom in names else atom

    parameters = tuple(
        Parameter(name, graph.type_of(atom), required=True) for atom, name in names.items()
    )
    # The front evaluates the condition before the call.
    nodes = tuple(_rewritten(replace(node, when=()), follow) for node in inner)
    # All nodes lead to the one that streams, so that nothing else leaves its segment.
    streamed = next((node for node in inner if node.step.streams and graph.streams), None)
    output: Source = Collection(tuple, tuple(leaving))
    returns: Any = Inspected.empty
    items: Any = Inspected.empty
    if streamed is not None:
        output, returns, items = Result(streamed.name), streamed.type, graph.items
    subgraph = Graph(name, parameters, nodes, output, returns, graph.doc, items)
    models = (atom for node in inner for atom in _models(node) if atom in names)
    model = next((names[atom] for atom in models), None)
    step = RemoteStep(stage, name, tuple(names.values()), streamed is not None, model)
    inputs: dict[str, Source] = {key: atom for atom, key in names.items()}
    node = Node(name, step, inputs, when=inner[0].when)
    if streamed is not None:
        segment = Segment(name, stage, tuple(members), subgraph)
        return segment, node, {Result(streamed.name): Result(name)}
    place = {atom: i for i, atom in enumerate(leaving)}
    moved = {atom: Result(name, (i,)) for atom, i in place.items()}
    moved |= {
        part: Result(name, (place[Result(part.node)], *part.path))
        for part in read
        if Result(part.node) in place
    }
    return Segment(name, stage, tuple(members), subgraph), node, moved


def model_parameter(step: Step[..., Any]) -> str | None:
    """Return the parameter with the id of the model that a step takes from a pool, if any.

    The class of the pool, which is the declared type of the resource, has the names of such
    parameters in ``routed_by``.
    """
    for resource in step.resources:
        declared = step.hints.get(resource)
        names = getattr(get_origin(declared) or declared, "routed_by", ())
        for name in step.parameters:
            if name in names:
                return name
    return None


def _models(node: Node) -> Iterator[Atom]:
    parameter = model_parameter(node.step)
    if parameter is not None and parameter in node.inputs:
        yield from _atoms(node.inputs[parameter])


def _atoms(source: Source) -> Iterator[Atom]:
    """Atoms of a source; a branch is one, since its arms and key run in other calls."""
    if isinstance(source, Collection):
        for item in source.items:
            yield from _atoms(item)
    elif not isinstance(source, Constant):
        yield source


def _read_outside(graph: Graph, inside: frozenset[str]) -> Iterable[Source]:
    for node in graph:
        if node.name not in inside:
            yield from node.inputs.values()
        # The front evaluates conditions, including those on nodes of the same segment.
        yield from (condition.on for condition in node.when)
    yield graph.output


def _distinct(atoms: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(atoms))


def _rewritten(node: Node, follow: Callable[[Atom], Source]) -> Node:
    inputs = {name: mapped(source, follow) for name, source in node.inputs.items()}
    when = tuple(replace(c, on=mapped(c.on, follow)) for c in node.when)
    return replace(node, inputs=inputs, when=when)


def mapped(source: Source, follow: Callable[[Atom], Source]) -> Source:
    """Replace each argument and result in a source."""
    if isinstance(source, (Argument, Result)):
        return follow(source)
    if isinstance(source, Collection):
        return replace(source, items=tuple(mapped(item, follow) for item in source.items))
    if isinstance(source, Choice):
        target = follow(source)
        if target is not source:
            return target
        return Choice(
            mapped(source.on, follow),
            tuple((key, mapped(arm, follow)) for key, arm in source.arms),
            None if source.default is None else mapped(source.default, follow),
        )
    return source


def _sorted(nodes: list[Node]) -> tuple[Node, ...]:
    by_name = {node.name: node for node in nodes}
    order = TopologicalSorter({node.name: node.upstream for node in nodes}).static_order()
    return tuple(by_name[name] for name in order)
