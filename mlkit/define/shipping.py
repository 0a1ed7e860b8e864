"""Pickling of functions and values for other processes.

The graph is shipped with the plain functions, not the decorated objects. Code of cells and of
modules that are not installed (files beside the notebook) is pickled by value.
"""

from __future__ import annotations

import builtins
import dataclasses
import enum
import importlib
import io
import pickle
import sys
import threading
import types
import typing
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import cloudpickle

from mlkit.define import classes, decorated
from mlkit.define.code import is_local, local_modules, local_subclasses, quoted_types, travels
from mlkit.define.fingerprint import fingerprint
from mlkit.define.packing import MIN_BUFFER, join
from mlkit.define.storage import TensorStorage

__all__ = [
    "LARGE_BYTES",
    "Pickler",
    "by_value",
    "content_id",
    "dumps",
    "dumps_mappable",
    "fingerprint",
    "importing",
    "loads",
    "local_modules",
    "pickled",
    "travels",
]

LARGE_BYTES = 16 * 2**20
"""Maximum pickled size of a step's function in bytes; more belongs in a resource."""

_registry = threading.RLock()  # cloudpickle's registry of modules is global


def dumps(value: Any, pickler: type[Pickler] | None = None) -> bytes:
    """Pickle a value for another process, functions of cells and local modules by value.

    Args:
        value: any value.
        pickler: `Pickler` by default.
    """
    with by_value():
        return pickled(value, pickler)


def dumps_mappable(value: Any) -> bytes:
    """Pickle as `dumps`, with large buffers beside the pickle, for `mlkit.define.packing.load`."""
    buffers: list[pickle.PickleBuffer] = []
    with by_value():
        return join(pickled(value, buffers=buffers), buffers)


@contextmanager
def importing(modules: Collection[str]) -> Iterator[None]:
    """Pickle what these local modules define by name: the other process imports it."""
    token = _importable.set(frozenset(modules))
    try:
        yield
    finally:
        _importable.reset(token)


_importable: ContextVar[frozenset[str]] = ContextVar("importable", default=frozenset())


def loads(data: bytes) -> Any:
    """Unpickle; only for bytes from this user's own processes."""
    return cloudpickle.loads(data)


def pickled(
    value: Any,
    kind: type[Pickler] | None = None,
    buffers: list[pickle.PickleBuffer] | None = None,
) -> bytes:
    """Pickle as `dumps`, within `by_value`.

    Args:
        value: any value.
        kind: `Pickler` by default.
        buffers: receives large buffers, which are left out of the pickle.
    """
    try:
        return _with_names(value, kind, buffers, annotations=True)
    except Exception:  # what annotations name cannot be pickled, and may never be needed
        return _with_names(value, kind, buffers, annotations=False)


def _with_names(
    value: Any,
    kind: type[Pickler] | None,
    buffers: list[pickle.PickleBuffer] | None,
    *,
    annotations: bool,
) -> bytes:
    names: set[str] = set()
    while True:
        buffer = io.BytesIO()
        if buffers is not None:
            buffers.clear()
        pickler = (kind or Pickler)(buffer, names, buffers)
        pickler.annotations = annotations
        pickler.dump(value)
        if pickler.names <= names or not (pickler.modules or _SUBCLASSES in pickler.names):
            return buffer.getvalue()
        names |= pickler.names  # of functions that were reached by members of modules


