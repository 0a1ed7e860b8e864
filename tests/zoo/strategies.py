"""Values of a type, drawn by Hypothesis."""

import collections
import collections.abc as abc
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import ipaddress
import pathlib
import re
import typing
import uuid
from typing import Any, Literal, NotRequired, Required

import numpy as np
import pandas as pd
import pydantic as p
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from hypothesis.extra import numpy as hnp
from hypothesis.extra import pandas as hpd
from pydantic.fields import FieldInfo
from typing_extensions import ReadOnly, get_type_hints, is_typeddict

from mlkit.define.typing import UNIONS, unaliased
from mlkit.media.audio import Audio
from mlkit.media.image import Image
from mlkit.media.video import Video

Strategy = st.SearchStrategy[Any]

DTYPES = st.sampled_from(
    ["bool", "int8", "uint8", "int16", "uint32", "int64", "uint64", "float16", "float32", "float64"]
)
_FINITE: dict[str, Any] = {"allow_nan": False, "allow_infinity": False}
FLOATS = st.floats(**_FINITE)
ZONES = st.none() | st.timezones()
NAMES = st.text("abcxyz_", min_size=1, max_size=6)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2),
    max_leaves=4,
)
LISTS = st.lists(ANYTHING, max_size=3)


class Unknown(Exception):
    """There is no strategy for a type."""


