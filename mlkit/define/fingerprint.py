"""Content digests of code, models and values.

A digest is the same in every process: it depends on no address, hash seed, file name or line.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import pickle
import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle

from mlkit.define.code import captured, is_validated_call, local_subclasses, travels
from mlkit.define.modules import late_modules
from mlkit.define.resource import Resource
from mlkit.define.step import Step
from mlkit.define.storage import TensorStorage

__all__ = ["fingerprint"]

_MACHINERY = (
    "__abstractmethods__ __annotate__ __annotate_func__ __annotations__ __annotations_cache__ "
    "__classcell__ __dataclass_fields__ __dict__ __firstlineno__ __module__ __orig_bases__ "
    "__parameters__ __qualname__ __signature__ __static_attributes__ __weakref__ "
    "_abc_impl model_fields"
)
"""Attributes of classes that carry no content, or are covered in another way."""


def fingerprint(value: Any) -> str:
    """Compute a digest that changes when a function, or anything it uses, does.

    Functions contribute their code, defaults, closures, annotations and the globals they name,
    followed into cells and local modules, and the sources of local modules that they import when
    they run, but no line numbers, file names and comments. Functions of installed packages
    contribute name, code, defaults and closures; resources their loader and the contents of their
    files. Everything else contributes its pickle, or its type if it cannot be pickled.
    """
    return _digest(_Parts().of(value)).hex()[:16]


def _digest(parts: Iterable[bytes]) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


class _Parts:
    """Decomposes values; functions and classes seen before are referenced by number."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, Any]] = {}  # the values are kept, so that no id is reused
        self._subclasses = False  # whether the code asks classes for their subclasses

    def of(self, value: Any) -> Iterator[bytes]:
        """Yield the bytes that identify a value."""
        yield type(value).__name__.encode()
        if value is None or type(value) in (bool, int, float, str, bytes):
            yield repr(value).encode()
        elif self._is_followed(value):
            yield from self._once(value)
        elif type(value) in (tuple, list):
            for item in value:
                yield from self.of(item)
        elif type(value) is dict:
            for key, item in value.items():
                yield from self.of(key)
                yield from self.of(item)
        elif type(value) in (set, frozenset):
            yield from self._unordered(value)
        else:
            yield self._pickled(value)

    def followed(self, value: Any) -> str | None:
        """Digest of a value that a pickle must not descend into; None for everything else."""
        if type(value) in (set, frozenset):
            return _digest(self._unordered(value)).hex()
        return _digest(self._once(value)).hex() if self._is_followed(value) else None

    def _is_followed(self, value: Any) -> bool:
        kinds = (types.FunctionType, types.ModuleType, types.CodeType, Step, Resource)
        others = (functools._lru_cache_wrapper, typing.TypeVar)
        if isinstance(value, (*kinds, *others)) or is_validated_call(value):
            return True
        return isinstance(value, type) and (travels(value) or _is_dynamic(value))

    def _once(self, value: Any) -> Iterator[bytes]:
        if id(value) in self._seen:
            yield f"number {self._seen[id(value)][0]}".encode()
            return
        self._seen[id(value)] = (len(self._seen), value)
        yield from self._followed(value)

    def _followed(self, value: Any) -> Iterator[bytes]:  # noqa: C901 - a case for each kind
        if isinstance(value, types.FunctionType):
            yield from self._function(value)
        elif isinstance(value, type):
            yield from self._class(value)
        elif isinstance(value, types.ModuleType):
            yield value.__name__.encode()
        elif isinstance(value, types.CodeType):
            yield from self._code(value)
        elif isinstance(value, typing.TypeVar):
            yield value.__name__.encode()
            yield from self.of((value.__bound__, value.__constraints__))
        elif isinstance(value, functools._lru_cache_wrapper):
            yield from self.of(value.cache_parameters())
            yield from self.of(value.__wrapped__)
        elif is_validated_call(value):
            yield from self.of((value.config_wrapper.config_dict, value.validate_return))
            yield from self.of(value.function)
        elif hasattr(value, "files"):
            yield from self._resource(value)
        else:
            yield repr(getattr(value, "max_batch_size", None)).encode()
            # Batching options affect the running code; placement options do not.
            options = value.options.to_dict()
            for name in ("batch_wait_timeout_s", "split_failed_batches"):
                if name in options:
                    yield f"{name}={options[name]!r}".encode()
            yield from self.of(value.fn)

    def _function(self, fn: types.FunctionType) -> Iterator[bytes]:
        yield f"{fn.__module__}.{fn.__qualname__}".encode()
        yield from self._code(fn.__code__)
        yield from self.of((fn.__defaults__, fn.__kwdefaults__))
        if travels(fn):
            yield from self.of(_hints(fn))
            for name, module in late_modules(fn).items():
                yield f"{name} {module.digest}".encode()
        for name, used in captured(fn).items():
            yield name.encode()
            yield from self.of(used)

    def _code(self, code: types.CodeType) -> Iterator[bytes]:
        yield code.co_code
        yield code.co_exceptiontable
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        yield repr((counts, code.co_names, code.co_varnames, code.co_freevars)).encode()
        self._subclasses |= "__subclasses__" in code.co_names
        for constant in code.co_consts:
            yield from self._code(constant) if inspect.iscode(constant) else self.of(constant)

    def _class(self, cls: type) -> Iterator[bytes]:
        yield f"{cls.__module__}.{cls.__qualname__}".encode()
        yield from self.of(cls.__bases__)
        yield from self.of(_hints(cls))
        yield from self.of(list(_field_options(cls)))
        skipped = _MACHINERY.split()
        for name, member in sorted(vars(cls).items()):
            if name in skipped or name.startswith("__pydantic_"):
                continue
            yield name.encode()
            if isinstance(member, property):
                yield from self.of((member.fget, member.fset, member.fdel))
            else:
                yield from self.of(getattr(member, "__func__", member))
        if self._subclasses:
            yield from self.of(local_subclasses(cls))

    def _resource(self, resource: Any) -> Iterator[bytes]:
        yield from self.of(resource.value if resource.load is None else resource.load)
        if resource.turn is not None:
            yield b"exclusive"
        for file in resource.files:
            yield str(file).encode()
            yield from _contents(Path(file))

    def _unordered(self, items: Iterable[Any]) -> Iterator[bytes]:
        yield from sorted(_digest(self.of(item)) for item in items)

    def _pickled(self, value: Any) -> bytes:
        into = _Hashing()
        try:
            _Pickler(into, self).dump(value)
        except Exception:
            return f"{type(value).__module__}.{type(value).__qualname__}".encode()
        return into.digest.digest()


