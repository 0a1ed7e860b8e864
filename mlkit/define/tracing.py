"""Tracing: a pipeline function is called once with placeholders, and its calls become a graph."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

from mlkit.define.graph import (
    Argument,
    Choice,
    Collection,
    Condition,
    Constant,
    Node,
    Result,
    Source,
)
from mlkit.define.source import part_of
from mlkit.define.step import Step, active_trace
from mlkit.define.typing import field_types, show, tuple_types
from mlkit.errors import DefinitionError, PlaceholderError

__all__ = ["Placeholder", "Trace", "current_trace", "to_source", "tracing"]


def current_trace() -> Trace | None:
    """The trace that is going on in this context, if any."""
    trace: Trace | None = active_trace.get()
    return trace


@dataclass
class _Frame:
    """One pipeline while its function runs: what it replaces, and the calls made in it so far."""

    replacements: Mapping[str, Step[..., Any]]
    counts: Counter[str] = field(default_factory=Counter)
    calls: list[str] = field(default_factory=list)
    replaced: set[str] = field(default_factory=set)

    def replacement(self, step: str) -> Step[..., Any] | None:
        """Count a call of a step; what replaces it here, if anything does."""
        call = _numbered(step, self.counts)
        self.calls.append(call)
        for name in (call, step):  # what is said of one call goes before what is said of all
            if name in self.replacements:
                self.replaced.add(name)
                return self.replacements[name]
        return None


def _numbered(name: str, counts: Counter[str]) -> str:
    counts[name] += 1
    return name if counts[name] == 1 else f"{name}_{counts[name]}"


class Trace:
    """Collects the calls of steps while a pipeline function runs on placeholders."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._counts: Counter[str] = Counter()
        self._frames: list[_Frame] = []
        self._when: tuple[Condition, ...] = ()

    @contextmanager
    def inside(self, pipeline: str, replacements: Mapping[str, Step[..., Any]]) -> Iterator[None]:
        """The function of a pipeline runs; its replacements count for the calls made meanwhile.

        Raises:
            DefinitionError: there was no such step to replace.
        """
        frame = _Frame(replacements)
        self._frames.append(frame)
        try:
            yield
        finally:
            self._frames.pop()
        unknown = sorted(set(replacements) - frame.replaced)
        if unknown:
            raise DefinitionError(
                f"there is no step {', '.join(unknown)} to replace",
                where=f"pipeline {pipeline!r}",
                expected=f"one of {', '.join(frame.calls)}",
            )

    def call(
        self,
        step: Step[..., Any],
        args: Any,
        kwargs: Mapping[str, Any],
        each: str | None = None,
    ) -> Placeholder:
        """Add a node and return the placeholder of its result.

        Args:
            step: what is called.
            args: what it is called with.
            kwargs: the same by name.
            each: the parameter that gets each item of a list in turn.

        Raises:
            DefinitionError: the arguments fit neither the step nor what replaces it.
        """
        name = _numbered(step.name, self._counts)
        # All frames count the call; the outermost pipeline has the last word.
        replacements = [frame.replacement(step.name) for frame in self._frames]
        step = next((r for r in replacements if r is not None), step)
        inputs = {p: to_source(value) for p, value in step.bind(*args, **kwargs).items()}
        node = Node(name, step, inputs, self._when, each)
        self.nodes.append(node)
        return Placeholder(Result(name), node.type, f"the result of step {name!r}")

    def branch(
        self,
        on: Placeholder,
        arms: Mapping[Any, Callable[..., Any]],
        default: Callable[..., Any] | None,
    ) -> Callable[..., Any]:
        """A function that calls every arm, each under its condition, and returns their choice."""
        source = on._mlkit_source
        keys = tuple(arms)
        known = () if default is not None else keys

        def chosen(*args: Any, **kwargs: Any) -> Placeholder:
            made = [
                (key, self._under(Condition(source, (key,), known=known), arm, args, kwargs))
                for key, arm in arms.items()
            ]
            other = default and self._under(
                Condition(source, keys, negated=True), default, args, kwargs
            )
            first = made[0][1]
            type_ = first._mlkit_type if isinstance(first, Placeholder) else type(first)
            sources = tuple((key, to_source(value)) for key, value in made)
            choice = Choice(source, sources, None if default is None else to_source(other))
            return Placeholder(choice, type_, f"the result of the branch on {source}")

        return chosen

    def _under(
        self, condition: Condition, arm: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]
    ) -> Any:
        """Call an arm; what it adds runs only if the condition holds."""
        before, self._when = self._when, (*self._when, condition)
        try:
            return arm(*args, **kwargs)
        finally:
            self._when = before


@contextmanager
def tracing(trace: Trace) -> Iterator[Trace]:
    """Make calls of steps in this context go to the trace."""
    token = active_trace.set(trace)
    try:
        yield trace
    finally:
        active_trace.reset(token)


def to_source(value: Any) -> Source:
    """A value in a pipeline's body as a source: placeholder, literal or a collection of them."""
    if isinstance(value, Placeholder):
        return value._mlkit_source
    if isinstance(value, dict):
        items = tuple(to_source(item) for item in value.values())
        return _collected(value, Collection(dict, items, tuple(value)))
    if type(value) in (list, tuple):
        return _collected(value, Collection(type(value), tuple(map(to_source, value))))
    return Constant(value)


def _collected(value: Any, collection: Collection) -> Source:
    only_constants = all(isinstance(item, Constant) for item in collection.items)
    return Constant(value) if only_constants else collection


