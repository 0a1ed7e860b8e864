"""Pickling of functions and values for other processes.

The graph is shipped with the plain functions, not the decorated objects. Code of cells and of
modules that are not installed (files beside the notebook) is pickled by value.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import inspect
import io
import pickle
import sys
import threading
import types
import typing
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import cloudpickle

from mlkit.define import classes
from mlkit.define.code import (
    captured,
    has_no_file,
    is_local,
    is_validated_call,
    late_imports,
    local_modules,
    local_subclasses,
    quoted_types,
    travels,
    undefined_names,
)
from mlkit.define.fingerprint import fingerprint
from mlkit.define.graph import Graph, Problem
from mlkit.define.lookups import lookups
from mlkit.define.modules import functions_of
from mlkit.define.nesting import nested_calls
from mlkit.define.packing import MIN_BUFFER, join
from mlkit.define.resource import Resource
from mlkit.define.step import Step
from mlkit.define.storage import TensorStorage

__all__ = [
    "LARGE_BYTES",
    "Pickler",
    "Unpicklable",
    "content_id",
    "dumps",
    "dumps_mappable",
    "fingerprint",
    "importing",
    "loads",
    "local_modules",
    "problems",
    "travels",
    "unpicklable",
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


def dumps_mappable(value: Any) -> bytes:
    """Pickle as `dumps`, with large buffers beside the pickle, for `mlkit.define.packing.load`."""
    buffers: list[pickle.PickleBuffer] = []
    with _by_value():
        return join(_pickled(value, buffers=buffers), buffers)


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


def _pickled(
    value: Any,
    kind: type[Pickler] | None = None,
    buffers: list[pickle.PickleBuffer] | None = None,
) -> bytes:
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
        names: names that the pickled code uses, as far as they are known: of a module, only members
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
        return reduction

    def _reduced(self, obj: Any) -> Any:
        if isinstance(obj, types.ModuleType) and is_local(obj):
            self.modules += 1
            return _module, (obj.__name__,), self._members(obj), None, None, _set_members
        function = _reduced_function(obj)
        if function is not None:
            return function
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


class _WithoutResources(Pickler):
    """Measures what a function itself carries, without its resources."""

    def persistent_id(self, obj: Any) -> str | None:
        return "resource" if isinstance(obj, Resource) else None


def _reduced_function(obj: Any) -> Any:
    """Reduce objects that decorators make of functions; None for any other object."""
    if isinstance(obj, functools._lru_cache_wrapper) and travels(obj.__wrapped__):
        return _cached, (obj.__wrapped__, obj.cache_parameters())
    if is_validated_call(obj):
        arguments = obj.function, obj.config_wrapper.config_dict, obj.validate_return, None
        return _validated_call, (type(obj), arguments, _hints(obj.function))
    if type(obj) is threading.local:
        return threading.local, ()
    if type(obj) is functools.cached_property:
        return _cached_property, (obj.func, obj.attrname, obj.__doc__)
    if _is_proxy(obj) and travels(obj):  # else the function in it would be pickled
        proxy = type(obj)
        raise pickle.PicklingError(
            f"{obj.__qualname__} is wrapped in a {proxy.__module__}.{proxy.__qualname__}"
        )
    if isinstance(obj, types.FunctionType) and obj.__code__ is _DISPATCHING:
        registry = dict(obj.registry)  # type: ignore[attr-defined]
        return _single_dispatch, (registry.pop(object), registry)
    return None


def _is_proxy(obj: Any) -> bool:
    """Whether an object merely passes for a function, as a proxy of wrapt does."""
    return isinstance(obj, types.FunctionType) and type(obj) is not types.FunctionType


def _cached(fn: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    """Rebuild a cached function, with an empty cache."""
    return functools.lru_cache(**parameters)(fn)


def _hints(fn: Callable[..., Any]) -> dict[str, Any]:
    """Annotations, resolved: names in text would be looked up in another process's module."""
    try:
        return typing.get_type_hints(fn, include_extras=True)
    except Exception:  # a partial function has none, and names may be local to a function
        return dict(getattr(fn, "__annotations__", {}))


