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
from mlkit.define.step import Step, active_tracer
from mlkit.define.typing import field_types, item_type, show, tuple_types
from mlkit.errors import DefinitionError, PlaceholderError

__all__ = [
    "Placeholder",
    "Tracer",
    "current_tracer",
    "described",
    "misused",
    "to_source",
    "tracing",
]

EMPTY = inspect.Parameter.empty


def current_tracer() -> Tracer | None:
    """The tracer that is active in this context, if any."""
    tracer: Tracer | None = active_tracer.get()
    return tracer


@dataclass
class _Frame:
    """A pipeline while its function runs: its replacements, and the calls that it has made."""

    replacements: Mapping[str, Step[..., Any]]
    counts: Counter[str] = field(default_factory=Counter)
    calls: list[str] = field(default_factory=list)
    replaced: set[str] = field(default_factory=set)

    def replacement(self, step: str) -> Step[..., Any] | None:
        """Count a call of a step; return its replacement in this pipeline, if any."""
        call = _numbered(step, self.counts)
        self.calls.append(call)
        for name in (call, step):  # that of one call takes precedence
            if name in self.replacements:
                self.replaced.add(name)
                return self.replacements[name]
        return None


def _numbered(name: str, counts: Counter[str]) -> str:
    counts[name] += 1
    return name if counts[name] == 1 else f"{name}_{counts[name]}"


class Tracer:
    """Records the calls of steps while a pipeline function runs on placeholders.

    Attributes:
        nodes: the calls, in order.
        idempotent: whether all of the pipelines that were traced are.
    """

    def __init__(self) -> None:
        self.idempotent = True
        self.nodes: list[Node] = []
        self._counts: Counter[str] = Counter()
        self._frames: list[_Frame] = []
        self._when: tuple[Condition, ...] = ()

    @contextmanager
    def inside(self, pipeline: str, replacements: Mapping[str, Step[..., Any]]) -> Iterator[None]:
        """Trace a pipeline's function, with its replacements.

        Raises:
            DefinitionError: there is no such step to replace.
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
        self, step: Step[..., Any], args: Any, kwargs: Mapping[str, Any], each: str | None = None
    ) -> Placeholder:
        """Add a node and return the placeholder of its result.

        Args:
            step: the step that is called.
            args: positional arguments.
            kwargs: keyword arguments.
            each: the parameter that takes the items of a list one by one.

        Raises:
            DefinitionError: the arguments do not match the step, or its replacement.
        """
        name = _numbered(step.name, self._counts)
        # All frames count the call; the outermost pipeline takes precedence.
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
        """Return a function that traces every arm under its condition, and returns their choice."""
        source = on._mlkit_source
        keys = tuple(arms)
        known = () if default is not None else keys

        def chosen(*args: Any, **kwargs: Any) -> Placeholder:
            results = [
                (key, self._under(Condition(source, (key,), known=known), arm, args, kwargs))
                for key, arm in arms.items()
            ]
            other = default and self._under(
                Condition(source, keys, negated=True), default, args, kwargs
            )
            first = results[0][1]
            type_ = first._mlkit_type if isinstance(first, Placeholder) else type(first)
            sources = tuple((key, to_source(value)) for key, value in results)
            choice = Choice(source, sources, None if default is None else to_source(other))
            return Placeholder(choice, type_, f"the result of the branch on {source}")

        return chosen

    def _under(
        self, condition: Condition, arm: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]
    ) -> Any:
        """Trace an arm; its nodes run only if the condition holds."""
        before, self._when = self._when, (*self._when, condition)
        try:
            return arm(*args, **kwargs)
        finally:
            self._when = before


@contextmanager
def tracing(tracer: Tracer) -> Iterator[Tracer]:
    """Record calls of steps in this context with the tracer."""
    token = active_tracer.set(tracer)
    try:
        yield tracer
    finally:
        active_tracer.reset(token)


def to_source(value: Any) -> Source:
    """Convert a value in a pipeline's body to a source."""
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
    """Stands for a value that does not exist while a pipeline is traced.

    It can be passed to steps, unpacked if its type is a tuple of known length, and has the declared
    fields of its type. Everything else raises a `PlaceholderError`.
    """

    __slots__ = ("_mlkit_label", "_mlkit_source", "_mlkit_type")
    _mlkit_source: Argument | Result | Choice
    _mlkit_type: Any
    _mlkit_label: str

    def __init__(self, source: Argument | Result | Choice, type_: Any, label: str) -> None:
        object.__setattr__(self, "_mlkit_source", source)
        object.__setattr__(self, "_mlkit_type", type_)
        object.__setattr__(self, "_mlkit_label", label)

    def __getattr__(self, name: str) -> Placeholder:
        if name.startswith(("__", "_repr_", "_ipython_")):
            raise AttributeError(name)
        fields = field_types(self._mlkit_type)
        if fields is None or name not in fields:
            raise PlaceholderError(
                f"{self._mlkit_label} has no declared field {name!r} while the pipeline is traced",
                expected=f"one of {', '.join(fields)}" if fields else "a type with declared fields",
                got=show(self._mlkit_type),
                fix="read it inside a step, or annotate the step with a pydantic model, dataclass "
                "or NamedTuple that declares it",
            )
        return self._select(name, fields[name])

    def __iter__(self) -> Iterator[Placeholder]:
        types = tuple_types(self._mlkit_type)
        if types is None:
            self._refuse("iterated or unpacked", self._instead_of_iterating())
        return iter([self._select(i, type_) for i, type_ in enumerate(types)])

    def _instead_of_iterating(self) -> str:
        subject = (
            "the argument" if isinstance(self._mlkit_source, Argument) else "the step's return"
        )
        unpack = f"annotate {subject} as tuple[A, B] to unpack it"
        type_ = self._mlkit_type
        if type_ is not EMPTY and item_type(type_) is EMPTY:
            return f"{unpack}, or loop inside a step"
        return f"call a step for each item of a list with each(my_step, items); {unpack}"

    def _select(self, part: str | int, type_: Any) -> Placeholder:
        where = f".{part}" if isinstance(part, str) else f"[{part}]"
        selected = part_of(self._mlkit_source, part)
        return Placeholder(selected, type_, f"{self._mlkit_label}{where}")

    def _refuse(self, verb: str, fix: str) -> NoReturn:
        raise PlaceholderError(
            f"{self._mlkit_label} cannot be {verb} while the pipeline is traced: "
            "it has no value yet",
            got=show(self._mlkit_type),
            fix=fix,
        )

    def __repr__(self) -> str:
        return f"<{self._mlkit_label}: {show(self._mlkit_type)}>"

    def __setattr__(self, name: str, value: Any) -> None:
        self._refuse("changed", "return a new value from a step")

    def __delattr__(self, name: str) -> None:
        self._refuse("changed", "return a new value from a step")


