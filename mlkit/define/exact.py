"""The exact form: values between a notebook and its own app, without loss and without pickle.

A public JSON form loses what JSON and the type's author leave out: excluded fields, fields of
subclasses, NaN, dtypes, time zones; and reading it runs validators, which may change a value. The
exact form keeps them: objects are restored field by field, without ``__init__`` and validators.

It is therefore only accepted together with the app's secret key, which the session shares with
replicas and notebooks, never with other clients. Restoring an object sets fields of a model, a
dataclass or another plain class that is already loaded; it imports and executes nothing.

The format is a JSON tree, followed by the binary values that it refers to::

    MAGIC | length of the tree, 4 bytes, big endian | tree | binary values

Values that JSON has are themselves; all others are objects with the key "~", the name of a kind.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import io
import json
import re
import secrets
import struct
import sys
import typing
import uuid
import zoneinfo
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from math import isfinite
from typing import Any

from mlkit.define.graph import Graph
from mlkit.define.registry import codecs, frame_from_arrow, frame_to_arrow
from mlkit.define.typing import field_types, strip
from mlkit.errors import InputError

__all__ = ["MEDIA_TYPE", "PROCESS_KEY", "Exact"]

MEDIA_TYPE = "application/vnd.mlkit.exact"

PROCESS_KEY = secrets.token_hex(16)
"""Key of applications that are served in this process, for clients in this process."""

MAGIC = b"mlkit\x00\x01\n"

_SIMPLE = {str, int, bool, type(None), float}


class Exact:
    """Encodes and decodes values in the exact form.

    Args:
        graph: the pipeline; classes that its types name are found even if they belong to a cell.
    """

    def __init__(self, graph: Graph) -> None:
        types = [*(p.type for p in graph.parameters), graph.returns]
        types += [node.type for node in graph]
        self._roots = {_name(cls): cls for cls in _classes(types)}

    def encode(self, value: Any) -> bytes:
        """Encode a value.

        Raises:
            InputError: a part of it has no exact form.
        """
        writer = _Writer()
        try:
            tree = json.dumps(writer.tree(value), separators=(",", ":")).encode()
        except RecursionError:
            raise InputError("the value is nested too deeply, or contains itself") from None
        return b"".join([MAGIC, struct.pack(">I", len(tree)), tree, *writer.parts])

    def decode(self, data: bytes) -> Any:
        """Decode a value.

        Raises:
            InputError: the data are malformed, or a class is not known here.
        """
        start = len(MAGIC) + 4
        if len(data) < start or data[: len(MAGIC)] != MAGIC:
            raise InputError("not in the exact form")
        (length,) = struct.unpack(">I", data[len(MAGIC) : start])
        if start + length > len(data):
            raise InputError("not in the exact form: it is truncated")
        view = memoryview(data)[start + length :]
        try:
            return _Reader(view, self._class).value(json.loads(data[start : start + length]))
        except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"not in the exact form: {error}") from error

    def _class(self, name: str) -> Any:
        """Return a class by module and qualified name: of the pipeline's types, or loaded."""
        cls = self._roots.get(name)
        if cls is not None:
            return cls
        module, _, path = name.partition(":")
        target: Any = sys.modules.get(module)
        for part in path.split("."):
            target = getattr(target, part, None)
        if isinstance(target, type) and _name(target) == name:
            return target
        for root in self._roots.values():  # subclasses that a cell defines
            for subclass in reversed(_subclasses(root)):
                if _name(subclass) == name:
                    return subclass
        raise InputError(
            f"the class {path} is not known here",
            fix="name it in an annotation of the pipeline or its steps",
        )


