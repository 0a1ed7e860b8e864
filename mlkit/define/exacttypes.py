"""Exact forms of Python's own types, and of their subclasses; see `mlkit.define.exact`."""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import re
import sys
import uuid
import zoneinfo
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from mlkit.errors import InputError

__all__ = ["BASES", "BY_TEXT", "CONTENTS", "FILL", "KINDS", "NEW", "class_at"]


def _zone(zone: datetime.tzinfo | None) -> Any:
    known = (datetime.timezone, zoneinfo.ZoneInfo, class_at(_PYDANTICS_ZONE))
    if zone is None or isinstance(zone, known):
        return zone
    raise InputError(
        f"time zones of type {type(zone).__name__} have no exact form",
        fix="use zoneinfo.ZoneInfo or datetime.timezone",
    )


def _key(zone: zoneinfo.ZoneInfo) -> str:
    if zone.key is None:
        raise InputError(
            "a time zone without a key has no exact form", fix="use zoneinfo.ZoneInfo(key)"
        )
    return zone.key


def _moment(value: datetime.datetime | datetime.time) -> Any:
    return [value.replace(tzinfo=None, fold=0).isoformat(), _zone(value.tzinfo), value.fold]


def _stored(base: Any, value: Any, *names: str) -> list[Any]:
    """Attributes as the base has them, whatever a subclass returns for their names."""
    return [getattr(base, name).__get__(value) for name in names]


def _date(value: datetime.date) -> list[Any]:
    return _stored(datetime.date, value, "year", "month", "day")


def _time(base: Any, value: datetime.datetime | datetime.time) -> list[Any]:
    *clock, zone = _stored(base, value, "hour", "minute", "second", "microsecond", "tzinfo")
    return [*clock, _zone(zone)]


def _from_moment(kind: Any, parts: Any) -> Any:
    text, zone, fold = parts
    return kind.fromisoformat(text).replace(tzinfo=zone, fold=fold)


def _timezone(value: datetime.timezone) -> Any:
    return [value.utcoffset(None), str(value)] if value is not datetime.UTC else None


def _from_timezone(parts: Any) -> datetime.timezone:
    if parts is None:
        return datetime.UTC
    offset, name = parts
    plain = datetime.timezone(offset)
    return plain if str(plain) == name else datetime.timezone(offset, name)


def _default_dict(value: collections.defaultdict[Any, Any]) -> Any:
    (factory,) = _stored(collections.defaultdict, value, "default_factory")
    if factory is not None and factory not in _FACTORIES:
        raise InputError(
            f"a defaultdict of {factory!r} has no exact form",
            fix=f"use a factory of {', '.join(factory.__name__ for factory in _FACTORIES)}",
        )
    return [factory and factory.__name__, dict(dict.items(value))]


def _from_default_dict(parts: Any) -> collections.defaultdict[Any, Any]:
    factories = {factory.__name__: factory for factory in _FACTORIES}
    return collections.defaultdict(factories[parts[0]] if parts[0] else None, parts[1])


def _pattern(value: re.Pattern[Any]) -> Any:
    return [value.pattern, value.flags & ~(re.UNICODE if isinstance(value.pattern, str) else 0)]


def _fill_ordered(restored: Any, items: Any) -> None:
    collections.OrderedDict.__init__(restored)
    for key, value in items:  # not by `update`, which calls methods of a subclass
        collections.OrderedDict.__setitem__(restored, key, value)


def _fill_default(restored: Any, parts: Any) -> None:
    plain = _from_default_dict(parts)
    collections.defaultdict.__init__(restored, plain.default_factory)
    dict.update(restored, plain)


def _fill_deque(restored: Any, parts: Any) -> None:
    items, maxlen = parts
    collections.deque.__init__(restored, items, maxlen)


_FACTORIES = (list, dict, set, int, float, str, tuple)

KINDS: Mapping[type, tuple[str, Callable[[Any], Any], Callable[[Any], Any]]] = {
    tuple: ("tuple", list, tuple),
    set: ("set", list, set),
    frozenset: ("frozenset", list, frozenset),
    collections.deque: (
        "deque",
        lambda v: [list(v), v.maxlen],
        lambda v: collections.deque(v[0], maxlen=v[1]),
    ),
    collections.defaultdict: ("defaultdict", _default_dict, _from_default_dict),
    collections.OrderedDict: ("OrderedDict", dict, collections.OrderedDict),
    collections.Counter: ("Counter", dict, collections.Counter),
    range: ("range", lambda v: [v.start, v.stop, v.step], lambda v: range(*v)),
    slice: ("slice", lambda v: [v.start, v.stop, v.step], lambda v: slice(*v)),
    complex: ("complex", lambda v: [v.real, v.imag], lambda v: complex(*v)),
    decimal.Decimal: ("Decimal", str, decimal.Decimal),
    fractions.Fraction: (
        "Fraction",
        lambda v: [v.numerator, v.denominator],
        lambda v: fractions.Fraction(*v),
    ),
    uuid.UUID: ("UUID", str, uuid.UUID),
    datetime.datetime: ("datetime", _moment, partial(_from_moment, datetime.datetime)),
    datetime.date: ("date", datetime.date.isoformat, datetime.date.fromisoformat),
    datetime.time: ("time", _moment, partial(_from_moment, datetime.time)),
    datetime.timedelta: (
        "timedelta",
        lambda v: [v.days, v.seconds, v.microseconds],
        lambda v: datetime.timedelta(*v),
    ),
    datetime.timezone: ("timezone", _timezone, _from_timezone),
    zoneinfo.ZoneInfo: ("ZoneInfo", _key, zoneinfo.ZoneInfo),
    re.Pattern: ("Pattern", _pattern, lambda v: re.compile(*v)),
    type(...): ("Ellipsis", lambda _: None, lambda _: ...),
}
"""Python's own types: name, to simpler values, and back."""

