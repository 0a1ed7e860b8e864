"""Copies of data that outlives a request, so that a step that changes it affects no other request.

Data are containers, arrays, tensors, pictures, DataFrames, dataclasses and pydantic models, in each
other; the rest, such as models and clients, is shared.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from mlkit.define.code import travels

__all__ = ["FIXED", "fresh", "is_shared", "separate"]

_ARRAYS = {"PIL": "copy", "numpy": "copy", "pandas": "copy", "scipy": "copy", "torch": "clone"}
"""Packages whose values are copied by a method."""


def fresh(value: Any, *, instances: bool = False) -> Any:
    """Return a copy of data, with copies of the data within; other values are returned as they are.

    Data that cannot change is not copied: ``fresh(x) is x``.

    Args:
        value: any value.
        instances: whether instances of plain user-defined classes are data as well.
    """
    kind = type(value)
    if kind in FIXED:
        return value
    copied = partial(fresh, instances=instances)
    if isinstance(value, (dict, tuple, list, deque)):
        return _container(value, copied)
    if isinstance(value, (set, bytearray)):
        return copy.copy(value)
    method = _ARRAYS.get(kind.__module__.partition(".")[0])
    if method is not None and hasattr(value, method):
        return getattr(value, method)()
    if dataclasses.is_dataclass(kind) or hasattr(kind, "__pydantic_fields__"):
        return _object(value, copied)
    if instances and all(map(travels, kind.__mro__[:-1])):
        return _instance(value, copied)
    return value


FIXED = frozenset({type(None), bool, bytes, complex, float, int, str})
"""Types whose values cannot change."""


def separate(value: Any) -> Any:
    """Return a copy of a value that is about to be changed; itself if it cannot be copied."""
    new = fresh(value, instances=True)
    if new is not value:
        return new
    try:
        return copy.deepcopy(value)
    except Exception:  # it holds a lock or a connection
        return value


def is_shared(value: Any) -> bool:
    """Whether all requests can have the same value: nothing of it is copied."""
    return fresh(value) is value


def _same(value: object, other: object) -> bool:
    return value is other


def _container(value: Any, copied: Callable[[Any], Any]) -> Any:
    kind = type(value)
    if isinstance(value, tuple):
        items = [copied(item) for item in value]
        if all(map(_same, items, value)):
            return value
        return kind(*items) if hasattr(kind, "_fields") else kind(items)
    new = copy.copy(value)  # its items in place: a subclass may have attributes
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if (fresh_item := copied(item)) is not item:
            new[key] = fresh_item
    return new


def _instance(value: Any, copied: Callable[[Any], Any]) -> Any:
    new = object.__new__(type(value))
    state = object.__getstate__(value)  # its attributes, and those in slots
    for attributes in state if isinstance(state, tuple) else (state,):
        for name, attribute in (attributes or {}).items():
            object.__setattr__(new, name, copied(attribute))
    return new


def _object(value: Any, copied: Callable[[Any], Any]) -> Any:
    """A copy of an object, with copies of its fields; itself if it is frozen and so are they."""
    kind = type(value)
    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
        frozen = kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    else:
        names = list(kind.__pydantic_fields__)
        frozen = kind.model_config.get("frozen", False)
    fields = {name: getattr(value, name) for name in names if hasattr(value, name)}
    copies = {name: copied(field) for name, field in fields.items()}
    if frozen and all(copies[name] is fields[name] for name in fields):
        return value
    new = copy.copy(value)
    for name, field in copies.items():
        if field is not fields[name]:
            object.__setattr__(new, name, field)
    return new
