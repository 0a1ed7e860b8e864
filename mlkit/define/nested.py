"""Types with a port of their own nested in other types: ``list[Image]``, ``Image | None``.

pydantic validates and serializes the outer type; for a nested type with a port of its own it calls
that `Port`.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from types import EllipsisType
from typing import TYPE_CHECKING, Annotated, Any

from mlkit.define.port import Port
from mlkit.define.typing import UNIONS, strip, unaliased
from mlkit.errors import InputError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ["checked", "culprit", "substituted"]

Own = Callable[[Any], Port | None]


def substituted(annotation: Any, own: Own, *, local: bool = False) -> Any:
    """Annotate nested types that have a port of their own for pydantic.

    Returns the very same object if there are none.

    Args:
        annotation: any type.
        own: returns the port of a type that has one of its own, else None.
        local: accept what a caller in this process may pass, instead of the JSON form.
    """
    port = own(annotation)
    if port is not None:
        return _annotated(annotation, port, local=local)
    target = unaliased(annotation)
    if target is not annotation:
        new = substituted(target, own, local=local)
        return annotation if new is target else new
    if typing.get_origin(annotation) is Annotated:
        inner, *marks = typing.get_args(annotation)
        new = substituted(inner, own, local=local)
        return annotation if new is inner else Annotated[(new, *marks)]
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is None or origin is typing.Literal or any(isinstance(a, list) for a in args):
        return annotation
    parts = tuple(a if a is Ellipsis else substituted(a, own, local=local) for a in args)
    if all(new is old for new, old in zip(parts, args, strict=True)):
        return annotation
    return typing.Union[parts] if origin in UNIONS else origin[parts]  # noqa: UP007


def checked(adapter: TypeAdapter[Any]) -> Callable[[Any], Any]:
    """Return a validator that raises `InputError` instead of pydantic's ValidationError."""
    from pydantic import ValidationError

    def validate(value: Any) -> Any:
        try:
            return adapter.validate_python(value)
        except ValidationError as error:
            first = error.errors()[0]
            place = "".join(f"[{part!r}]" for part in first["loc"] if isinstance(part, int))
            raise InputError(f"{place} {first['msg']}".strip()) from error

    return validate


def _annotated(annotation: Any, port: Port, *, local: bool) -> Any:
    from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

    return Annotated[
        strip(annotation),
        PlainValidator(port.local if local else port.from_json),
        PlainSerializer(_guarded(annotation, port)),
        WithJsonSchema(dict(port.schema)),
    ]


def _guarded(annotation: Any, port: Port) -> Callable[[Any], Any]:
    """Serialize with a port, but leave values of other types to the other members of a union.

    An upload takes paths, arrays and more: everything but None.
    """
    from pydantic_core import PydanticSerializationUnexpectedValue

    bare = strip(annotation)
    cls: Any = typing.get_origin(bare) or bare
    known = isinstance(cls, type) and cls not in UNIONS and not port.upload

    def serialize(value: Any) -> Any:
        if value is None or (known and not isinstance(value, cls)):
            raise PydanticSerializationUnexpectedValue(f"not of type {cls}")
        return port.to_json(value)

    return serialize


def culprit(annotation: Any, fails: Callable[[Any], bool]) -> Any:
    """The innermost part of a type that makes the whole fail."""
    bare = strip(annotation)
    if typing.get_origin(bare) is typing.Literal:
        return annotation
    parts = [a for a in typing.get_args(bare) if not isinstance(a, (str, list, EllipsisType))]
    return next((culprit(part, fails) for part in parts if fails(part)), annotation)
