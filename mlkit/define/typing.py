"""Questions about type hints: what an item of a batch is, whether one type goes into another."""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import types
import typing
from typing import Any

__all__ = [
    "UNIONS",
    "field_types",
    "fits",
    "item_type",
    "show",
    "strip",
    "tuple_types",
    "unaliased",
    "value_fits",
]

EMPTY = inspect.Parameter.empty
UNIONS = (typing.Union, types.UnionType)


def strip(annotation: Any) -> Any:
    """The type itself: what an alias stands for, without ``Annotated`` around it."""
    annotation = unaliased(annotation)
    while typing.get_origin(annotation) is typing.Annotated:
        annotation = unaliased(typing.get_args(annotation)[0])
    return annotation


def unaliased(annotation: Any) -> Any:
    """What an alias made with ``type X = ...`` stands for; from Python 3.12 on NDArray is one."""
    args = typing.get_args(annotation)
    alias = typing.get_origin(annotation) if args else annotation
    if type(alias).__name__ != "TypeAliasType":
        return annotation
    value: Any = typing.cast(Any, alias).__value__
    return unaliased(value[args] if args else value)


def show(annotation: Any) -> str:
    """A type as a person writes it: ``list[Label] | None``."""
    if annotation is EMPTY:
        return "?"
    if annotation is None or annotation is type(None):
        return "None"
    if isinstance(annotation, list):  # the parameters of a Callable
        return f"[{', '.join(map(show, annotation))}]"
    for name in ("ImageSource",):
        from mlkit.define import types as own

        if annotation == getattr(own, name):
            return name
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
    """Type of one item of a sequence type; empty where it is none.

    ``list[T]``, ``Sequence[T]`` and ``tuple[T, ...]`` give ``T``; an array gives ``Any``, since an
    item of it may be an array or a scalar.
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


def tuple_types(annotation: Any) -> tuple[Any, ...] | None:
    """Types of a tuple of known length (``tuple[A, B]`` or a NamedTuple), else None."""
    annotation = strip(annotation)
    if inspect.isclass(annotation) and issubclass(annotation, tuple):
        fields = getattr(annotation, "_fields", None)
        if fields is not None:
            hints = _hints(annotation)
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
        hints = _hints(cls)
        return {field.name: hints.get(field.name, Any) for field in dataclasses.fields(cls)}
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        hints = _hints(cls)
        return {name: hints.get(name, Any) for name in cls._fields}
    return None


def _hints(cls: type) -> dict[str, Any]:
    """Types of a class's fields; empty where one names something that is not defined."""
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except Exception:
        return {}


def fits(given: Any, wanted: Any) -> bool:
    """Whether a value of type ``given`` may be passed where ``wanted`` is asked for.

    Errs on the side of yes: what cannot be decided from the annotations alone (type variables,
    protocols, foreign generics) fits. A union fits where every member does.
    """
    given, wanted = strip(given), strip(wanted)
    if _undecided(given) or _undecided(wanted) or given == wanted:
        return True
    given = type(None) if given is None else given
    wanted = type(None) if wanted is None else wanted
    if typing.get_origin(given) in UNIONS:
        return all(fits(member, wanted) for member in typing.get_args(given))
    if typing.get_origin(given) is typing.Literal:
        return all(value_fits(value, wanted) for value in typing.get_args(given))
    if typing.get_origin(wanted) in UNIONS:
        return any(fits(given, member) for member in typing.get_args(wanted))
    if typing.get_origin(wanted) is typing.Literal:
        return False
    return _classes_fit(given, wanted)


def value_fits(value: Any, wanted: Any) -> bool:
    """Whether this very value may be passed where ``wanted`` is asked for, a literal type too."""
    wanted = strip(wanted)
    if typing.get_origin(wanted) in UNIONS:
        return any(value_fits(value, member) for member in typing.get_args(wanted))
    if typing.get_origin(wanted) is typing.Literal:
        return any(value == v and type(value) is type(v) for v in typing.get_args(wanted))
    return fits(type(value), wanted)


def _undecided(annotation: Any) -> bool:
    return (
        annotation in (Any, object, EMPTY)
        or isinstance(annotation, (typing.TypeVar, typing.ParamSpec, str))
        or getattr(annotation, "_is_protocol", False)
    )


def _classes_fit(given: Any, wanted: Any) -> bool:
    given_class = typing.get_origin(given) or given
    wanted_class = typing.get_origin(wanted) or wanted
    if not inspect.isclass(given_class) or not inspect.isclass(wanted_class):
        return True
    if wanted_class is float and given_class is int:  # PEP 484's numeric tower
        return True
    if not issubclass(given_class, wanted_class):
        return False
    given_args, wanted_args = typing.get_args(given), typing.get_args(wanted)
    if not given_args or not wanted_args or given_class.__name__ == "ndarray":
        return True
    if given_class is tuple and wanted_class is tuple:
        return _tuples_fit(given_args, wanted_args)
    if given_class is tuple:
        given_args = tuple(a for a in given_args if a is not Ellipsis)
        return all(fits(a, wanted_args[0]) for a in given_args)
    if len(given_args) != len(wanted_args):
        return True
    return all(fits(a, b) for a, b in zip(given_args, wanted_args, strict=True))


def _tuples_fit(given: tuple[Any, ...], wanted: tuple[Any, ...]) -> bool:
    if Ellipsis in wanted:
        return all(fits(a, wanted[0]) for a in given if a is not Ellipsis)
    if Ellipsis in given:
        return False
    return len(given) == len(wanted) and all(fits(a, b) for a, b in zip(given, wanted, strict=True))