class _Writer:
    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self._offset = 0

    def tree(self, value: Any) -> Any:
        kind = type(value)
        if kind in _SIMPLE:
            finite = kind is not float or isfinite(value)
            return value if finite else {"~": "float", "v": str(value)}
        if kind is list:
            return value if _is_simple(value) else [self.tree(item) for item in value]
        if kind is dict:
            return self._dict(value)
        write = _KINDS.get(kind)
        if write is not None:
            name, encode, _ = write
            return {"~": name, "v": self.tree(encode(value))}
        return self._other(value, kind)

    def _dict(self, value: dict[Any, Any]) -> Any:
        if all(type(key) is str for key in value) and "~" not in value:
            if _is_simple(value.values()):
                return value
            return {key: self.tree(item) for key, item in value.items()}
        return {"~": "dict", "v": [[self.tree(k), self.tree(v)] for k, v in value.items()]}

    def binary(self, name: str, data: bytes, **more: Any) -> dict[str, Any]:
        self.parts.append(data)
        self._offset += len(data)
        return {"~": name, "at": [self._offset - len(data), len(data)], **more}

    def _other(self, value: Any, kind: type) -> Any:
        package = kind.__module__.partition(".")[0]
        if kind in (bytes, bytearray, memoryview):
            return self.binary(kind.__name__, bytes(value))
        if kind in codecs():
            encode = codecs()[kind].encode
            return {"~": "codec", "c": _name(kind), "v": self.tree(encode(value))}
        if isinstance(value, enum.Enum):
            return {"~": "enum", "c": _name(kind), **self._member(value)}
        if package == "numpy":
            return self._numpy(value, kind)
        if package == "pandas":
            return self._pandas(value)
        if dataclasses.is_dataclass(kind):
            return self._object("dataclass", value, _dataclass_state(value))
        if hasattr(kind, "__pydantic_fields__"):
            return self._object("model", value, value.__getstate__())
        return self._instance(value, kind)

    def _member(self, value: Any) -> dict[str, Any]:
        named = value.name in type(value).__members__  # not a combination of flags
        return {"n": value.name} if named else {"v": self.tree(value.value)}

    def _instance(self, value: Any, kind: type) -> Any:
        for base, name in _BASES.items():  # NamedTuples, and subclasses of Python's own types
            if isinstance(value, base):
                state = dict(getattr(value, "__dict__", {}))
                return self._object(name, value, [base(value), state])
        for path, (name, encode) in _BY_TEXT.items():
            if isinstance(value, _class_at(path)):
                return {"~": name, "c": _name(kind), "v": encode(value)}
        raise InputError(
            f"values of type {kind.__name__} have no exact form",
            fix=f"declare one: codec({kind.__name__}, encode=..., decode=...)",
        )

    def _object(self, name: str, value: Any, state: Any) -> dict[str, Any]:
        return {"~": name, "c": _name(type(value)), "v": self.tree(state)}

    def _numpy(self, value: Any, kind: type) -> Any:
        import numpy as np

        if isinstance(value, np.ndarray) and value.dtype.hasobject:
            items = [self.tree(item) for item in value.ravel().tolist()]
            return {"~": "objects", "v": items, "shape": list(value.shape)}
        if not isinstance(value, (np.ndarray, np.generic)):
            raise InputError(f"values of type numpy.{kind.__name__} have no exact form")
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(value), allow_pickle=False)
        name = "scalar" if isinstance(value, np.generic) else "array"
        return self.binary(name, buffer.getvalue())

    def _pandas(self, value: Any) -> Any:
        import pandas as pd

        if isinstance(value, pd.DataFrame):
            return self.binary("frame", frame_to_arrow(value))
        if isinstance(value, pd.Series):
            label = self.tree(value.name)
            return self.binary("series", frame_to_arrow(value.to_frame("values")), label=label)
        if isinstance(value, pd.Index):
            frame = pd.DataFrame(index=value)
            return self.binary("index", frame_to_arrow(frame), names=self.tree(list(value.names)))
        if value is pd.NaT:
            return {"~": "NaT"}
        if value is pd.NA:
            return {"~": "NA"}
        if isinstance(value, pd.Timestamp):
            moment = {"ns": value.as_unit("ns").value, "unit": value.unit}
            return {"~": "Timestamp", **moment, "tz": self.tree(value.tzinfo)}
        if isinstance(value, pd.Timedelta):
            return {"~": "Timedelta", "ns": value.as_unit("ns").value, "unit": value.unit}
        raise InputError(f"values of type pandas.{type(value).__name__} have no exact form")