def _refusing(verb: str, fix: str) -> Any:
    def method(self: Placeholder, *args: Any, **kwargs: Any) -> NoReturn:
        self._refuse(verb, fix)

    return method


_IN_STEP = "do it in a step, where the value exists"
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


def described(value: Any) -> str:
    """Name a value for an error: what a placeholder stands for, with its type; else the type."""
    return repr(value)[1:-1] if isinstance(value, Placeholder) else type(value).__name__


def misused(error: Exception) -> PlaceholderError | None:
    """Explain an error of other code that got a placeholder for a value; None for other errors."""
    if isinstance(error, DefinitionError) or Placeholder.__name__ not in str(error):
        return None
    passed = _innermost(error)
    labels = " or ".join(value._mlkit_label for value in passed)
    return PlaceholderError(
        f"{labels or 'a result or argument'} was passed to a function that needs its value, "
        "and it has none while the pipeline is traced",
        got=" or ".join(show(value._mlkit_type) for value in passed) or None,
        fix=f"call that function inside a step ({type(error).__name__}: {error})",
    )


def _innermost(error: Exception) -> list[Placeholder]:
    """The placeholders among the variables of the innermost frame that has any."""
    innermost: list[Placeholder] = []
    traceback = error.__traceback__
    while traceback is not None:
        variables = traceback.tb_frame.f_locals.values()
        # By identity: comparing placeholders is refused.
        unique = {id(value): value for value in variables if isinstance(value, Placeholder)}
        innermost = list(unique.values()) or innermost
        traceback = traceback.tb_next
    return innermost


def placeholders(parameters: Mapping[str, Any], pipeline: str) -> dict[str, Placeholder]:
    """Placeholders for the parameters of a pipeline, by name."""
    return {
        name: Placeholder(Argument(name), type_, f"the argument {name!r} of pipeline {pipeline!r}")
        for name, type_ in parameters.items()
    }
