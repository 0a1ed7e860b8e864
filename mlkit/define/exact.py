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

import dataclasses
import enum
import functools
import inspect
import io
import json
import secrets
import struct
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from math import isfinite
from types import MappingProxyType
from typing import Any

from mlkit.define import arrays
from mlkit.define.classnames import ClassNames
from mlkit.define.exacttypes import BASES, BY_TEXT, CONTENTS, FILL, KINDS, NEW, class_at
from mlkit.define.graph import Graph
from mlkit.define.objects import parts
from mlkit.define.registry import codecs
from mlkit.define.storage import restored_tensor, tensor_state
from mlkit.errors import InputError, MlkitError

__all__ = ["MEDIA_TYPE", "PROCESS_KEY", "Exact", "has_form"]

MEDIA_TYPE = "application/vnd.mlkit.exact"

PROCESS_KEY = secrets.token_hex(16)
"""Key of applications that are served in this process, for clients in this process."""

MAGIC = b"mlkit\x00\x01\n"

_SIMPLE = {str, int, bool, type(None), float}


class Exact:
    """Encodes and decodes values in the exact form.

    Args:
        graph: the pipeline; classes that its types name are found even if they belong to a cell.
        modules: names of modules in the exact form, by their names in this process.
    """

    def __init__(
        self, graph: Graph | None = None, modules: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self._classes = ClassNames(graph, modules)

    def encode(self, value: Any) -> bytes:
        """Encode a value.

        Raises:
            InputError: a part of it has no exact form.
        """
        try:
            return self._encoded(value, _Writer(self._classes.name_of))
        except RecursionError:
            raise _too_deep() from None
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            # Rare, so that integers are not looked at one by one otherwise.
            return self._encoded(value, _LongWriter(self._classes.name_of))

    def _encoded(self, value: Any, writer: _Writer) -> bytes:
        tree = json.dumps(writer.tree(value), separators=(",", ":")).encode()
        return b"".join([MAGIC, struct.pack(">I", len(tree)), tree, *writer.parts])

    def check(self, value: Any, *, public: bool = False) -> None:
        """Check that a value has an exact form, which is not made: contents are not copied.

        Args:
            value: any value.
            public: whether other clients get it as JSON, in which keys are texts.

        Raises:
            InputError: a part of it has none.
        """
        try:
            _Checker(self._named, public).tree(value)
        except RecursionError:
            raise _too_deep() from None

    def _named(self, cls: type) -> str:
        """Name of a class that can be found by it."""
        name = self._classes.name_of(cls)
        self._classes.find(name)
        return name

    def encode_result(self, value: Any) -> bytes:
        """Encode what a pipeline returned.

        Raises:
            MlkitError: a part of it has no exact form: an error of the pipeline, not of its caller.
        """
        try:
            return self.encode(value)
        except InputError as error:
            raise MlkitError(error.what, where="the result", fix=error.fix) from error

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
            return _Reader(view, self._classes.find).value(json.loads(data[start : start + length]))
        except (KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"not in the exact form: {error}") from error


def _too_deep() -> InputError:
    return InputError("the value is nested too deeply, or contains itself")


class _Writer:
    def __init__(self, name: Callable[[type], str]) -> None:
        self._name = name
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
        write = KINDS.get(kind)
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
        if kind is memoryview and (value.format, value.ndim) != ("B", 1):
            raise InputError(
                "a memoryview of other items than bytes has no exact form",
                fix="make an array of it: numpy.asarray(view)",
            )
        if kind in (bytes, bytearray, memoryview):
            return self.binary(kind.__name__, bytes(value))
        if package == "torch" and (tensor := tensor_state(value)) is not None:
            data, state = tensor
            return self.binary("tensor", data, v=state)
        if kind in codecs():
            return self._coded(value, kind)
        if isinstance(value, enum.Enum):
            return {"~": "enum", "c": self._name(kind), **self._member(value)}
        if package in ("numpy", "pandas"):
            return self._array(value)
        if _has_fields(kind):
            return self._by_field(value, kind)
        return self._instance(value, kind)

    def _by_field(self, value: Any, kind: type) -> Any:
        if dataclasses.is_dataclass(kind):
            return self._object("dataclass", value, self._kept(kind, _attributes(value)))
        state = value.__getstate__()
        return self._object("model", value, {**state, "__dict__": self._kept(kind, vars(value))})

    def _kept(self, kind: type, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Attributes but for what `functools.cached_property` can compute again, if it has to."""
        caches = _caches(kind)
        return {
            name: value
            for name, value in attributes.items()
            if name not in caches or self._attempt(value)
        }

    def _attempt(self, value: Any) -> bool:
        """Whether a value has an exact form."""
        count, offset = len(self.parts), self._offset
        try:
            self.tree(value)
        except InputError:
            return False
        finally:
            del self.parts[count:]
            self._offset = offset
        return True

    def _coded(self, value: Any, kind: type) -> Any:
        """Write a value of a class with a codec; by field if possible, since codecs lose things."""
        count, offset = len(self.parts), self._offset
        try:
            if _has_fields(kind):
                return self._by_field(value, kind)
        except InputError:  # a field has no exact form
            del self.parts[count:]
            self._offset = offset
        return {"~": "codec", "c": self._name(kind), "v": self.tree(codecs()[kind].encode(value))}

    def _member(self, value: Any) -> dict[str, Any]:
        named = value._name_ in type(value).__members__  # not a combination of flags
        return {"n": value._name_} if named else {"v": self.tree(value._value_)}

    def _instance(self, value: Any, kind: type) -> Any:
        for base, name in BASES.items():  # NamedTuples, and subclasses of Python's own types
            if isinstance(value, base):
                state = self._kept(kind, _attributes(value))
                return self._object(name, value, [CONTENTS[base](value), state])
        for path, (name, encode) in BY_TEXT.items():
            if isinstance(value, class_at(path)):
                return {"~": name, "c": self._name(kind), "v": self.tree(encode(value))}
        if _is_plain(kind):
            return self._object("object", value, self._kept(kind, _attributes(value)))
        raise InputError(
            f"values of type {kind.__name__} have no exact form",
            fix=f"declare one: codec({kind.__name__}, encode=..., decode=...)",
        )

    def _object(self, name: str, value: Any, state: Any) -> dict[str, Any]:
        return {"~": name, "c": self._name(type(value)), "v": self.tree(state)}

    def _array(self, value: Any) -> Any:
        pair = arrays.reduced(value)
        if pair is not None:
            return {"~": pair[0], "v": self.tree(pair[1])}
        return self._plain_array(value)

    def _plain_array(self, value: Any) -> Any:
        import numpy as np

        buffer = io.BytesIO()
        np.save(buffer, value, allow_pickle=False)
        return self.binary("array", buffer.getvalue())


class _Checker(_Writer):
    """Raises what a writer raises, without copying contents."""

    def __init__(self, name: Callable[[type], str], public: bool) -> None:
        super().__init__(name)
        self._public = public

    def _dict(self, value: dict[Any, Any]) -> Any:
        if self._public and any(type(key) is not str for key in value):
            from pydantic_core import to_jsonable_python

            names = to_jsonable_python(dict.fromkeys(value))
            if len(names) < len(value):
                raise InputError(
                    "two keys of a dict are the same text in JSON", fix="return a list of pairs"
                )
        return super()._dict(value)

    def binary(self, name: str, data: bytes, **more: Any) -> dict[str, Any]:
        return {}

    def _array(self, value: Any) -> Any:
        if self._public and type(value).__name__ == "NaTType":  # pydantic takes it for a datetime
            raise InputError("NaT has no JSON form", fix="return None for it")
        inner = parts(value)
        if inner is None:
            return super()._array(value)
        return self.tree([*inner, arrays.frequency(value)])

    def _plain_array(self, value: Any) -> Any:
        return {}


class _LongWriter(_Writer):
    """Writes integers as text, as those have to be that are too long for `int` to read."""

    def tree(self, value: Any) -> Any:
        if type(value) is int:
            return {"~": "int", "v": hex(value)}
        if type(value) is list:
            return [self.tree(item) for item in value]
        return super().tree(value)

    def _dict(self, value: dict[Any, Any]) -> Any:
        return {"~": "dict", "v": [[self.tree(k), self.tree(v)] for k, v in value.items()]}


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
        if kind in _SUBCLASSES:
            return self._subclass(tree, _SUBCLASSES[kind])
        if kind in _TEXTS:
            return self._checked(tree, class_at(_TEXTS[kind]))(self.value(tree["v"]))
        if kind not in _READERS:
            raise InputError(f"not in the exact form: unknown kind {kind!r}")
        return _READERS[kind](self, tree)

    def bytes_at(self, tree: Mapping[str, Any]) -> bytes:
        start, length = tree["at"]
        if start < 0 or length < 0 or start + length > len(self._data):
            raise InputError("not in the exact form: it is truncated")
        return bytes(self._data[start : start + length])

    def enum(self, tree: Any) -> Any:
        cls = self._checked(tree, enum.Enum)
        return cls[tree["n"]] if "n" in tree else cls(self.value(tree["v"]))

    def _checked(self, tree: Any, base: Any) -> Any:
        cls = self._find(tree["c"])
        if not issubclass(cls, base):
            raise InputError(f"not in the exact form: {tree['c']} is no {base.__name__}")
        return cls

    def model(self, tree: Any) -> Any:
        cls = self._find(tree["c"])
        if not hasattr(
            cls, "__pydantic_fields__"
        ):  # the next line would run any other class's code
            raise InputError(f"not in the exact form: {tree['c']} is no model")
        model = cls.__new__(cls)
        model.__setstate__(self.value(tree["v"]))
        return model

    def dataclass(self, tree: Any) -> Any:
        cls = self._find(tree["c"])
        if not dataclasses.is_dataclass(cls):
            raise InputError(f"not in the exact form: {tree['c']} is no dataclass")
        return self._new(cls, tree)

    def object(self, tree: Any) -> Any:
        cls = self._find(tree["c"])
        if not _is_plain(cls):
            raise InputError(f"not in the exact form: {tree['c']} is no plain class")
        return self._new(cls, tree)

    def _new(self, cls: Any, tree: Any) -> Any:
        restored: Any = object.__new__(cls)
        _set_attributes(restored, self.value(tree["v"]))
        return restored

    def codec(self, tree: Any) -> Any:
        return codecs()[self._find(tree["c"])].decode(self.value(tree["v"]))

    def _subclass(self, tree: Any, base: Any) -> Any:
        cls = self._checked(tree, base)
        content, state = self.value(tree["v"])
        if base in FILL:
            restored = base.__new__(cls)
            FILL[base](restored, content)
        else:
            restored = NEW.get(base, base.__new__)(cls, content)
        _set_attributes(restored, state)
        return restored

    def array(self, tree: Any) -> Any:
        import numpy as np

        return np.load(io.BytesIO(self.bytes_at(tree)), allow_pickle=False)


_READERS: Mapping[str, Callable[[_Reader, Any], Any]] = {
    "array": _Reader.array,
    "bytearray": lambda reader, tree: bytearray(reader.bytes_at(tree)),
    "bytes": _Reader.bytes_at,
    "codec": _Reader.codec,
    "dataclass": _Reader.dataclass,
    "enum": _Reader.enum,
    "memoryview": lambda reader, tree: memoryview(reader.bytes_at(tree)),
    "model": _Reader.model,
    "object": _Reader.object,
    "tensor": lambda reader, tree: restored_tensor(reader.bytes_at(tree), tree["v"]),
}

_SUBCLASSES = {name: base for base, name in BASES.items()}

_TEXTS = {name: path for path, (name, _) in BY_TEXT.items()}


def _is_simple(values: Iterable[Any]) -> bool:
    """Whether all values are scalars that JSON has."""
    values = list(values)
    kinds = set(map(type, values))
    if not kinds <= _SIMPLE:
        return False
    return float not in kinds or all(isfinite(v) for v in values if type(v) is float)


def _has_fields(kind: type) -> bool:
    """Whether it is a dataclass or a model, whose instances are their attributes."""
    fields = dataclasses.is_dataclass(kind) and _is_python(kind)
    return fields or hasattr(kind, "__pydantic_fields__")


@functools.lru_cache(maxsize=1024)
def _is_python(kind: type) -> bool:
    """Whether instances have no content besides attributes, as those of `float` and `Exception`."""
    try:
        object.__new__(kind)
    except TypeError:  # implemented in C, as locks are, or abstract
        return False
    return True


@functools.lru_cache(maxsize=1024)
def _is_plain(kind: type) -> bool:
    """Whether instances are attributes and nothing else, and are copied by these alone.

    ``__del__`` would run on attributes that the class has not set.
    """
    own = {"__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__del__"}
    bases = kind.__mro__[:-1]
    return bool(bases) and not any(own & vars(base).keys() for base in bases) and _is_python(kind)


def has_form(kind: type) -> bool:
    """Whether instances of a class have an exact form, as far as the class says."""
    package = kind.__module__.partition(".")[0]
    return (
        package in _JUDGED_BY_VALUE
        or inspect.isabstract(kind)
        or getattr(kind, "_is_protocol", False)
        or kind in {*_SIMPLE, *KINDS, *codecs(), bytes, bytearray, memoryview, object}
        or issubclass(kind, (enum.Enum, *BASES))
        or _has_fields(kind)
        or any(issubclass(kind, class_at(path)) for path in BY_TEXT)
        or (_is_plain(kind) and not _needs_arguments(kind))  # type: ignore[arg-type]
    )


_JUDGED_BY_VALUE = {"collections", "numpy", "pandas", "pydantic", "torch", "typing"}
"""Packages of classes whose instances may be of others, or are told apart by their contents."""


def _needs_arguments(kind: type) -> bool:
    """Whether unpickling, as between stages, would call ``__new__`` without its arguments."""
    if not inspect.isfunction(kind.__new__) or hasattr(kind, "__getnewargs__"):
        return False
    _, *parameters = inspect.signature(kind.__new__).parameters.values()
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return any(p.default is p.empty and p.kind not in variable for p in parameters)


def _attributes(value: Any) -> dict[str, Any]:
    """Attributes of an instance, those in slots included."""
    state = object.__getstate__(value)
    of_dict, of_slots = state if isinstance(state, tuple) else (state, None)
    return {**(of_dict or {}), **(of_slots or {})}


def _set_attributes(restored: Any, attributes: Mapping[str, Any]) -> None:
    cls = type(restored)
    for name, value in attributes.items():
        if inspect.ismemberdescriptor(inspect.getattr_static(cls, name, None)):
            object.__setattr__(restored, name, value)
        else:  # no property of that name is called
            restored.__dict__[name] = value


@functools.lru_cache(maxsize=1024)
def _caches(kind: type) -> frozenset[str]:
    """Names of the cached properties of a class."""
    members = chain.from_iterable(vars(base).items() for base in kind.__mro__)
    return frozenset(n for n, member in members if isinstance(member, functools.cached_property))


_BY_NAME: Mapping[str, Callable[[Any], Any]] = {
    **{name: decode for name, _, decode in KINDS.values()},
    "float": float,
    "int": lambda text: int(text, 16),
    **arrays.KINDS,
}
