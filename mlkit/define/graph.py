"""A pipeline as data: its steps, their inputs and types; nothing about execution."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlkit.define.source import (
    Argument,
    Choice,
    Collection,
    Condition,
    Constant,
    Path,
    Result,
    Source,
    brief,
    resolver,
    select,
    sources,
)
from mlkit.define.step import Step
from mlkit.define.typing import field_types, show, tuple_types

__all__ = [
    "Argument",
    "Choice",
    "Collection",
    "Condition",
    "Constant",
    "Graph",
    "Link",
    "Node",
    "Parameter",
    "Problem",
    "Result",
    "Source",
    "resolver",
    "select",
    "sources",
]

EMPTY = inspect.Parameter.empty


@dataclass(frozen=True)
class Parameter:
    """A parameter of the pipeline.

    Attributes:
        type: its annotation, or ``inspect.Parameter.empty``.
        default: its default; meaningless where ``required``.
    """

    name: str
    type: Any
    required: bool
    default: Any = None

    @property
    def type_name(self) -> str:
        """Its type as source code; "?" without an annotation."""
        return show(self.type)

    def __str__(self) -> str:
        typed = f"{self.name}: {self.type_name}"
        return typed if self.required else f"{typed} = {brief(self.default)}"


@dataclass(frozen=True)
class Node:
    """One call of a step.

    Attributes:
        name: unique in its graph: the step's name, with ``_2`` and so on for further calls.
        inputs: source of each argument; arguments left at their default are missing.
        when: conditions, all of which must hold for it to run.
        each: the parameter that takes the items of a list one by one, or None.
    """

    name: str
    step: Step[..., Any]
    inputs: Mapping[str, Source]
    when: tuple[Condition, ...] = ()
    each: str | None = None

    @property
    def type(self) -> Any:
        """Type of its result; a list of the step's where it runs over a list."""
        type_ = self.step.return_type
        return type_ if self.each is None or type_ is EMPTY else types.GenericAlias(list, (type_,))

    @property
    def type_name(self) -> str:
        """Type of its result as source code; "?" without an annotation."""
        item = self.step.streamed_type
        return show(self.type) if item is EMPTY else show(types.GenericAlias(Iterator, (item,)))

    @property
    def upstream(self) -> tuple[str, ...]:
        """Names of the nodes whose results it takes, without duplicates, in order of use."""
        names = (s.node for source in self.sources for s in sources(source, Result))
        return tuple(dict.fromkeys(names))

    @property
    def sources(self) -> tuple[Source, ...]:
        """All that it reads: sources of its arguments and of its conditions."""
        return (*self.inputs.values(), *(condition.on for condition in self.when))

    @property
    def asked(self) -> tuple[tuple[Argument | Result, str], ...]:
        """Sources of its conditions, each with the keys for which it runs, as text."""
        asked: list[tuple[Argument | Result, str]] = []
        for condition in self.when:
            keys = " or ".join(k if isinstance(k, str) else brief(k) for k in condition.keys)
            label = "else" if condition.negated else keys
            asked += [(source, label) for source in sources(condition.on, (Argument, Result))]
        return tuple(asked)

    def __str__(self) -> str:
        arguments = (
            f"{name}={source}" if isinstance(source, Constant) else str(source)
            for name, source in self.inputs.items()
        )
        called = f"{self.name}({', '.join(arguments)})"
        if self.each is not None:
            called = f"each {called}"
        conditions = f" if {' and '.join(map(str, self.when))}" if self.when else ""
        return f"{called} -> {self.type_name}{conditions}"


@dataclass(frozen=True)
class Link:
    """A value passed to a node, or returned by the pipeline.

    Attributes:
        target: name of the node that takes it; None for the pipeline's result.
        parameter: the node's parameter; None for the pipeline's result.
        type: its type if known, else ``inspect.Parameter.empty``.
    """

    source: Argument | Result
    target: str | None
    parameter: str | None
    type: Any

    @property
    def type_name(self) -> str:
        """Its type as source code; "?" if unknown."""
        return show(self.type)


