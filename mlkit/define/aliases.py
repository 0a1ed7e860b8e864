"""What a value in a function may be: a parameter, a part of one, or a container of such parts."""

from __future__ import annotations

import enum
import inspect
import typing
from collections.abc import Mapping
from typing import Any, TypeAlias

from mlkit.define.fresh import FIXED
from mlkit.define.typing import UNIONS, field_types, item_type, strip

__all__ = ["Aliases", "copied", "held", "merged", "parts", "sliced", "typed"]

EMPTY = inspect.Parameter.empty

Aliases: TypeAlias = dict[tuple[str, int], Any]
"""What a value may be: a parameter or a part of it (0), with its type; or what holds such parts, at
a depth, with their type. Types are empty where they are unknown."""

_IMMUTABLE = {"dtype", "itemsize", "nbytes", "ndim", "shape", "size"}
"""Attributes of arrays that cannot change."""

_ARRAYS = {"PIL", "numpy", "pandas", "torch"}
"""Packages whose copies share nothing."""


def typed(key: tuple[str, int], type_: Any) -> Aliases:
    """Aliases of a value, of which there are none if it cannot change."""
    return {} if _is_fixed(type_) else {key: type_}


def _is_fixed(type_: Any) -> bool:
    bare = strip(type_)
    origin = typing.get_origin(bare)
    if origin in UNIONS:
        return all(map(_is_fixed, typing.get_args(bare)))
    if origin is typing.Literal or bare is None:
        return True
    return isinstance(bare, type) and (bare in FIXED or issubclass(bare, enum.Enum))


def _required(type_: Any) -> Any:
    """A type without None."""
    bare = strip(type_)
    if typing.get_origin(bare) in UNIONS:
        others = [arg for arg in typing.get_args(bare) if arg is not type(None)]
        return strip(others[0]) if len(others) == 1 else EMPTY
    return bare


def _part_type(type_: Any, attribute: str | None) -> Any:
    bare = _required(type_)
    if bare is EMPTY:
        return EMPTY
    if attribute is not None:
        return (field_types(bare) or {}).get(attribute, EMPTY)
    origin = typing.get_origin(bare)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        arguments = typing.get_args(bare)
        return arguments[1] if len(arguments) > 1 else EMPTY
    item = item_type(bare)
    return EMPTY if item is Any else item


def parts(aliases: Aliases, attribute: str | None = None) -> Aliases:
    """What an item of a value, or an attribute of it, may be."""
    if attribute in _IMMUTABLE:
        return {}
    return merged(
        *(
            typed((name, max(0, depth - 1)), type_ if depth else _part_type(type_, attribute))
            for (name, depth), type_ in aliases.items()
        )
    )


def held(aliases: Aliases, depth: int = 1) -> Aliases:
    """What a container of a value may be, or a container of containers."""
    return merged(*({(name, min(own + depth, 3)): type_} for (name, own), type_ in aliases.items()))


def sliced(aliases: Aliases) -> Aliases:
    """What a slice of a value may be: a new list, or a view of an array."""
    single = ({key: type_} for key, type_ in aliases.items())
    return merged(*(held(parts(aliases)) if _is_list(aliases) else aliases for aliases in single))


def copied(aliases: Aliases) -> Aliases:
    """What a shallow copy of a value may be."""
    single = ({key: type_} for key, type_ in aliases.items())
    return merged(*(held(parts(aliases)) for aliases in single if not _is_array(aliases)))


def merged(*several: Aliases) -> Aliases:
    """The aliases of a value that is one of several."""
    either: Aliases = {}
    for aliases in several:
        for key, type_ in aliases.items():
            either[key] = type_ if key not in either or either[key] == type_ else EMPTY
    return either


def _is_list(aliases: Aliases) -> bool:
    return all(_class(type_) in (list, tuple) for type_ in aliases.values())


def _is_array(aliases: Aliases) -> bool:
    modules = (getattr(_class(type_), "__module__", "") for type_ in aliases.values())
    return all(module.partition(".")[0] in _ARRAYS for module in modules)


def _class(type_: Any) -> Any:
    bare = _required(type_)
    return typing.get_origin(bare) or bare
