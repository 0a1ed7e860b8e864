"""Equality of values in type and value, at every depth."""

from __future__ import annotations

import collections
import dataclasses
import decimal
import inspect
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from mlkit.define.storage import tensor_state
from mlkit.media.image import Image

__all__ = ["same"]


def same(left: Any, right: Any) -> bool:
    """Whether two values are equal in type and value, at every depth.

    NaN equals NaN, and 0.0 does not equal -0.0; arrays have the same dtype, tables the same index.
    """
    if type(left) is not type(right):
        return False
    if left is right:  # such as pandas.NaT, which equals nothing
        return True
    package = type(left).__module__.partition(".")[0]
    if package == "pandas" and hasattr(left, "shape"):
        return _same_pandas(left, right)
    if package == "numpy":
        return _same_numpy(left, right)
    if package == "torch" and hasattr(left, "untyped_storage"):
        return bool(tensor_state(left) == tensor_state(right))
    if isinstance(left, Image):
        sizes = (left.width, left.height) == (right.width, right.height)
        return sizes and _same_numpy(left.pixels, right.pixels)
    if isinstance(left, (float, complex, decimal.Decimal)):
        return repr(left) == repr(right)
    parts = _parts(left)
    if parts is None:
        return bool(left == right)
    others = _parts(right)
    assert others is not None
    return len(parts) == len(others) and all(map(same, parts, others))


def _parts(value: Any) -> list[Any] | None:
    """What a container or an object consists of; None for others."""
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    if isinstance(value, collections.abc.Mapping):
        kind = [getattr(value, "default_factory", None)]
        return [*kind, *_state(value), *(part for item in value.items() for part in item)]
    if isinstance(value, (list, tuple, collections.deque)):
        return [getattr(value, "maxlen", None), *_state(value), *value]
    if hasattr(type(value), "__pydantic_fields__") and hasattr(value, "__getstate__"):
        return [{**value.__getstate__(), "__dict__": _attributes(value)}]
    if dataclasses.is_dataclass(value):
        return [getattr(value, f.name, ...) for f in dataclasses.fields(value)] + _state(value)
    return None


def _state(value: Any) -> list[Any]:
    return [_attributes(value)] if hasattr(value, "__dict__") else []


def _attributes(value: Any) -> dict[str, Any]:
    """Attributes, but for what `functools.cached_property` has computed from the others."""
    cls = type(value)
    return {
        name: part
        for name, part in vars(value).items()
        if not isinstance(inspect.getattr_static(cls, name, None), cached_property)
    }


def _same_numpy(left: Any, right: Any) -> bool:
    import numpy as np

    if not isinstance(left, np.ndarray):
        return repr(left) == repr(right)
    if (left.dtype, left.shape) != (right.dtype, right.shape):
        return False
    if isinstance(left, np.ma.MaskedArray):
        return repr(left) == repr(right)
    if left.dtype.hasobject:
        return same(left.ravel().tolist(), right.ravel().tolist())
    if left.dtype.names:
        return all(_same_numpy(left[name], right[name]) for name in left.dtype.names)
    if left.dtype.char == "G":
        return _same_numpy(left.real, right.real) and _same_numpy(left.imag, right.imag)
    if left.dtype.char == "g":  # of its bytes, some are padding
        signs = np.array_equal(np.signbit(left), np.signbit(right))
        return signs and np.array_equal(left, right, equal_nan=True)
    return bool(left.tobytes() == right.tobytes())


def _same_pandas(left: Any, right: Any) -> bool:
    import pandas as pd

    testing: Any = pd.testing
    try:
        if isinstance(left, pd.DataFrame):
            testing.assert_frame_equal(left, right, check_exact=True, check_index_type="exact")
            pairs = zip(_columns(left), _columns(right), strict=True)
            return left.attrs == right.attrs and all(_same_objects(a, b) for a, b in pairs)
        if isinstance(left, pd.Series):
            testing.assert_series_equal(left, right, check_exact=True, check_index_type="exact")
            return type(left.name) is type(right.name) and _same_objects(left, right)
        if isinstance(left, pd.Index):
            testing.assert_index_equal(left, right, exact=True)
            return bool(getattr(left, "freq", None) == getattr(right, "freq", None))
    except AssertionError:
        return False
    return bool(left == right)


def _columns(frame: Any) -> Iterator[Any]:
    return (frame.iloc[:, i] for i in range(frame.shape[1]))


def _same_objects(left: Any, right: Any) -> bool:
    return left.dtype != object or same(left.tolist(), right.tolist())