def _is_dynamic(cls: type) -> bool:
    """Whether an installed module has made a class while it ran, such as for one of the user's."""
    lookup: Any = cloudpickle.cloudpickle._lookup_module_and_qualname
    return cls.__module__ != "builtins" and lookup(cls) is None


class _Hashing:
    """A file that hashes what is written to it."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()

    def write(self, data: Any) -> int:
        # Large arrays arrive as buffers, of any number of dimensions and in their own order.
        flat = data.raw() if isinstance(data, pickle.PickleBuffer) else data
        self.digest.update(flat)
        return len(flat)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles a value, with a digest instead of each function, class and set."""

    def __init__(self, into: _Hashing, parts: _Parts) -> None:
        super().__init__(into, protocol=5)
        self._parts = parts
        self._storages: dict[int, TensorStorage] = {}

    def persistent_id(self, obj: Any) -> str | None:
        return self._parts.followed(obj)

    def reducer_override(self, obj: Any) -> Any:
        # Torch's own pickle of a storage contains its address.
        if (storage := TensorStorage.of(obj)) is not None:
            return storage.reduction(obj, self._storages)
        return super().reducer_override(obj)


def _hints(value: Any) -> dict[str, Any]:
    """Annotations by name, sorted, resolved where possible."""
    own = inspect.get_annotations(value)
    try:
        hints = typing.get_type_hints(value, include_extras=True)
    except Exception:
        hints = {}
    return {name: hints.get(name, str(own[name])) for name in sorted(own)}


def _field_options(cls: type) -> Iterator[Any]:
    """Field options of a pydantic model or a dataclass, which are not among its attributes."""
    fields = cls.__dict__.get("__pydantic_fields__")
    if isinstance(fields, dict):
        for name, field in fields.items():
            yield name, field.default, field.default_factory, field.alias, field.metadata
    elif "__dataclass_fields__" in cls.__dict__:
        for part in dataclasses.fields(cls):
            yield part.name, part.default_factory, part.kw_only, dict(part.metadata)


def _contents(path: Path) -> Iterator[bytes]:
    """Digest of a file, or of all files in a folder."""
    if path.is_file():
        with path.open("rb") as file:
            yield hashlib.file_digest(file, "sha256").digest()
    elif path.is_dir():
        for inner in sorted(p for p in path.rglob("*") if p.is_file()):
            yield inner.relative_to(path).as_posix().encode()
            yield from _contents(inner)
    else:
        yield b"missing"
