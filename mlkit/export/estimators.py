"""State of scikit-learn's estimators, without pickle: a tree in JSON, and its arrays, in an npz.

Reading one calls no code but that of scikit-learn's own classes, numpy and scipy's sparse matrices:
an object is made without ``__init__``, and gets its state as after unpickling. An estimator that
refers to anything else, such as a function of the user's or an object of another library, has no
such state.
"""

from __future__ import annotations

import importlib
import io
import json
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

from mlkit.errors import MlkitError

__all__ = ["NoState", "dumps", "is_estimator", "loads"]

_PACKAGES = ("numpy", "scipy", "sklearn")
_MADE = ("scipy.sparse", "sklearn.")
"""Modules of the classes of which objects are made."""

_TREE = "__tree__"
_SCALARS = (bool, int, float, str, type(None))
_CONTAINERS: Mapping[str, Callable[[Any], Any]] = {
    "frozenset": frozenset,
    "set": set,
    "tuple": tuple,
}


class NoState(MlkitError):
    """An estimator refers to an object that has no state but a pickle."""


def is_estimator(value: Any) -> bool:
    """Whether it is an estimator of scikit-learn, or of a library that follows it."""
    base = sys.modules.get("sklearn.base")
    return base is not None and isinstance(value, base.BaseEstimator)


def dumps(estimator: Any) -> bytes:
    """Return the state of an estimator.

    Raises:
        NoState: a part of it has none.
    """
    import numpy as np

    writer = _Writer()
    tree = writer.tree(estimator, type(estimator).__name__)
    buffer = io.BytesIO()
    text = np.frombuffer(json.dumps(tree).encode(), np.uint8)
    arrays: dict[str, Any] = {str(number): part for number, part in enumerate(writer.arrays)}
    np.savez_compressed(buffer, allow_pickle=False, **{_TREE: text}, **arrays)
    return buffer.getvalue()


def loads(data: bytes) -> Any:
    """Return the estimator of a state.

    Raises:
        MlkitError: the data are malformed, or name something that is not scikit-learn's.
    """
    import numpy as np

    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        tree = json.loads(arrays[_TREE].tobytes())
        return _Reader(dict(arrays)).value(tree)


class _Writer:
    def __init__(self) -> None:
        self.arrays: list[Any] = []

    def tree(self, value: Any, path: str) -> Any:
        """Return what JSON can hold; ``path`` says in errors where a value is."""
        import numpy as np

        kind = type(value)
        if kind in _SCALARS:
            return value
        if kind is list:
            return [self.tree(item, f"{path}[{i}]") for i, item in enumerate(value)]
        if kind in (tuple, set, frozenset):
            return {"~": kind.__name__, "v": self.tree(list(value), path)}
        if kind is dict:
            return {"~": "dict", "v": self._pairs(value, path)}
        if isinstance(value, np.ndarray | np.generic):
            return self._array(value, path)
        return self._other(value, path)

    def _other(self, value: Any, path: str) -> Any:
        import numpy as np

        kind = type(value)
        if kind.__name__ == "RandomState" and kind.__module__.startswith("numpy.random"):
            return {"~": "random", "v": self.tree(value.get_state(legacy=False), path)}
        if kind is np.random.Generator:
            return {"~": "generator", "v": self.tree(value.bit_generator.state, path)}
        if isinstance(value, np.dtype):
            return {"~": "dtype", "v": value.str}
        if isinstance(value, slice):
            return {"~": "slice", "v": [value.start, value.stop, value.step]}
        if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType, np.ufunc)):
            return {"~": "name", "v": self._name(value, path)}
        return self._object(value, path)

    def _pairs(self, value: Mapping[Any, Any], path: str) -> list[Any]:
        return [[self.tree(k, path), self.tree(v, f"{path}.{k}")] for k, v in value.items()]

    def _array(self, value: Any, path: str) -> Any:
        import numpy as np

        if value.dtype.hasobject:
            items = self.tree(value.ravel().tolist(), path)
            return {"~": "objects", "v": items, "shape": list(value.shape)}
        if type(value) not in (np.ndarray, value.dtype.type):
            raise NoState(f"{path} is a {type(value).__name__}")
        self.arrays.append(value)
        name = "array" if isinstance(value, np.ndarray) else "scalar"
        return {"~": name, "v": len(self.arrays) - 1}

    def _name(self, value: Any, path: str) -> str:
        module = getattr(value, "__module__", None) or "numpy"  # ufuncs have none
        name = f"{module}:{getattr(value, '__qualname__', value.__name__)}"
        if module == "builtins" and isinstance(value, type) and value in (*_SCALARS, object):
            return name
        try:
            named = _named(name)
        except MlkitError:
            named = None
        if named is not value:
            raise NoState(f"{path} is {name.replace(':', '.')}, which is not scikit-learn's")
        return name

    def _object(self, value: Any, path: str) -> Any:
        kind = type(value)
        name = self._name(kind, path)
        if not kind.__module__.startswith(_MADE):
            raise NoState(f"{path} is a {kind.__name__}, which is not scikit-learn's")
        if kind.__module__.startswith("scipy.sparse"):
            parts = {k: v for k, v in vars(value).items() if k in _OF_SPARSE}
            return {"~": "state", "c": name, "v": self.tree(parts, path)}
        reduces = any("__reduce__" in vars(base) for base in kind.__mro__[:-1])
        if reduces and not hasattr(value, "__dict__"):
            factory, arguments, *state = value.__reduce__()  # an extension type
            return {
                "~": "made",
                "c": self._name(factory, path),
                "v": self.tree(list(arguments), path),
                "state": self.tree(state[0] if state else None, path),
            }
        if isinstance(value, dict):
            return {"~": "items", "c": name, "v": self._pairs(value, path)}
        state = value.__getstate__() or {}  # None without attributes
        if not isinstance(state, dict):
            raise NoState(f"{path} is a {kind.__name__}, which has no state of its own")
        return {"~": "state", "c": name, "v": self.tree(state, path)}