class _Reader:
    def __init__(self, data: memoryview, find: Callable[[str], Any]) -> None:
        self._data = data
        self._find = find

    def value(self, tree: Any) -> Any:
        if type(tree) is list:
            return tree if _is_simple(tree) else [self.value(item) for item in tree]
        if type(tree) is not dict:
            return tree
        kind = tree.get("~")
        if kind is None:
            return {key: self.value(item) for key, item in tree.items()}
        if kind == "dict":
            return {self.value(k): self.value(v) for k, v in tree["v"]}
        if kind in _BY_NAME:
            return _BY_NAME[kind](self.value(tree["v"]))
        return getattr(self, f"_{kind}")(tree)

    def _bytes_at(self, tree: Mapping[str, Any]) -> bytes:
        start, length = tree["at"]
        if start < 0 or length < 0 or start + length > len(self._data):
            raise InputError("not in the exact form: it is truncated")
        return bytes(self._data[start : start + length])

    def _bytes(self, tree: Any) -> bytes:
        return self._bytes_at(tree)

    def _bytearray(self, tree: Any) -> bytearray:
        return bytearray(self._bytes_at(tree))

    def _memoryview(self, tree: Any) -> memoryview:
        return memoryview(self._bytes_at(tree))

    def _enum(self, tree: Any) -> Any:
        cls = self._checked(tree, enum.Enum)
        return cls[tree["n"]] if "n" in tree else cls(self.value(tree["v"]))

    def _checked(self, tree: Any, base: Any) -> Any:
        cls = self._find(tree["c"])
        if not issubclass(cls, base):
            raise InputError(f"not in the exact form: {tree['c']} is no {base.__name__}")
        return cls

    def _model(self, tree: Any) -> Any:
        cls = self._find(tree["c"])
        if not hasattr(
            cls, "__pydantic_fields__"
        ):  # the next line would run any other class's code
            raise InputError(f"not in the exact form: {tree['c']} is no model")
        model = cls.__new__(cls)
        model.__setstate__(self.value(tree["v"]))
        return model

    def _dataclass(self, tree: Any) -> Any:
        cls = self._find(tree["c"])
        names = {field.name for field in dataclasses.fields(cls)}
        restored = object.__new__(cls)
        for name, value in self.value(tree["v"]).items():
            if name in names:
                object.__setattr__(restored, name, value)
        return restored

    def _codec(self, tree: Any) -> Any:
        return codecs()[self._find(tree["c"])].decode(self.value(tree["v"]))

    def _subclass(self, tree: Any, base: Any) -> Any:
        cls = self._checked(tree, base)
        content, state = self.value(tree["v"])
        if base in _IMMUTABLE:
            restored = base.__new__(cls, content)
        else:
            restored = base.__new__(cls)
            (list.extend if base is list else base.update)(restored, content)
        if state:
            restored.__dict__.update(state)
        return restored

    def _text(self, tree: Any, base: str) -> Any:
        return self._checked(tree, _class_at(base))(tree["v"])

    def __getattr__(self, name: str) -> Any:
        kind = name.removeprefix("_")
        for base, own in _BASES.items():
            if own == kind:
                return lambda tree: self._subclass(tree, base)
        for path, (own, _) in _BY_TEXT.items():
            if own == kind:
                return lambda tree: self._text(tree, path)
        raise InputError(f"not in the exact form: unknown kind {kind!r}")

    def _array(self, tree: Any) -> Any:
        import numpy as np

        return np.load(io.BytesIO(self._bytes_at(tree)), allow_pickle=False)

    def _scalar(self, tree: Any) -> Any:
        return self._array(tree)[()]

    def _objects(self, tree: Any) -> Any:
        import numpy as np

        array = np.empty(len(tree["v"]), dtype=object)
        array[:] = [self.value(item) for item in tree["v"]]
        return array.reshape(tree["shape"])

    def _frame(self, tree: Any) -> Any:
        return frame_from_arrow(self._bytes_at(tree))

    def _series(self, tree: Any) -> Any:
        return frame_from_arrow(self._bytes_at(tree))["values"].rename(self.value(tree["label"]))

    def _index(self, tree: Any) -> Any:
        return frame_from_arrow(self._bytes_at(tree)).index.set_names(self.value(tree["names"]))

    def _NaT(self, tree: Any) -> Any:  # noqa: N802
        import pandas as pd

        return pd.NaT

    def _NA(self, tree: Any) -> Any:  # noqa: N802
        import pandas as pd

        return pd.NA

    def _Timestamp(self, tree: Any) -> Any:  # noqa: N802
        import pandas as pd

        moment = pd.Timestamp(tree["ns"]).as_unit(tree["unit"])
        zone = self.value(tree["tz"])
        return moment if zone is None else moment.tz_localize("UTC").tz_convert(zone)

    def _Timedelta(self, tree: Any) -> Any:  # noqa: N802
        import pandas as pd

        return pd.Timedelta(tree["ns"]).as_unit(tree["unit"])


def _is_simple(values: Iterable[Any]) -> bool:
    """Whether all values are scalars that JSON has."""
    values = list(values)
    kinds = set(map(type, values))
    if not kinds <= _SIMPLE:
        return False
    return float not in kinds or all(isfinite(v) for v in values if type(v) is float)


def _dataclass_state(value: Any) -> dict[str, Any]:
    fields = (field.name for field in dataclasses.fields(value))
    return {name: getattr(value, name) for name in fields if hasattr(value, name)}


