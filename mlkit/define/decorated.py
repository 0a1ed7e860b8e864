"""How objects that decorators make of functions are pickled."""

from __future__ import annotations

import functools
import pickle
import threading
import types
import typing
from collections.abc import Callable
from typing import Any

from mlkit.define.code import is_validated_call, travels

__all__ = ["is_proxy", "reduced"]


def reduced(obj: Any) -> Any:
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
    if is_proxy(obj) and travels(obj):  # else the function in it would be pickled
        proxy = type(obj)
        raise pickle.PicklingError(
            f"{obj.__qualname__} is wrapped in a {proxy.__module__}.{proxy.__qualname__}"
        )
    if type(obj) is functools.singledispatchmethod:
        return _single_dispatch_method, (obj.func, obj.dispatcher)
    if isinstance(obj, types.FunctionType) and obj.__code__ is _DISPATCHING:
        registry = dict(obj.registry)  # type: ignore[attr-defined]
        return _single_dispatch, (registry.pop(object), registry)
    return None


def is_proxy(obj: Any) -> bool:
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


def _single_dispatch_method(fn: Callable[..., Any], dispatcher: Any) -> Any:
    """Rebuild a method with `singledispatchmethod`; from Python 3.13 on it has a weak cache."""
    rebuilt = functools.singledispatchmethod(fn)
    rebuilt.dispatcher = dispatcher
    return rebuilt


_DISPATCHING = functools.singledispatch(lambda value: None).__code__  # type: ignore[attr-defined]


def _single_dispatch(fn: Callable[..., Any], registry: dict[type, Callable[..., Any]]) -> Any:
    """Rebuild a function with `functools.singledispatch`, whose cache has weak references."""
    rebuilt = functools.singledispatch(fn)
    for type_, implementation in registry.items():
        rebuilt.register(type_, implementation)
    return rebuilt