class Placeholder:
    """Stands for a value that is not there while a pipeline is being traced.

    It can be passed to steps, unpacked where its type is a tuple of known length, and asked for a
    declared field of its type. Everything else is refused with a `PlaceholderError`.
    """

    __slots__ = ("_mlkit_source", "_mlkit_type", "_mlkit_what")
    _mlkit_source: Argument | Result | Choice
    _mlkit_type: Any
    _mlkit_what: str

    def __init__(self, source: Argument | Result | Choice, type_: Any, what: str) -> None:
        object.__setattr__(self, "_mlkit_source", source)
        object.__setattr__(self, "_mlkit_type", type_)
        object.__setattr__(self, "_mlkit_what", what)

    def __getattr__(self, name: str) -> Placeholder:
        if name.startswith(("__", "_repr_", "_ipython_")):
            raise AttributeError(name)
        fields = field_types(self._mlkit_type)
        if fields is None or name not in fields:
            raise PlaceholderError(
                f"{self._mlkit_what} has no declared field {name!r} while the pipeline is traced",
                expected=f"one of {', '.join(fields)}" if fields else "a type with declared fields",
                got=show(self._mlkit_type),
                fix="read it inside a step, or annotate the step with a pydantic model, dataclass "
                "or NamedTuple that declares it",
            )
        return self._select(name, fields[name])

    def __iter__(self) -> Iterator[Placeholder]:
        types = tuple_types(self._mlkit_type)
        if types is None:
            self._refuse(
                "iterated or unpacked",
                "annotate the step's return as tuple[A, B] to unpack it, or loop inside a step",
            )
        return iter([self._select(i, type_) for i, type_ in enumerate(types)])

    def _select(self, part: str | int, type_: Any) -> Placeholder:
        where = f".{part}" if isinstance(part, str) else f"[{part}]"
        picked = part_of(self._mlkit_source, part)
        return Placeholder(picked, type_, f"{self._mlkit_what}{where}")

    def _refuse(self, verb: str, fix: str) -> NoReturn:
        raise PlaceholderError(
            f"{self._mlkit_what} cannot be {verb} while the pipeline is traced: "
            "it has no value yet",
            got=show(self._mlkit_type),
            fix=fix,
        )

    def __repr__(self) -> str:
        return f"<{self._mlkit_what}: {show(self._mlkit_type)}>"

    def __setattr__(self, name: str, value: Any) -> None:
        self._refuse("changed", "return a new value from a step")

    def __delattr__(self, name: str) -> None:
        self._refuse("changed", "return a new value from a step")


def _refusing(verb: str, fix: str) -> Any:
    def method(self: Placeholder, *args: Any, **kwargs: Any) -> NoReturn:
        self._refuse(verb, fix)

    return method


_IN_STEP = "do it inside a step, where the value is there"
_OPERATORS = "add sub mul matmul truediv floordiv mod divmod pow and or xor lshift rshift"
_REFUSED = {
    ("used as a condition", "decide inside a step, which may return None or either value"): (
        "__bool__",
    ),
    ("compared", _IN_STEP): ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"),
    ("hashed or used as a key", _IN_STEP): ("__hash__",),
    ("calculated with", _IN_STEP): (
        *(f"__{prefix}{operator}__" for operator in _OPERATORS.split() for prefix in ("", "r")),
        *("__neg__", "__pos__", "__abs__", "__invert__", "__round__"),
        *("__trunc__", "__floor__", "__ceil__"),
    ),
    ("converted to a number", _IN_STEP): ("__int__", "__float__", "__complex__", "__index__"),
    ("measured with len()", _IN_STEP): ("__len__",),
    ("searched with `in`", _IN_STEP): ("__contains__",),
    ("indexed", "index inside a step, or unpack a step annotated tuple[A, B]"): (
        "__getitem__",
        "__setitem__",
        "__delitem__",
    ),
    ("formatted as text", "build the text inside a step"): ("__str__", "__format__", "__bytes__"),
    ("called", "only steps and pipelines are called in a pipeline"): ("__call__",),
    ("awaited", "steps are awaited by mlkit; just call them, without await"): ("__await__",),
    ("used in `with`", _IN_STEP): ("__enter__", "__exit__", "__aenter__", "__aexit__"),
    ("iterated", _IN_STEP): ("__reversed__", "__aiter__", "__next__"),
    ("used as a path", _IN_STEP): ("__fspath__",),
    ("made an array", _IN_STEP): ("__array__",),
}
for (_verb, _fix), _names in _REFUSED.items():
    for _name in _names:
        setattr(Placeholder, _name, _refusing(_verb, _fix))


def placeholders(parameters: Mapping[str, Any], pipeline: str) -> dict[str, Placeholder]:
    """One placeholder per parameter of the pipeline, by name."""
    return {
        name: Placeholder(Argument(name), type_, f"the argument {name!r} of pipeline {pipeline!r}")
        for name, type_ in parameters.items()
    }


def check_pipeline_function(fn: Any) -> None:
    """Refuse what cannot be traced.

    Raises:
        DefinitionError: not a plain function with named parameters.
    """
    if not inspect.isfunction(fn):
        raise DefinitionError("a pipeline is a function", where="pipeline", got=type(fn).__name__)
    where = f"pipeline {fn.__name__!r}"
    if inspect.iscoroutinefunction(fn):
        raise DefinitionError(
            "a pipeline is a plain function that calls steps",
            where=where,
            got="async def",
            fix="drop async and await: async steps are called without await",
        )
    if inspect.isgeneratorfunction(fn):
        raise DefinitionError("a pipeline returns, it does not yield", where=where)
    for parameter in inspect.signature(fn).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise DefinitionError(
                "a pipeline's parameters are named ones", where=where, got=str(parameter)
            )
