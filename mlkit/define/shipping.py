"""Pickling of functions and values for other processes.

The graph is shipped with the plain functions, not the decorated objects. Code of cells and of
modules that are not installed (files beside the notebook) is pickled by value.
"""

from __future__ import annotations

import functools
import inspect
import io
import threading
import types
import typing
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import cloudpickle

from mlkit.define.code import captured, is_local, local_modules, travels, undefined_names
from mlkit.define.fingerprint import fingerprint
from mlkit.define.graph import Graph, Problem
from mlkit.define.resource import Resource

__all__ = [
    "LARGE_BYTES",
    "Pickler",
    "dumps",
    "fingerprint",
    "loads",
    "local_modules",
    "problems",
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
    with _by_value():
        return _pickled(value, pickler)


def loads(data: bytes) -> Any:
    """Unpickle; only for bytes from this user's own processes."""
    return cloudpickle.loads(data)


def _pickled(value: Any, kind: type[Pickler] | None = None) -> bytes:
    names: set[str] = set()
    while True:
        buffer = io.BytesIO()
        pickler = (kind or Pickler)(buffer, names)
        pickler.dump(value)
        if not pickler.modules or pickler.names <= names:
            return buffer.getvalue()
        names |= pickler.names  # of functions that were reached by members of modules


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles by value what cloudpickle would import from a module that is not installed.

    Args:
        buffer: receives the pickle.
        names: names that the pickled code uses, as far as they are known: of a module, only members
            of these names are pickled. What else a module holds, such as locks, connections and
            data for other code, stays behind.

    Attributes:
        names: names that the pickled code uses.
        modules: number of modules that were pickled by value.
    """

    def __init__(self, buffer: Any, names: Collection[str] = ()) -> None:
        super().__init__(buffer, protocol=5)
        self.names: set[str] = set()
        self.modules = 0
        self._wanted = names

    def reducer_override(self, obj: Any) -> Any:
        """Reduce objects that cloudpickle does not handle, or handles differently."""
        if isinstance(obj, types.ModuleType) and is_local(obj):
            self.modules += 1
            return _module, (obj.__name__,), self._members(obj), None, None, _set_members
        if isinstance(obj, functools._lru_cache_wrapper) and travels(obj.__wrapped__):
            return _cached, (obj.__wrapped__, obj.cache_parameters())
        if type(obj) is functools.cached_property:
            return _cached_property, (obj.func, obj.attrname, obj.__doc__)
        if isinstance(obj, types.FunctionType) and obj.__code__ is _DISPATCHING:
            registry = dict(obj.registry)  # type: ignore[attr-defined]
            return _single_dispatch, (registry.pop(object), registry)
        if isinstance(obj, typing.NewType) and travels(obj):
            return _new_type, (obj.__name__, obj.__supertype__, obj.__module__)
        if type(obj).__name__ == "TypeAliasType" and travels(obj):
            return _alias, (type(obj), obj.__name__, obj.__value__, obj.__type_params__)
        if isinstance(obj, type) and travels(obj):
            _name_by_content(obj)
        if isinstance(obj, types.CodeType):
            self.names.update(obj.co_names)
            # By default all code gets the same file name, and tracebacks show no lines.
            build, parts = self.dispatch_table[types.CodeType](obj)
            return build, tuple(obj.co_filename if p == _NO_FILE else p for p in parts)
        return super().reducer_override(obj)

    def _members(self, module: types.ModuleType) -> dict[str, Any]:
        members = {name: vars(module)[name] for name in self._wanted if name in vars(module)}
        if not _DYNAMIC.isdisjoint(self._wanted):  # a member may be used without being named
            members |= {
                name: member
                for name, member in vars(module).items()
                if name not in members and name not in _OF_MODULES and _is_picklable(member)
            }
        return members


_DYNAMIC = {"getattr", "vars", "globals", "eval", "exec", "__dict__", "attrgetter", "methodcaller"}
"""Names that code uses to access members of modules by their names as text."""

_OF_MODULES = {"__builtins__", "__cached__", "__loader__", "__name__", "__spec__"}


def _is_picklable(value: Any) -> bool:
    try:
        return len(_pickled(value)) <= LARGE_BYTES // 16
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


def _name_by_content(cls: type) -> None:
    """Have cloudpickle identify classes by content.

    By default it identifies a class pickled by value by a random id; a cell that is run again
    creates a new class with a new id, and a process with the old one would not recognize its
    instances.
    """
    inner = cloudpickle.cloudpickle
    known: Any = inner._DYNAMIC_CLASS_TRACKER_BY_CLASS
    by_name: Any = inner._DYNAMIC_CLASS_TRACKER_BY_ID
    if cls in known:
        return
    name = fingerprint(cls)
    with inner._DYNAMIC_CLASS_TRACKER_LOCK:
        known[cls] = name
        by_name[name] = cls


_NO_FILE = "<dynamic-code>"


class _WithoutResources(Pickler):
    """Measures what a function itself carries, without its resources."""

    def persistent_id(self, obj: Any) -> str | None:
        return "resource" if isinstance(obj, Resource) else None


def _cached(fn: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    """Rebuild a cached function, with an empty cache."""
    return functools.lru_cache(**parameters)(fn)


def _cached_property(fn: Callable[..., Any], name: str | None, doc: str | None) -> Any:
    """Rebuild a cached property; up to Python 3.11 it has a lock."""
    rebuilt = functools.cached_property(fn)
    rebuilt.attrname, rebuilt.__doc__ = name, doc
    return rebuilt


_DISPATCHING = functools.singledispatch(lambda value: None).__code__  # type: ignore[attr-defined]


def _single_dispatch(fn: Callable[..., Any], registry: dict[type, Callable[..., Any]]) -> Any:
    """Rebuild a function with `functools.singledispatch`, whose cache has weak references."""
    rebuilt = functools.singledispatch(fn)
    for type_, implementation in registry.items():
        rebuilt.register(type_, implementation)
    return rebuilt


def _new_type(name: str, supertype: Any, module: str) -> Any:
    new_type = typing.cast(Any, typing.NewType)(name, supertype)
    new_type.__module__ = module
    return new_type


def _alias(kind: Any, name: str, value: Any, parameters: Any) -> Any:
    return kind(name, value, type_params=parameters)


@contextmanager
def _by_value() -> Iterator[None]:
    with _registry:
        before = set(cloudpickle.list_registry_pickle_by_value())
        added = [m for m in local_modules() if m.__name__ not in before]
        for module in added:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in added:
                cloudpickle.unregister_pickle_by_value(module)


def problems(graph: Graph) -> Iterator[Problem]:
    """Steps and resources that cannot be pickled, or are too large."""
    problems: list[Problem] = []
    with _by_value():
        for step in {id(node.step): node.step for node in graph}.values():
            problems += _undefined(step)
            problems += _pickling(f"step {step.name!r}", step.fn, heavy=True, node=step.name)
        for resource in graph.resources.values():
            heavy = resource.load is not None
            problems += _pickling(f"resource {resource.name!r}", resource, heavy=heavy)
    yield from problems


def _undefined(step: Any) -> Iterator[Problem]:
    """Names that a step uses and nothing defines: it would fail with a NameError."""
    if inspect.isfunction(step.fn) and travels(step.fn):
        for name in undefined_names(step.fn):
            yield Problem(
                f"step {step.name!r}",
                f"it uses {name!r}, which is not defined",
                fix=f"define {name} or import it, here or in the step",
                node=step.name,
            )


def _pickling(where: str, value: Any, *, heavy: bool, node: str | None = None) -> Iterator[Problem]:
    kind = _WithoutResources if inspect.isfunction(value) else None
    try:
        size = len(_pickled(value, kind))
    except Exception as error:
        yield Problem(
            where,
            f"it cannot be pickled for another process: {error}",
            fix="build what cannot be pickled in a loader: resource(load)",
            node=node,
        )
        return
    if heavy and size > LARGE_BYTES:
        yield Problem(
            where,
            f"it pickles to {size / 2**20:.0f} MiB, {_heaviest(value)}",
            expected=f"at most {LARGE_BYTES / 2**20:.0f} MiB with a function",
            fix="pass it as a keyword: (..., *, model=resource(value=model)), which ships it once",
            node=node,
        )


def _heaviest(fn: Any) -> str:
    used = captured(fn) if inspect.isfunction(fn) else {}
    sizes = {name: len(_pickled(value)) for name, value in used.items()}
    name = max(sizes, key=sizes.__getitem__, default=None)
    return f"most of it {name!r}" if name else "most of it in its arguments"