BASES: Mapping[type, str] = {
    collections.OrderedDict: "OrderedDict_of",
    collections.defaultdict: "defaultdict_of",
    collections.deque: "deque_of",
    bytearray: "bytearray_of",
    complex: "complex_of",
    decimal.Decimal: "Decimal_of",
    datetime.datetime: "datetime_of",
    datetime.date: "date_of",
    datetime.time: "time_of",
    datetime.timedelta: "timedelta_of",
    tuple: "tuple_of",
    str: "str_of",
    bytes: "bytes_of",
    int: "int_of",
    float: "float_of",
    list: "list_of",
    dict: "dict_of",
    set: "set_of",
    frozenset: "frozenset_of",
}
"""Types whose subclasses are restored from their content and attributes."""

CONTENTS: Mapping[type, Callable[[Any], Any]] = {
    collections.OrderedDict: lambda value: list(collections.OrderedDict.items(value)),
    collections.defaultdict: _default_dict,
    collections.deque: lambda value: [
        list(collections.deque.__iter__(value)),
        *_stored(collections.deque, value, "maxlen"),
    ],
    bytearray: bytearray.copy,
    complex: complex.__complex__,
    decimal.Decimal: decimal.Decimal.__str__,
    datetime.datetime: lambda value: [
        _date(value),
        _time(datetime.datetime, value),
        *_stored(datetime.datetime, value, "fold"),
    ],
    datetime.date: _date,
    datetime.time: lambda value: [
        _time(datetime.time, value),
        *_stored(datetime.time, value, "fold"),
    ],
    datetime.timedelta: lambda value: _stored(
        datetime.timedelta, value, "days", "seconds", "microseconds"
    ),
    tuple: lambda value: tuple(tuple.__iter__(value)),
    str: str.__str__,
    bytes: bytes.__bytes__,
    int: int.__int__,
    float: float.__float__,
    list: lambda value: list(list.__iter__(value)),
    dict: lambda value: dict(dict.items(value)),
    set: lambda value: set(set.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
}
"""What is written of a value: by methods of the base, since a subclass may have its own."""

NEW: Mapping[type, Callable[[Any, Any], Any]] = {
    datetime.datetime: lambda cls, v: datetime.datetime.__new__(cls, *v[0], *v[1], fold=v[2]),
    datetime.date: lambda cls, v: datetime.date.__new__(cls, *v),
    datetime.time: lambda cls, v: datetime.time.__new__(cls, *v[0], fold=v[1]),
    datetime.timedelta: lambda cls, v: datetime.timedelta.__new__(cls, *v),
}
"""Restores instances of bases that take what is written as several arguments."""

FILL: Mapping[type, Callable[[Any, Any], None]] = {
    collections.OrderedDict: _fill_ordered,
    collections.defaultdict: _fill_default,
    collections.deque: _fill_deque,
    bytearray: bytearray.extend,
    list: list.extend,
    dict: dict.update,
    set: set.update,
}

_PYDANTICS_ZONE = "pydantic_core._pydantic_core:TzInfo"
"""Of times that pydantic has read."""

BY_TEXT: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    _PYDANTICS_ZONE: ("zone", lambda zone: zone.utcoffset(None).total_seconds()),
    "pathlib:PurePath": ("path", str),
    "ipaddress:_IPAddressBase": ("ip", str),
    "pydantic.networks:_BaseUrl": ("url", str),
    "pydantic.networks:_BaseMultiHostUrl": ("urls", str),
    "pydantic:Secret": ("secret", lambda value: value.get_secret_value()),
    "pydantic.types:_SecretBase": ("secret_text", lambda value: value.get_secret_value()),
}
"""Classes whose values are restored by calling the class, by module and name."""


def class_at(path: str) -> Any:
    """Return a class by module and name; an empty tuple if its module is not loaded."""
    module, _, name = path.partition(":")
    return getattr(sys.modules.get(module), name, ())