@dataclass(frozen=True)
class Problem:
    """Something that blocks the deployment of a pipeline.

    Attributes:
        node: name of the node or step that it concerns, if any.
        parameter: the parameter of that node that it concerns, if any.
    """

    where: str
    what: str
    expected: str | None = None
    got: str | None = None
    fix: str | None = None
    node: str | None = None
    parameter: str | None = None

    def __str__(self) -> str:
        contrast = [f"{k} {v}" for k, v in (("expected", self.expected), ("got", self.got)) if v]
        parts = [f"{self.where}: {self.what}"]
        if contrast:
            parts.append(f" ({', '.join(contrast)})")
        if self.fix:
            parts.append(f" → {self.fix}")
        return "".join(parts)


@dataclass(frozen=True)
class Graph:
    """A traced pipeline.

    Attributes:
        nodes: in topological order.
        output: source of the result.
        returns: type of the result, or ``inspect.Parameter.empty``.
        doc: the pipeline's docstring, or "".
        items: type of the items of a pipeline that streams, whose result is a list of them;
            ``inspect.Parameter.empty`` for any other.
        idempotent: whether a request may be run twice, if the first run gave no answer.
    """

    name: str
    parameters: tuple[Parameter, ...]
    nodes: tuple[Node, ...]
    output: Source
    returns: Any
    doc: str = ""
    items: Any = EMPTY
    idempotent: bool = True
    _index: dict[str, Node] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._index.update({node.name: node for node in self.nodes})

    def __getitem__(self, name: str) -> Node:
        """The node of that name; KeyError otherwise."""
        try:
            return self._index[name]
        except KeyError:
            raise KeyError(f"no node {name!r}; there are {', '.join(self._index)}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._index

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def links(self) -> tuple[Link, ...]:
        """Every value passed to a node, in node order, then those returned."""
        ends = [
            (node.name, parameter, source)
            for node in self.nodes
            for parameter, source in node.inputs.items()
        ]
        return tuple(
            Link(s, target, parameter, self.type_of(s))
            for target, parameter, source in [*ends, (None, None, self.output)]
            for s in sources(source, (Argument, Result), routing=False)
        )

    def type_of(self, source: Source) -> Any:
        """Type of a source's value, or ``inspect.Parameter.empty`` if unknown."""
        if isinstance(source, Constant):
            return type(source.value)
        if isinstance(source, Argument):
            types = {p.name: p.type for p in self.parameters}
            return _follow(types[source.name], source.path)
        if isinstance(source, Result):
            return _follow(self[source.node].type, source.path)
        if isinstance(source, Choice):
            return self.type_of(source.arms[0][1])
        if source.kind in (list, tuple) and source.items:
            members = tuple(self.type_of(item) for item in source.items)
            return tuple[members] if source.kind is tuple else list[typing.Union[members]]  # type: ignore[valid-type]  # noqa: UP007
        return source.kind

    @property
    def signature(self) -> str:
        """Its signature: ``tag(image: ImageSource, title: str = '') -> ProductTags``."""
        parameters = ", ".join(map(str, self.parameters))
        streamed = types.GenericAlias(Iterator, (self.items,))
        return f"{self.name}({parameters}) -> {show(streamed if self.streams else self.returns)}"

    @property
    def streams(self) -> bool:
        """Whether its result is made, and can be sent, item by item."""
        return self.items is not EMPTY

    @property
    def resources(self) -> dict[int, Any]:
        """Every resource of its steps, by identity."""
        return {id(r): r for node in self.nodes for r in node.step.resources.values()}

    def needed(self, given: frozenset[str] = frozenset()) -> frozenset[str]:
        """Nodes that have to run when the values of ``given`` ones are known."""
        used = {up for node in self.nodes for up in node.upstream}
        # A node whose result is not used runs for its side effects.
        stack = [s.node for s in sources(self.output, Result)]
        stack += [node.name for node in self.nodes if node.name not in used]
        needed: set[str] = set()
        while stack:
            name = stack.pop()
            if name not in given and name not in needed:
                needed.add(name)
                stack += self[name].upstream
        return frozenset(needed)

    def __str__(self) -> str:
        from mlkit.views.graph import to_text

        return to_text(self)

    def _repr_html_(self) -> str:
        from mlkit.views.graph import to_html

        return to_html(self)


def _follow(type_: Any, path: Path) -> Any:
    for part in path:
        if isinstance(part, int):
            type_ = (tuple_types(type_) or {part: EMPTY})[part]
        else:
            type_ = (field_types(type_) or {}).get(part, EMPTY)
    return type_
