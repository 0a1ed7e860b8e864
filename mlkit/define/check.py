"""What keeps a graph from being deployed, found without running it."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from typing import Any

from mlkit.define import border, shipping
from mlkit.define.graph import Argument, Constant, Graph, Node, Problem, Result, Source, sources
from mlkit.define.typing import field_types, fits, show, tuple_types

__all__ = ["check", "source_type"]

EMPTY = inspect.Parameter.empty


def check(graph: Graph) -> tuple[Problem, ...]:
    """Every problem of a graph, those of its types first, in the order of its nodes."""
    return tuple(
        [
            *_annotations(graph),
            *_edges(graph),
            *_returned(graph),
            *_names(graph),
            *_dead_ends(graph),
            *border.problems(graph),
            *shipping.problems(graph),
        ]
    )


def source_type(graph: Graph, source: Source) -> Any:
    """Type of what a source gives, or `inspect.Parameter.empty` where it is not known."""
    if isinstance(source, Constant):
        return type(source.value)
    if isinstance(source, Argument):
        types = {p.name: p.type for p in graph.parameters}
        return _follow(types[source.name], source.path)
    if isinstance(source, Result):
        return _follow(graph[source.node].type, source.path)
    if source.kind in (list, tuple) and source.items:
        members = tuple(source_type(graph, item) for item in source.items)
        return tuple[members] if source.kind is tuple else list[typing.Union[members]]  # type: ignore[valid-type]  # noqa: UP007
    return source.kind


def _follow(type_: Any, path: tuple[str | int, ...]) -> Any:
    for part in path:
        if isinstance(part, int):
            type_ = (tuple_types(type_) or {part: EMPTY})[part]
        else:
            type_ = (field_types(type_) or {}).get(part, EMPTY)
    return type_


def _annotations(graph: Graph) -> Iterator[Problem]:
    for parameter in graph.parameters:
        if parameter.type is EMPTY:
            yield _missing(f"pipeline {graph.name!r}", f"{parameter.name!r}")
    if graph.returns is EMPTY:
        yield _missing(f"pipeline {graph.name!r}", "what it returns")
    for step in {node.step.name: node.step for node in graph}.values():
        where = f"step {step.name!r}"
        if not step.hints and step.fn.__annotations__:
            yield Problem(where, "its annotations name something that is not defined")
            continue
        for name in step.parameters:
            if step.hints.get(name, EMPTY) is EMPTY:
                yield _missing(where, f"{name!r}")
            elif step.input_type(name) is EMPTY:
                yield _not_a_sequence(where, f"{name!r}", step.hints[name])
        if step.hints.get("return", EMPTY) is EMPTY:
            yield _missing(where, "what it returns")
        elif step.return_type is EMPTY:
            yield _not_a_sequence(where, "what it returns", step.hints["return"])


def _missing(where: str, what: str) -> Problem:
    return Problem(where, f"{what} has no type annotation", fix="annotate it")


def _not_a_sequence(where: str, what: str, type_: Any) -> Problem:
    return Problem(
        where,
        f"{what} of a batched step is a sequence with one entry per item",
        expected="list[T] or np.ndarray",
        got=show(type_),
    )


def _edges(graph: Graph) -> Iterator[Problem]:
    for node in graph:
        for parameter, source in node.inputs.items():
            given, wanted = source_type(graph, source), node.step.input_type(parameter)
            if not fits(given, wanted):
                yield Problem(
                    f"step {node.name!r}",
                    f"{parameter!r} gets {_origin(source)}, whose type does not fit",
                    expected=show(wanted),
                    got=show(given),
                    fix=f"change the annotation, or put a step between that turns "
                    f"{show(given)} into {show(wanted)}",
                )


def _origin(source: Source) -> str:
    match source:
        case Argument(name, path):
            return f"the argument {name!r}{_path(path)}"
        case Result(node, path):
            return f"the result of {node!r}{_path(path)}"
        case Constant(value):
            return f"the constant {value!r:.40}"
    return f"a {source.kind.__name__}"


def _path(path: tuple[str | int, ...]) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path)


def _returned(graph: Graph) -> Iterator[Problem]:
    given = source_type(graph, graph.output)
    if not fits(given, graph.returns):
        yield Problem(
            f"pipeline {graph.name!r}",
            f"it returns {_origin(graph.output)}, whose type does not fit its annotation",
            expected=show(graph.returns),
            got=show(given),
        )


def _names(graph: Graph) -> Iterator[Problem]:
    seen: dict[str, Node] = {}
    for node in graph:
        first = seen.setdefault(node.step.name, node)
        if first.step.fn is not node.step.fn:
            yield Problem(
                f"step {node.name!r}",
                f"two different functions are called {node.step.name!r} in one pipeline",
                fix="rename one of them, or run the cells again from top to bottom",
            )


def _dead_ends(graph: Graph) -> Iterator[Problem]:
    used = {s.node for s in sources(graph.output, Result)}
    for node in reversed(graph.nodes):
        if node.name in used:
            used.update(node.upstream)
        else:
            yield Problem(
                f"step {node.name!r}",
                "its result reaches nothing that the pipeline returns",
                fix="use it or leave the call out",
            )