_SENTINELS = {
    id(value): name
    for name, value in vars(dataclasses).items()
    if type(value).__module__ == "dataclasses"
}
"""Names of ``MISSING`` and its kin, which code compares by identity."""


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles by value what cloudpickle would import from a module that is not installed.

    Args:
        buffer: receives the pickle.
        names: names that the pickled code is known to use: of a module, only members
            of these names are pickled. What else a module holds, such as locks, connections and
            data for other code, stays behind.
        buffers: receives large buffers, which are left out of the pickle.

    Attributes:
        names: names that the pickled code uses.
        modules: number of modules that were pickled by value.
        annotations: whether to pickle what annotations in quotes name.
    """

    annotations = True

    def __init__(
        self,
        buffer: Any,
        names: Collection[str] = (),
        buffers: list[pickle.PickleBuffer] | None = None,
    ) -> None:
        def stays_in(part: pickle.PickleBuffer) -> bool:
            assert buffers is not None
            large = part.raw().nbytes >= MIN_BUFFER
            if large:
                buffers.append(part)
            return not large

        super().__init__(buffer, protocol=5, buffer_callback=None if buffers is None else stays_in)
        self._beside = buffers is not None
        self._storages: dict[int, TensorStorage] = {}
        self.names: set[str] = set()
        self.modules = 0
        self._wanted = names
        self._importable = _importable.get()

    def reducer_override(self, obj: Any) -> Any:
        """Reduce objects that cloudpickle does not handle, or handles differently."""
        if id(obj) in _SENTINELS:
            return _SENTINELS[id(obj)]
        if isinstance(obj, types.ModuleType) and obj.__name__ in self._importable:
            return importlib.import_module, (obj.__name__,)
        if getattr(obj, "__module__", None) in self._importable and hasattr(obj, "__qualname__"):
            return super().reducer_override(obj)
        if isinstance(obj, (type, enum.Enum)):
            return self._class_or_member(obj)
        reduction = self._reduced(obj)
        if isinstance(obj, types.FunctionType) and _is_by_value(reduction) and travels(obj):
            _, _, (_, state), *_ = reduction
            state["__globals__"] = self._named(obj) | state["__globals__"]
            return classes.reduced_function(obj, reduction)
        return reduction

    def _reduced(self, obj: Any) -> Any:
        if isinstance(obj, types.ModuleType) and is_local(obj):
            self.modules += 1
            return _module, (obj.__name__,), self._members(obj), None, None, _set_members
        function = decorated.reduced(obj)
        if function is not None:
            return function
        if type(obj).__module__ == "IPython.core.autocall":  # exit and quit of a notebook
            return getattr, (builtins, "exit")
        if _is_get_ipython(obj):
            return getattr, (sys.modules[__name__], get_no_ipython.__name__)
        if isinstance(obj, typing.NewType) and travels(obj):
            return _new_type, (obj.__name__, obj.__supertype__, obj.__module__)
        if type(obj).__name__ == "TypeAliasType" and travels(obj):
            return _alias, (type(obj), obj.__name__, obj.__value__, obj.__type_params__)
        if self._beside and (storage := TensorStorage.of(obj)) is not None:
            return storage.reduction(obj, self._storages)
        if isinstance(obj, types.CodeType):
            self.names.update(obj.co_names)
            # By default all code gets the same file name, and tracebacks show no lines.
            build, parts = self.dispatch_table[types.CodeType](obj)
            return build, tuple(obj.co_filename if p == _NO_FILE else p for p in parts)
        return super().reducer_override(obj)

    def _class_or_member(self, value: Any) -> Any:
        cls = value if isinstance(value, type) else type(value)
        if cls is not value and classes.is_member(value) and travels(cls):
            return classes.reduced_member(value)
        if cls is value and travels(cls):
            if _is_incomplete(cls):
                cls.model_rebuild(raise_errors=False)  # its forward references are defined by now
            content_id(cls)
        reduction = super().reducer_override(value)
        if cls is value and travels(cls) and _is_by_value(reduction):
            subclasses = local_subclasses(cls) if _SUBCLASSES in self._wanted else ()
            return classes.reduced(cls, reduction, subclasses, self._named(cls))
        return reduction

    def _named(self, value: Any) -> dict[str, Any]:
        return quoted_types(value) if self.annotations else {}

    def _members(self, module: types.ModuleType) -> dict[str, Any]:
        wanted = {*self._wanted, "__getattr__"}  # computes members that the module does not have
        members = {name: vars(module)[name] for name in wanted if name in vars(module)}
        if not _DYNAMIC.isdisjoint(self._wanted):  # a member may be used without being named
            members |= {
                name: member
                for name, member in vars(module).items()
                if name not in members and name not in _OF_MODULES and _is_picklable(member)
            }
        return members


_DYNAMIC = {"getattr", "vars", "globals", "eval", "exec", "__dict__", "attrgetter", "methodcaller"}
"""Names that code uses to access members of modules by their names as text."""


def get_no_ipython() -> None:
    """Return None, as ``IPython.get_ipython()`` does outside of IPython."""


def _is_get_ipython(value: Any) -> bool:
    """Whether it is the function that a kernel adds to the notebook: a method of its shell."""
    return (
        isinstance(value, types.MethodType)
        and value.__name__ == "get_ipython"
        and value.__func__.__module__.startswith("IPython.")
    )


def _is_incomplete(cls: Any) -> bool:
    """Whether a model refers to types that were not defined when it was."""
    generic = vars(cls).get("__pydantic_generic_metadata__") or {}
    refers = vars(cls).get("__pydantic_complete__") is False and hasattr(cls, "model_rebuild")
    return refers and not generic.get("parameters") and not generic.get("origin")


def _is_by_value(reduction: Any) -> bool:
    """Whether cloudpickle takes a function or a class apart, instead of its name."""
    return isinstance(reduction, tuple) and len(reduction) == _PARTS


_PARTS = 6

_SUBCLASSES = "__subclasses__"

_OF_MODULES = {"__builtins__", "__cached__", "__loader__", "__name__", "__spec__"}


def _is_picklable(value: Any) -> bool:
    try:
        return len(pickled(value)) <= LARGE_BYTES // 16
    except Exception:
        return False


def _module(name: str) -> types.ModuleType:
    return types.ModuleType(name)


def _set_members(module: types.ModuleType, members: dict[str, Any]) -> None:
    vars(module).update(members)

    def missing(name: str) -> Any:
        raise AttributeError(
            f"{name!r} of module {module.__name__!r} was not sent to this process, because no step "
            f"names it; write {module.__name__}.{name} in the step"
        )

    vars(module).setdefault("__getattr__", missing)


def content_id(cls: type) -> str:
    """Return what identifies a class in all processes, and have cloudpickle use it.

    By default it identifies a class pickled by value by a random id; a cell that is run again
    creates a new class with a new id, and a process with the old one would not recognize its
    instances.
    """
    inner = cloudpickle.cloudpickle
    known: Any = inner._DYNAMIC_CLASS_TRACKER_BY_CLASS
    by_name: Any = inner._DYNAMIC_CLASS_TRACKER_BY_ID
    if cls not in known:
        name = fingerprint(cls)
        with inner._DYNAMIC_CLASS_TRACKER_LOCK:
            known[cls] = name
            by_name[name] = cls
    return str(known[cls])


_NO_FILE = "<dynamic-code>"


def _new_type(name: str, supertype: Any, module: str) -> Any:
    new_type = typing.cast(Any, typing.NewType)(name, supertype)
    new_type.__module__ = module
    return new_type


def _alias(kind: Any, name: str, value: Any, parameters: Any) -> Any:
    return kind(name, value, type_params=parameters)


@contextmanager
def by_value() -> Iterator[None]:
    """Pickle what local modules define by value, in this block."""
    with _registry:
        before = set(cloudpickle.list_registry_pickle_by_value())
        added = [m for m in local_modules() if m.__name__ not in before | _importable.get()]
        for module in added:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in added:
                cloudpickle.unregister_pickle_by_value(module)