_BIT_GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")

_OF_SPARSE = {"_shape", "data", "indices", "indptr", "maxprint", "offsets", "row", "col", "coords"}


class _Reader:
    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self._arrays = arrays

    def value(self, tree: Any) -> Any:
        if type(tree) is list:
            return [self.value(item) for item in tree]
        if type(tree) is not dict:
            return tree
        kind, content = tree["~"], tree["v"]
        if kind in _CONTAINERS:
            return _CONTAINERS[kind](self.value(content))
        if kind in ("dict", "items"):
            restored = {} if kind == "dict" else _dict_of(_class(tree["c"]))
            dict.update(restored, [(self.value(key), self.value(item)) for key, item in content])
            return restored
        if kind == "array":
            return self._arrays[str(content)]
        if kind == "scalar":
            return self._arrays[str(content)][()]
        return self._other(kind, content, tree)

    def _other(self, kind: str, content: Any, tree: Mapping[str, Any]) -> Any:
        import numpy as np

        if kind == "objects":
            array = np.empty(tree["shape"], object)
            array.ravel()[:] = self.value(content)
            return array
        if kind == "random":
            random = np.random.RandomState()
            random.set_state(self.value(content))
            return random
        if kind == "generator":
            state = self.value(content)
            if state["bit_generator"] not in _BIT_GENERATORS:
                raise MlkitError(f"not the state of an estimator: {state['bit_generator']!r}")
            bits = getattr(np.random, state["bit_generator"])()
            bits.state = state
            return np.random.Generator(bits)
        if kind == "dtype":
            return np.dtype(content)
        if kind == "slice":
            return slice(*content)
        if kind == "name":
            return _named(content)
        if kind == "made":
            restored = _class(tree["c"])(*self.value(content))
            return _with_state(restored, self.value(tree["state"]))
        if kind == "state":
            cls = _class(tree["c"])
            return _with_state(cls.__new__(cls), self.value(content))
        raise MlkitError(f"not the state of an estimator: unknown kind {kind!r}")


def _with_state(restored: Any, state: Any) -> Any:
    if hasattr(restored, "__setstate__"):
        if state is not None:
            restored.__setstate__(state)
    elif state:
        restored.__dict__.update(state)
    return restored


def _dict_of(cls: Any) -> Any:
    if not issubclass(cls, dict):
        raise MlkitError(f"not the state of an estimator: {cls.__name__} is no dict")
    return cls.__new__(cls)


def _class(name: str) -> Any:
    cls = _named(name)
    if not isinstance(cls, type) or not cls.__module__.startswith(_MADE):
        raise MlkitError(f"not the state of an estimator: {name} is no class of scikit-learn")
    return cls


def _named(name: str) -> Any:
    """Return a class or a function of scikit-learn, numpy or scipy, or one of Python's scalars."""
    module, _, path = name.partition(":")
    if module == "builtins":
        scalars = {kind.__name__: kind for kind in (*_SCALARS, object)}
        if path not in scalars:
            raise MlkitError(f"not the state of an estimator: {name}")
        return scalars[path]
    if module.partition(".")[0] not in _PACKAGES:
        raise MlkitError(f"not the state of an estimator: {name} is not scikit-learn's")
    try:
        named: Any = importlib.import_module(module)
        for part in path.split("."):
            named = getattr(named, part)
    except (AttributeError, ImportError) as error:
        raise MlkitError(f"not the state of an estimator: {error}") from error
    home = getattr(named, "__module__", None) or "numpy"  # ufuncs have none
    if isinstance(named, types.ModuleType) or home.partition(".")[0] not in _PACKAGES:
        raise MlkitError(f"not the state of an estimator: {name} is not scikit-learn's")
    return named