def _zone(zone: datetime.tzinfo | None) -> Any:
    if zone is None or isinstance(zone, (datetime.timezone, zoneinfo.ZoneInfo)):
        return zone
    raise InputError(
        f"time zones of type {type(zone).__name__} have no exact form",
        fix="use zoneinfo.ZoneInfo or datetime.timezone",
    )


def _moment(value: datetime.datetime) -> Any:
    return [value.replace(tzinfo=None, fold=0).isoformat(), _zone(value.tzinfo), value.fold]


def _from_moment(parts: Any) -> datetime.datetime:
    text, zone, fold = parts
    return datetime.datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold)


def _time(value: datetime.time) -> Any:
    return [value.replace(tzinfo=None, fold=0).isoformat(), _zone(value.tzinfo), value.fold]


def _from_time(parts: Any) -> datetime.time:
    text, zone, fold = parts
    return datetime.time.fromisoformat(text).replace(tzinfo=zone, fold=fold)


def _timezone(value: datetime.timezone) -> Any:
    return [value.utcoffset(None), str(value)] if value is not datetime.UTC else None


def _from_timezone(parts: Any) -> datetime.timezone:
    if parts is None:
        return datetime.UTC
    offset, name = parts
    plain = datetime.timezone(offset)
    return plain if str(plain) == name else datetime.timezone(offset, name)


def _pattern(value: re.Pattern[Any]) -> Any:
    return [value.pattern, value.flags & ~(re.UNICODE if isinstance(value.pattern, str) else 0)]


_KINDS: Mapping[type, tuple[str, Callable[[Any], Any], Callable[[Any], Any]]] = {
    tuple: ("tuple", list, tuple),
    set: ("set", list, set),
    frozenset: ("frozenset", list, frozenset),
    collections.deque: (
        "deque",
        lambda v: [list(v), v.maxlen],
        lambda v: collections.deque(v[0], maxlen=v[1]),
    ),
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
    datetime.datetime: ("datetime", _moment, _from_moment),
    datetime.date: ("date", datetime.date.isoformat, datetime.date.fromisoformat),
    datetime.time: ("time", _time, _from_time),
    datetime.timedelta: (
        "timedelta",
        lambda v: [v.days, v.seconds, v.microseconds],
        lambda v: datetime.timedelta(*v),
    ),
    datetime.timezone: ("timezone", _timezone, _from_timezone),
    zoneinfo.ZoneInfo: ("ZoneInfo", lambda v: v.key, zoneinfo.ZoneInfo),
    re.Pattern: ("Pattern", _pattern, lambda v: re.compile(*v)),
    type(...): ("Ellipsis", lambda _: None, lambda _: ...),
}
"""Python's own types: name, to simpler values, and back."""

_BY_NAME: Mapping[str, Callable[[Any], Any]] = {
    **{name: decode for name, _, decode in _KINDS.values()},
    "float": float,
}

_BASES: Mapping[type, str] = {
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

_IMMUTABLE = (tuple, str, bytes, int, float, frozenset)

_BY_TEXT: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "pathlib:PurePath": ("path", str),
    "ipaddress:_IPAddressBase": ("ip", str),
    "pydantic.networks:_BaseUrl": ("url", str),
    "pydantic.networks:_BaseMultiHostUrl": ("urls", str),
    "pydantic:Secret": ("secret", lambda value: value.get_secret_value()),
    "pydantic.types:_SecretBase": ("secret_text", lambda value: value.get_secret_value()),
}
"""Classes whose values are restored by calling the class with a text, by module and name."""


def _class_at(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(sys.modules.get(module), name, ())


def _name(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _classes(types: Iterable[Any]) -> Iterable[type]:
    """Classes that types name, those of their fields included."""
    seen: set[Any] = set()
    queue = collections.deque(types)
    while queue:
        type_ = strip(queue.popleft())
        try:
            if type_ in seen:
                continue
            seen.add(type_)
        except TypeError:
            continue
        queue.extend(a for a in typing.get_args(type_) if a is not Ellipsis)
        cls = typing.get_origin(type_) or type_
        if isinstance(cls, type):
            yield cls
            fields = field_types(cls) or getattr(cls, "__annotations__", {})
            queue.extend(t for t in fields.values() if not isinstance(t, str))
        if isinstance(type_, type) and type_ is not cls:
            yield type_


def _subclasses(cls: type) -> list[type]:
    direct: list[type] = type.__subclasses__(cls) if cls is not object else []
    return list(chain(direct, *(_subclasses(subclass) for subclass in direct)))
