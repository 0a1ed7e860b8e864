"""Static checks of a graph: what blocks its deployment."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

from mlkit.define import arguments, border, shippable
from mlkit.define.fresh import FIXED
from mlkit.define.graph import (
    Argument,
    Choice,
    Constant,
    Graph,
    Node,
    Problem,
    Result,
    Source,
    sources,
)
from mlkit.define.step import Step
from mlkit.define.typing import fits, iterated_type, show, value_fits

__all__ = ["check", "varying"]

EMPTY = inspect.Parameter.empty


def check(graph: Graph) -> tuple[Problem, ...]:
    """Return every problem of a graph, type errors first, in node order."""
    return (
        *_annotations(graph),
        *_edges(graph),
        *_returned(graph),
        *_streams(graph),
        *_names(graph),
        *_dead_ends(graph),
        *arguments.problems(graph),
        *border.problems(graph),
        *shippable.problems(graph),
    )


def varying(graph: Graph, again: Graph) -> Iterator[Problem]:
    """Constants that differ between two traces of a pipeline, as a time or a random number does."""
    for node, same in zip(graph, again, strict=False):
        for parameter, source in node.inputs.items():
            pairs = zip(
                sources(source, Constant),
                sources(same.inputs.get(parameter, source), Constant),
                strict=False,
            )
            for first, second in pairs:
                if _is_compared(first.value) and repr(first.value) != repr(second.value):
                    yield Problem(
                        f"step {node.name!r}",
                        f"{parameter!r} gets a value that the pipeline's body computes anew each "
                        "time that it is traced; a replica keeps one value for all requests",
                        got=f"{first}, then {second}",
                        fix="compute it in a step",
                        node=node.name,
                        parameter=parameter,
                    )


_COMPARED = FIXED | {date, datetime, time, timedelta, Decimal, Fraction, UUID}


def _is_compared(value: Any) -> bool:
    """Whether values are equal if and only if their text is."""
    if type(value) in (list, tuple):
        return all(map(_is_compared, value))
    if type(value) is dict:
        return all(_is_compared(part) for item in value.items() for part in item)
    return type(value) in _COMPARED


def _annotations(graph: Graph) -> Iterator[Problem]:
    for parameter in graph.parameters:
        if parameter.type is EMPTY:
            yield _missing(f"pipeline {graph.name!r}", f"{parameter.name!r}")
    if graph.returns is EMPTY:
        yield _missing(f"pipeline {graph.name!r}", "what it returns")
    for step in {node.step.name: node.step for node in graph}.values():
        yield from _step_annotations(step)


def _step_annotations(step: Step[..., Any]) -> Iterator[Problem]:
    where = f"step {step.name!r}"
    try:
        typing.get_type_hints(step.fn)
    except Exception as error:
        yield Problem(where, f"its annotations cannot be read: {error}", node=step.name)
        return
    for name in step.parameters:
        if step.hints.get(name, EMPTY) is EMPTY:
            yield _missing(where, f"{name!r}", step.name)
        elif step.input_type(name) is EMPTY:
            yield _not_a_sequence(step.name, f"{name!r}", step.hints[name])
    if step.hints.get("return", EMPTY) is EMPTY:
        yield _missing(where, "what it returns", step.name)
    elif step.return_type is EMPTY:
        yield _not_a_sequence(step.name, "what it returns", step.hints["return"])


def _missing(where: str, subject: str, node: str | None = None) -> Problem:
    return Problem(where, f"{subject} has no type annotation", fix="annotate it", node=node)


def _not_a_sequence(step: str, subject: str, type_: Any) -> Problem:
    return Problem(
        f"step {step!r}",
        f"{subject} of a batched step is a sequence with one entry per item",
        expected="list[T] or np.ndarray",
        got=show(type_),
        node=step,
    )


def _edges(graph: Graph) -> Iterator[Problem]:
    for node in graph:
        for parameter, source in node.inputs.items():
            expected = _expected_type(node, parameter)
            for option in _options(source):
                actual = graph.type_of(option)
                literal = isinstance(option, Constant) and value_fits(option.value, expected)
                if literal or fits(actual, expected):
                    continue
                yield Problem(
                    f"step {node.name!r}",
                    f"{parameter!r} gets {_origin(option)}, whose type does not fit",
                    expected=show(expected),
                    got=show(actual),
                    fix="change the annotation, or add a step that converts "
                    f"{show(actual)} to {show(expected)}",
                    node=node.name,
                    parameter=parameter,
                )


def _expected_type(node: Node, parameter: str) -> Any:
    """Type that a node takes: a sequence for the parameter that it runs over."""
    expected = node.step.input_type(parameter)
    if parameter != node.each or expected is EMPTY:
        return expected
    return types.GenericAlias(Sequence, (expected,))


def _options(source: Source) -> Iterator[Source]:
    """The alternatives of a source: each arm of a branch, recursively."""
    if isinstance(source, Choice):
        for option in source.options:
            yield from _options(option)
    else:
        yield source


def _origin(source: Source) -> str:
    match source:
        case Argument():
            return f"the argument {str(source)!r}"
        case Result():
            return f"the result of {str(source)!r}"
        case Constant():
            return f"the constant {source}"
        case Choice():
            return f"the branch {source}"
    return f"the {source.kind.__name__} {source}"


def _returned(graph: Graph) -> Iterator[Problem]:
    for option in _options(graph.output):
        actual = graph.type_of(option)
        if not fits(actual, graph.returns):
            yield Problem(
                f"pipeline {graph.name!r}",
                f"it returns {_origin(option)}, whose type does not fit its annotation",
                expected=show(graph.returns),
                got=show(actual),
            )


def _streams(graph: Graph) -> Iterator[Problem]:
    """Iterators, which can be read once, anywhere but between the last step and the caller."""
    for step in {node.step.name: node.step for node in graph}.values():
        yield from _streaming_step(step)
    read = {s.node for node in graph for source in node.sources for s in sources(source, Result)}
    last = list(_options(graph.output))
    for node in graph:
        if node.step.streams and (node.name in read or Result(node.name) not in last):
            yield Problem(
                f"step {node.name!r}",
                "it streams, so it can only be the last step of a pipeline",
                fix="collect its items into a list, and annotate it list[T]",
                node=node.name,
            )
    where = f"pipeline {graph.name!r}"
    for parameter in graph.parameters:
        if iterated_type(parameter.type) is not EMPTY:
            yield Problem(
                where,
                f"the argument {parameter.name!r} could be read only once",
                expected="list[T]",
                got=show(parameter.type),
                fix="annotate it list[T]",
            )
    for option in last:
        streams = isinstance(option, Result) and graph[option.node].step.streams
        if streams and not graph.streams:
            yield Problem(
                where,
                f"it returns {_origin(option)}, which streams",
                expected="Iterator[T]",
                got=show(graph.returns),
                fix="annotate what it returns as that step does",
            )
        elif graph.streams and not streams:
            yield Problem(
                where,
                f"it is annotated as an iterator, but {_origin(option)} does not stream",
                fix="yield the items in its last step, or annotate list[T]",
            )


def _streaming_step(step: Step[..., Any]) -> Iterator[Problem]:
    where, annotated = f"step {step.name!r}", step.hints.get("return", EMPTY)
    if step.yields and annotated is not EMPTY and step.streamed_type is EMPTY:
        yield Problem(
            where,
            "it yields its result item by item, and is not annotated as such",
            expected="Iterator[T]",
            got=show(annotated),
            fix="annotate it Iterator[T], or return a list",
            node=step.name,
        )
    returns_async = "Async" in getattr(typing.get_origin(annotated) or annotated, "__name__", "")
    if step.streams and not step.yields and (step.is_async or returns_async):
        yield Problem(
            where,
            "it returns an iterator that has to be awaited",
            got=show(annotated),
            fix="yield the items in it, and in the wrapper of its decorator: async def, and yield",
            node=step.name,
        )


def _names(graph: Graph) -> Iterator[Problem]:
    seen: dict[str, Node] = {}
    for node in graph:
        first = seen.setdefault(node.step.name, node)
        if first.step.fn is not node.step.fn:
            yield Problem(
                f"step {node.name!r}",
                f"two different functions of this pipeline are named {node.step.name!r}",
                fix="rename one of them, or run the cells again from top to bottom",
                node=node.name,
            )


def _dead_ends(graph: Graph) -> Iterator[Problem]:
    used = {s.node for s in sources(graph.output, Result)}
    for node in reversed(graph.nodes):
        if node.name in used:
            used.update(node.upstream)
        else:
            yield Problem(
                f"step {node.name!r}",
                "the pipeline's result does not depend on it",
                fix="use its result, or remove the call",
                node=node.name,
            )
