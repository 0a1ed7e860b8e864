"""Type hints: compatibility, item types, fields, display."""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import sys
import types
import typing
from typing import Any

__all__ = [
    "UNIONS",
    "field_types",
    "fits",
    "hints_of",
    "item_type",
    "iterated_type",
    "refreshed",
    "show",
    "strip",
    "tuple_types",
    "unaliased",
    "value_fits",
]

EMPTY = inspect.Parameter.empty
UNIONS = (typing.Union, types.UnionType)


def strip(annotation: Any) -> Any:
    """The type without aliases and ``Annotated``."""
    annotation = unaliased(annotation)
    while typing.get_origin(annotation) is typing.Annotated:
        annotation = unaliased(typing.get_args(annotation)[0])
    return annotation


def unaliased(annotation: Any) -> Any:
    """Resolve an alias declared with ``type X = ...``, as NDArray is from Python 3.12 on."""
    args = typing.get_args(annotation)
    alias = typing.get_origin(annotation) if args else annotation
    if type(alias).__name__ != "TypeAliasType":
        return annotation
    value: Any = typing.cast(Any, alias).__value__
    return unaliased(value[args] if args else value)


def refreshed(annotation: Any) -> Any:
    """The type with the classes of a notebook as its cells last defined them.

    An annotation keeps the class that a cell defined before it was run again, but code looks the
    name up when it runs.
    """
    generic = getattr(annotation, "__pydantic_generic_metadata__", None) or {}
    if generic.get("origin"):  # its name says nothing of the modules of its arguments
        return _parametrized(annotation, generic["origin"], generic["args"])
    if isinstance(annotation, type) and not typing.get_args(annotation):
        if annotation.__module__ != "__main__":
            return annotation
        current = getattr(sys.modules.get("__main__"), annotation.__qualname__, annotation)
        names = ("__module__", "__qualname__")
        same = all(getattr(current, name, "") == getattr(annotation, name) for name in names)
        return current if same and isinstance(current, type) else annotation
    if typing.get_origin(annotation) is typing.Annotated:
        inner, *marks = typing.get_args(annotation)
        new = refreshed(inner)
        return annotation if new is inner else typing.Annotated[(new, *marks)]
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (None, typing.Literal) or any(isinstance(a, list) for a in args):
        return annotation
    parts = tuple(a if a is Ellipsis else refreshed(a) for a in args)
    if all(new is old for new, old in zip(parts, args, strict=True)):
        return annotation
    return typing.Union[parts] if origin in UNIONS else origin[parts]  # noqa: UP007


def _parametrized(annotation: Any, origin: Any, args: tuple[Any, ...]) -> Any:
    """A generic model with the classes of a notebook as its cells last defined them."""
    new = refreshed(origin), *map(refreshed, args)
    same = all(now is before for now, before in zip(new, (origin, *args), strict=True))
    return annotation if same else new[0][new[1:]]


def show(annotation: Any) -> str:
    """Format a type as source code: ``list[Label] | None``."""
    if annotation is EMPTY:
        return "?"
    if annotation is None or annotation is type(None):
        return "None"
    if isinstance(annotation, list):  # the parameters of a Callable
        return f"[{', '.join(map(show, annotation))}]"
    from mlkit.define.types import ImageSource

    if annotation == ImageSource:
        return "ImageSource"
    annotation = strip(annotation)
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in UNIONS:
        return " | ".join(show(a) for a in args)
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(repr, args))}]"
    if origin is not None and args:
        inner = ", ".join("..." if a is Ellipsis else show(a) for a in args)
        name = getattr(origin, "__name__", str(origin))
        return f"{name}[{inner}]" if inner and name != "ndarray" else name
    return getattr(annotation, "__name__", None) or str(annotation)


def item_type(annotation: Any) -> Any:
    """Item type of a sequence type; empty for other types.

    ``T`` for ``list[T]``, ``Sequence[T]`` and ``tuple[T, ...]``; ``Any`` for an array, whose items
    may be arrays or scalars.
    """
    annotation = strip(annotation)
    if annotation is EMPTY or annotation is Any:
        return annotation
    origin, args = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if getattr(origin, "__name__", "") == "ndarray":
        return Any
    if inspect.isclass(origin) and issubclass(origin, collections.abc.Sequence):
        if issubclass(origin, (str, bytes)):
            return EMPTY
        if origin is tuple and args and args[-1] is not Ellipsis:
            return EMPTY
        return args[0] if args else Any
    return EMPTY


def iterated_type(annotation: Any) -> Any:
    """Item type of a type that may be read only once; empty for other types.

    ``T`` for ``Iterator[T]``, ``Generator[T, None, None]``, ``Iterable[T]``, and their async forms.
    """
    annotation = strip(annotation)
    origin, args = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if not any(origin is known for known in _ITERATED):
        return EMPTY
    return args[0] if args else Any