def draw(strategy: Strategy, count: int) -> list[Any]:
    """Return some values, the same each time."""
    drawn: list[Any] = []

    @settings(
        max_examples=2 * count,  # the first ones are the simplest
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def note(value: Any) -> None:
        drawn.append(value)

    note()
    return drawn[-count:]


def values_of(type_: Any, count: int) -> list[Any]:
    """Return some values of a type; none if there is no strategy for it."""
    try:
        return draw(_lazily(type_), count)
    except (Unknown, Unsatisfiable):
        return []


def _strategy(type_: Any) -> Strategy:
    type_ = unaliased(type_)
    origin, args = typing.get_origin(type_), typing.get_args(type_)
    if origin is typing.Annotated:
        return _constrained(type_, args[0])
    if origin in (Required, NotRequired, ReadOnly, typing.Required, typing.NotRequired):
        return _strategy(args[0])
    if origin in UNIONS:
        return st.one_of(*map(_lazily, args))
    if origin is Literal:
        return st.sampled_from(args)
    if type_ == tuple[()]:
        return st.just(())
    if origin in _CONTAINERS and args:
        return _CONTAINERS[origin](*args)
    if origin is np.ndarray:
        return _array(*typing.get_args(args[1])) if len(args) == 2 else _array(Any)
    if isinstance(type_, type) or origin is not None:
        return _of_class(type_, origin or type_)
    if type_ in (Any, object, None):
        return st.none() if type_ is None else ANYTHING
    raise Unknown(type_)


def _constrained(type_: Any, inner: Any) -> Strategy:
    config = p.ConfigDict(arbitrary_types_allowed=True)  # only containers take one
    adapter: p.TypeAdapter[Any] = p.TypeAdapter(list[type_], config=config)

    def is_valid(value: Any) -> bool:
        try:
            adapter.validate_python([value])
        except Exception:
            return False
        return True

    return _bounded(type_, inner).filter(is_valid)


def _bounded(type_: Any, inner: Any) -> Strategy:
    marks = [
        mark
        for outer in type_.__metadata__
        for mark in (outer.metadata if isinstance(outer, FieldInfo) else [outer])
    ]
    bounds = {
        name: getattr(mark, name)
        for mark in marks
        for name in ("ge", "gt", "le", "lt")
        if hasattr(mark, name)
    }
    if inner in (int, float) and bounds:
        low, high = bounds.get("ge", bounds.get("gt")), bounds.get("le", bounds.get("lt"))
        return (
            st.integers(low, high)
            if inner is int
            else st.floats(low, high, allow_nan=False, allow_infinity=False)
        )
    if any(getattr(mark, "pattern", None) or getattr(mark, "url", False) for mark in marks):
        raise Unknown(type_)
    return _strategy(inner)


def _of_class(type_: Any, cls: Any) -> Strategy:
    if cls in _SCALARS:
        return _SCALARS[cls]
    if not isinstance(cls, type):
        raise Unknown(type_)
    if is_typeddict(cls):
        return _typed_dict(type_, cls)
    if issubclass(cls, enum.Enum):
        return st.sampled_from(cls)
    if issubclass(cls, p.BaseModel):
        return _model(type_)
    if dataclasses.is_dataclass(cls) and not hasattr(cls, "__pydantic_fields__"):
        return _dataclass(type_, cls)
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        hints = get_type_hints(cls, include_extras=True)
        return st.builds(cls, *(_lazily(hints[name]) for name in cls._fields))
    raise Unknown(type_)


def _lazily(hint: Any) -> Strategy:
    """A strategy for a part of a type, which may be the type itself."""
    try:
        return _SCALARS.get(hint) or _deferred(hint)
    except TypeError:  # unhashable metadata
        return _strategy(hint)


@functools.cache
def _deferred(hint: Any) -> Strategy:
    return st.deferred(lambda: _strategy(hint))


def _parameters(type_: Any, cls: Any) -> dict[Any, Any]:
    return dict(zip(getattr(cls, "__parameters__", ()), typing.get_args(type_), strict=False))


def _typed_dict(type_: Any, cls: Any) -> Strategy:
    hints = get_type_hints(cls, include_extras=True)
    known = _parameters(type_, cls)
    fields = {name: _lazily(known.get(hint, hint)) for name, hint in hints.items()}
    required = {name: value for name, value in fields.items() if name in cls.__required_keys__}
    optional = {name: value for name, value in fields.items() if name not in required}
    return st.fixed_dictionaries(required, optional=optional)


def _dataclass(type_: Any, cls: Any) -> Strategy:
    hints = get_type_hints(cls, include_extras=True)
    known = _parameters(type_, cls)
    if any(isinstance(hint, dataclasses.InitVar) for hint in hints.values()):
        raise Unknown(type_)
    names = [field.name for field in dataclasses.fields(cls) if field.init]
    return st.builds(cls, **{name: _lazily(known.get(hints[name], hints[name])) for name in names})


def _model(cls: Any) -> Strategy:
    fields = cls.model_fields
    if issubclass(cls, p.RootModel):
        return _lazily(fields["root"].annotation).map(cls)
    required = {n: _field(f) for n, f in fields.items() if f.is_required()}
    optional = {n: _field(f) for n, f in fields.items() if not f.is_required()}

    def model(data: dict[str, Any]) -> Any:
        return cls.model_validate(data, by_name=True, by_alias=False)

    def is_valid(data: dict[str, Any]) -> bool:
        try:
            model(data)
        except p.ValidationError:
            return False
        return True

    return st.fixed_dictionaries(required, optional=optional).filter(is_valid).map(model)


def _field(field: FieldInfo) -> Strategy:
    metadata = tuple(mark for mark in field.metadata)
    return _lazily(
        typing.Annotated[(field.annotation, *metadata)] if metadata else field.annotation
    )


def _list(item: Any) -> Strategy:
    return st.lists(_lazily(item), max_size=3)


def _dict(key: Any, value: Any) -> Strategy:
    return st.dictionaries(NAMES if key is str else _strategy(key), _lazily(value), max_size=3)


def _set(item: Any) -> Strategy:
    return st.sets(_strategy(item), max_size=3)


def _tuple(*items: Any) -> Strategy:
    if items[-1:] == (Ellipsis,):
        return _list(items[0]).map(tuple)
    return st.tuples(*map(_lazily, items))


def _array(scalar: Any) -> Strategy:
    known = isinstance(scalar, type) and issubclass(scalar, np.generic) and scalar is not np.generic
    dtypes = st.just(np.dtype(scalar)) if known else DTYPES.map(np.dtype)
    shapes = hnp.array_shapes(min_dims=0, max_dims=3, max_side=3)
    return dtypes.flatmap(lambda dtype: hnp.arrays(dtype, shapes, elements=_elements(dtype)))


def _elements(dtype: Any) -> dict[str, Any]:
    return _FINITE if dtype.kind == "f" else {}


def _image(size: tuple[int, int]) -> Strategy:
    return hnp.arrays(np.uint8, (*size, 3)).map(lambda pixels: Image(pixels, size[1], size[0]))


def _audio(shape: tuple[int, int]) -> Strategy:
    samples = hnp.arrays(np.float32, shape, elements=st.floats(width=32, **_FINITE))
    return st.builds(Audio, samples, st.integers(1, 48_000).map(lambda rate: rate * shape[0]))


def _video(shades: list[int]) -> Video:
    frames = (np.full((16, 16, 3), shade, np.uint8) for shade in shades)
    return Video.from_frames(frames, rate=2)


_CONTAINERS: dict[Any, Any] = {
    list: _list,
    abc.Sequence: _list,
    abc.MutableSequence: _list,
    dict: _dict,
    abc.Mapping: _dict,
    abc.MutableMapping: _dict,
    collections.OrderedDict: lambda k, v: _dict(k, v).map(collections.OrderedDict),
    set: _set,
    abc.Set: _set,
    frozenset: lambda item: _set(item).map(frozenset),
    tuple: _tuple,
    collections.deque: lambda item: _list(item).map(collections.deque),
}

_SCALARS: dict[Any, Strategy] = {
    type(None): st.none(),
    bool: st.booleans(),
    int: st.integers(-(2**70), 2**70),
    float: FLOATS,
    complex: st.complex_numbers(allow_nan=False, allow_infinity=False),
    str: st.text(max_size=20),
    bytes: st.binary(min_size=1),
    object: ANYTHING,
    list: LISTS,
    dict: st.dictionaries(NAMES, ANYTHING, max_size=3),
    set: st.sets(st.integers(), max_size=3),
    tuple: LISTS.map(tuple),
    decimal.Decimal: st.decimals(allow_nan=False, allow_infinity=False),
    uuid.UUID: st.uuids(),
    dt.date: st.dates(),
    dt.time: st.times(),
    dt.datetime: st.datetimes(timezones=ZONES),
    dt.timedelta: st.timedeltas(),
    pathlib.Path: NAMES.map(pathlib.Path),
    ipaddress.IPv4Address: st.ip_addresses(v=4),
    re.Pattern: NAMES.map(re.compile),
    np.ndarray: _array(Any),
    pd.DataFrame: hpd.data_frames(
        [
            hpd.column("a", dtype=np.int64),
            hpd.column("b", elements=st.text("abc", max_size=3), dtype=object),
            hpd.column("c", dtype=np.float32, elements=st.floats(width=32)),
        ],
        index=hpd.range_indexes(min_size=1, max_size=4),
    ).map(lambda frame: frame.astype({"b": "str"})),
    Audio: st.tuples(st.integers(1, 4), st.integers(1, 2)).flatmap(_audio),
    Image: st.tuples(st.integers(1, 4), st.integers(1, 4)).flatmap(_image),
    Video: st.lists(st.integers(0, 255), min_size=1, max_size=3).map(_video),
}