def _validated_call(kind: Any, arguments: tuple[Any, ...], hints: dict[str, Any]) -> Any:
    """Rebuild what validates the calls of a function, with validators of this process."""
    if hints:
        arguments[0].__annotations__ = hints
    return kind(*arguments)


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
        added = [m for m in local_modules() if m.__name__ not in before | _importable.get()]
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
            problems += _looked_up(step)
            problems += _nested(step)
            problems += _without_file(step)
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


def _looked_up(step: Any) -> Iterator[Problem]:
    """Global variables that a step, or a function that it uses, looks up as text."""
    for user in functions_of([step.fn]):
        for what, fix in dict(lookups(user)).items():
            yield Problem(
                f"step {step.name!r}",
                f"{'it' if user is step.fn else user.__name__} uses {what}, which is not there in "
                "a replica: only what code names is sent",
                fix=fix,
                node=step.name,
            )


def _nested(step: Any) -> Iterator[Problem]:
    """Steps and pipelines that a step, or a function that it uses, calls."""
    for user in functions_of([step.fn]):
        for called in nested_calls(user):
            kind = "step" if isinstance(called, Step) else "pipeline"
            yield Problem(
                f"step {step.name!r}",
                f"{'it' if user is step.fn else user.__name__} calls the {kind} {called.name!r}, "
                "which is possible in a pipeline only",
                fix=f"call {called.name}.fn(...) for the plain function, or make both steps of the "
                "pipeline"
                if kind == "step"
                else "call it in another pipeline instead, which inlines its steps",
                node=step.name,
            )


def _without_file(step: Any) -> Iterator[Problem]:
    """Modules that a step imports when it runs, and that are neither installed nor a file."""
    for user in functions_of([step.fn]):
        for name in sorted(late_imports(user.__code__)):
            module = sys.modules.get(name)
            if isinstance(module, types.ModuleType) and has_no_file(module):
                yield Problem(
                    f"step {step.name!r}",
                    f"{'it' if user is step.fn else user.__name__} imports {name!r} when it runs, "
                    "a module that has no file",
                    fix="import it outside of the function, from where it is sent along, or write "
                    f"it to {name}.py",
                    node=step.name,
                )


@dataclasses.dataclass(frozen=True)
class Unpicklable:
    """A variable that cannot be pickled.

    Attributes:
        user: name of the function that uses it.
        name: name of the variable.
        value: its value.
        reason: why it cannot be pickled.
    """

    user: str
    name: str
    value: Any
    reason: str

    def fix(self, default: str) -> str:
        """Return what to do about it.

        Args:
            default: for values that a process can create for itself, such as locks.
        """
        if isinstance(self.value, ContextVar):
            return (
                "define it in a module beside the notebook, and import it in the function that "
                f"uses it: def {self.user}(...): from context import {self.name}"
            )
        if _is_proxy(self.value):
            return "write its decorator with functools.wraps"
        if isinstance(self.value, types.GeneratorType):
            return f"make a list of it: {self.name} = list({self.name})"
        return default


def unpicklable(fn: Any, pickler: type[Pickler] | None = None) -> Unpicklable | None:
    """Return the variable of a function, or of one that it uses, that cannot be pickled.

    Args:
        fn: the function; anything else has no variables.
        pickler: `Pickler` by default.
    """
    passed_on = None
    for user in functions_of([fn]):
        for name, value in captured(user).items():
            try:
                dumps(value, pickler)
            except Exception as error:
                variable = Unpicklable(user.__name__, name, value, str(error))
                if not isinstance(value, (types.FunctionType, types.ModuleType, type)):
                    return variable
                passed_on = variable  # by a variable of its own, or by its wrapper
    return passed_on


def _pickling(where: str, value: Any, *, heavy: bool, node: str | None = None) -> Iterator[Problem]:
    kind = _WithoutResources if inspect.isfunction(value) else None
    try:
        size = len(_pickled(value, kind))
    except Exception as error:
        reason, fix = str(error), "build what cannot be pickled in a loader: resource(load)"
        if (variable := unpicklable(getattr(value, "load", value), kind)) is not None:
            direct = variable.user == getattr(value, "__name__", None)
            reason = (
                f"{'it' if direct else variable.user} uses {variable.name!r}: {variable.reason}"
            )
            keyword = variable.name.rpartition(".")[2]
            fix = variable.fix(f"build it in a loader: (..., *, {keyword}=resource(load))")
        yield Problem(
            where, f"it cannot be pickled for another process: {reason}", fix=fix, node=node
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