_ITERATED = (
    collections.abc.AsyncGenerator,
    collections.abc.AsyncIterable,
    collections.abc.AsyncIterator,
    collections.abc.Generator,
    collections.abc.Iterable,
    collections.abc.Iterator,
)


def tuple_types(annotation: Any) -> tuple[Any, ...] | None:
    """Types of a tuple of known length (``tuple[A, B]`` or a NamedTuple), else None."""
    annotation = strip(annotation)
    if inspect.isclass(annotation) and issubclass(annotation, tuple):
        fields = getattr(annotation, "_fields", None)
        if fields is not None:
            hints = hints_of(annotation)
            return tuple(hints.get(name, Any) for name in fields)
    args = typing.get_args(annotation)
    if typing.get_origin(annotation) is tuple and Ellipsis not in args and args:
        return args
    return None


def field_types(annotation: Any) -> dict[str, Any] | None:
    """Declared fields of a pydantic model, dataclass or NamedTuple, by name; else None."""
    cls = strip(annotation)
    cls = typing.get_origin(cls) or cls
    if not inspect.isclass(cls):
        return None
    model_fields = getattr(cls, "model_fields", None)
    if isinstance(model_fields, dict):
        if not getattr(cls, "__pydantic_complete__", True):
            typing.cast(Any, cls).model_rebuild(raise_errors=False)
            model_fields = typing.cast(Any, cls).model_fields
        return {name: field.annotation for name, field in model_fields.items()}
    if dataclasses.is_dataclass(cls):
        hints = hints_of(cls)
        return {field.name: hints.get(field.name, Any) for field in dataclasses.fields(cls)}
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        hints = hints_of(cls)
        return {name: hints.get(name, Any) for name in cls._fields}
    return None


def hints_of(annotated: Any) -> dict[str, Any]:
    """Annotations of a class or a function; empty if there is none, or one cannot be resolved."""
    try:
        return typing.get_type_hints(annotated, include_extras=True)
    except Exception:
        return {}


def fits(actual: Any, expected: Any) -> bool:
    """Whether a value of type ``actual`` may be passed where ``expected`` is required.

    Lenient: types that cannot be compared by annotation alone (type variables, protocols, foreign
    generics) fit. A union fits if every member does.
    """
    actual, expected = strip(actual), strip(expected)
    if _undecided(actual) or _undecided(expected) or actual == expected:
        return True
    actual = type(None) if actual is None else actual
    expected = type(None) if expected is None else expected
    if typing.get_origin(actual) in UNIONS:
        return all(fits(member, expected) for member in typing.get_args(actual))
    if typing.get_origin(actual) is typing.Literal:
        return all(value_fits(value, expected) for value in typing.get_args(actual))
    if typing.get_origin(expected) in UNIONS:
        return any(fits(actual, member) for member in typing.get_args(expected))
    if typing.get_origin(expected) is typing.Literal:
        return False
    return _classes_fit(actual, expected)


def value_fits(value: Any, expected: Any) -> bool:
    """Whether a value may be passed where ``expected`` is required, literal types included."""
    expected = strip(expected)
    if typing.get_origin(expected) in UNIONS:
        return any(value_fits(value, member) for member in typing.get_args(expected))
    if typing.get_origin(expected) is typing.Literal:
        return any(value == v and type(value) is type(v) for v in typing.get_args(expected))
    return fits(type(value), expected)


def _undecided(annotation: Any) -> bool:
    return (
        annotation in (Any, object, EMPTY)
        or isinstance(annotation, (typing.TypeVar, typing.ParamSpec, str))
        or getattr(annotation, "_is_protocol", False)
    )


def _classes_fit(actual: Any, expected: Any) -> bool:
    actual_class = typing.get_origin(actual) or actual
    expected_class = typing.get_origin(expected) or expected
    if not inspect.isclass(actual_class) or not inspect.isclass(expected_class):
        return True
    if expected_class is float and actual_class is int:  # PEP 484's numeric tower
        return True
    if not issubclass(actual_class, expected_class):
        return False
    actual_args, expected_args = typing.get_args(actual), typing.get_args(expected)
    if not actual_args or not expected_args or actual_class.__name__ == "ndarray":
        return True
    if actual_class is tuple and expected_class is tuple:
        return _tuples_fit(actual_args, expected_args)
    if actual_class is tuple:
        actual_args = tuple(a for a in actual_args if a is not Ellipsis)
        return all(fits(a, expected_args[0]) for a in actual_args)
    if len(actual_args) != len(expected_args):
        return True
    return all(fits(a, b) for a, b in zip(actual_args, expected_args, strict=True))


def _tuples_fit(actual: tuple[Any, ...], expected: tuple[Any, ...]) -> bool:
    if Ellipsis in expected:
        return all(fits(a, expected[0]) for a in actual if a is not Ellipsis)
    if Ellipsis in actual:
        return False
    return len(actual) == len(expected) and all(
        fits(a, b) for a, b in zip(actual, expected, strict=True)
    )
