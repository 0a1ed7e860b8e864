"""Functions and values that travel to other processes, and whether they are still the same.

Ship the function, never the decorated object: what goes is the graph with the raw functions in it.
Code of cells and of modules that are not installed (files beside the notebook) travels by value.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
import sysconfig
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlkit.define.graph import Graph, Problem

if TYPE_CHECKING:
    from mlkit.define.resource import Resource
    from mlkit.define.step import Step

__all__ = ["LARGE_BYTES", "dumps", "fingerprint", "local_modules", "problems", "travels"]

LARGE_BYTES = 16 * 2**20
"""What a step may carry along with its function; more belongs into a resource."""


def dumps(value: Any) -> bytes:
    """Pickle a value for another process, functions of cells and local modules by value."""
    import cloudpickle

    with _by_value(local_modules()):
        return bytes(cloudpickle.dumps(value))


@contextmanager
def _by_value(modules: list[types.ModuleType]) -> Iterator[None]:
    import cloudpickle

    before = set(cloudpickle.list_registry_pickle_by_value())
    added = [m for m in modules if m.__name__ not in before]
    for module in added:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in added:
            cloudpickle.unregister_pickle_by_value(module)


def local_modules() -> list[types.ModuleType]:
    """Imported modules that another machine would not have: those of no installed package."""
    loaded: list[object] = list(sys.modules.values())  # whatever somebody put there
    return [m for m in loaded if isinstance(m, types.ModuleType) and is_local(m)]


_INSTALLED = tuple(
    str(Path(p).resolve())
    for p in {sysconfig.get_paths()[k] for k in ("stdlib", "platstdlib", "purelib", "platlib")}
)
_OWN = str(Path(__file__).resolve().parents[1])


def is_local(module: types.ModuleType) -> bool:
    """Whether a module is a file of the user's rather than of an installed package."""
    if module.__name__ in ("__main__", "__mp_main__"):
        return False  # cloudpickle takes these by value anyway
    file = getattr(module, "__file__", None)
    if not file or getattr(module, "__spec__", None) is None:
        return False
    path = str(Path(file).resolve())
    return path.endswith(".py") and not path.startswith((*_INSTALLED, _OWN))


def problems(graph: Graph) -> Iterator[Problem]:
    """Steps and resources that cannot be pickled, or that carry too much."""
    for step in {id(node.step): node.step for node in graph}.values():
        yield from _pickling(f"step {step.name!r}", step.fn, heavy=True, node=step.name)
    for resource in graph.resources.values():
        yield from _pickling(
            f"resource {resource.name!r}", resource, heavy=resource.load is not None
        )


def _pickling(where: str, value: Any, *, heavy: bool, node: str | None = None) -> Iterator[Problem]:
    try:
        size = len(dumps(value))
    except Exception as error:
        yield Problem(
            where,
            f"it cannot be sent to another process: {error}",
            fix="build what cannot be pickled inside a loader: resource(load)",
            node=node,
        )
        return
    if heavy and size > LARGE_BYTES:
        yield Problem(
            where,
            f"it carries {size / 2**20:.0f} MiB along, {_heaviest(value)}",
            expected=f"at most {LARGE_BYTES / 2**20:.0f} MiB with a function",
            fix="pass it as a keyword: (..., *, model=resource(value=model)), which ships it once",
            node=node,
        )


def _heaviest(fn: Any) -> str:
    captured = _captured(fn) if inspect.isfunction(fn) else {}
    sizes = {name: len(dumps(v)) for name, v in captured.items()}
    name = max(sizes, key=sizes.__getitem__, default=None)
    return f"most of it {name!r}" if name else "most of it in its arguments"


def fingerprint(value: Any) -> str:
    """A digest that changes when a function, or anything it uses, does.

    Functions count by their code, defaults, closures and the globals they name, followed into
    cells and local modules; line numbers, file names and comments do not count. Functions of
    installed packages count by name and code. Everything else counts by its pickle.
    """
    digest = hashlib.sha256()
    for part in _parts(value, set()):
        digest.update(part)
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def _parts(value: Any, seen: set[int]) -> Iterator[bytes]:
    if id(value) in seen:
        yield b"again"
        return
    if inspect.isfunction(value):
        seen.add(id(value))
        yield f"{value.__module__}.{value.__qualname__}".encode()
        yield from _code(value.__code__)
        yield from _parts((value.__defaults__, value.__kwdefaults__), seen)
        if travels(value):
            yield repr(sorted((k, str(v)) for k, v in value.__annotations__.items())).encode()
            for name, captured in _captured(value).items():
                yield name.encode()
                yield from _parts(captured, seen)
    elif isinstance(value, type):
        yield from _class_parts(value, seen)
    elif isinstance(value, types.ModuleType):
        yield value.__name__.encode()
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _parts(item, seen)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield repr(key).encode()
            yield from _parts(item, seen)
    else:
        yield from _object_parts(value, seen)


def _object_parts(value: Any, seen: set[int]) -> Iterator[bytes]:
    from mlkit.define.resource import Resource
    from mlkit.define.step import Step

    if isinstance(value, Step):
        yield from _step_parts(value, seen)
    elif isinstance(value, Resource):
        yield from _resource_parts(value, seen)
    else:
        yield _pickled(value)


def _step_parts(step: Step[..., Any], seen: set[int]) -> Iterator[bytes]:
    yield repr((type(step).__name__, getattr(step, "max_batch_size", None))).encode()
    yield from _parts(step.fn, seen)


def _resource_parts(resource: Resource[Any], seen: set[int]) -> Iterator[bytes]:
    yield from _parts(resource.load or resource.value, seen)
    for file in resource.files:
        yield file.encode()
        path = Path(file)
        yield hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"missing"


def _class_parts(cls: type, seen: set[int]) -> Iterator[bytes]:
    seen.add(id(cls))
    yield f"{cls.__module__}.{cls.__qualname__}".encode()
    if travels(cls):
        yield repr(
            sorted((k, str(v)) for k, v in cls.__dict__.get("__annotations__", {}).items())
        ).encode()
        for name, member in sorted(vars(cls).items()):
            fn = getattr(member, "__func__", member)
            if inspect.isfunction(fn):
                yield name.encode()
                yield from _parts(fn, seen)


def travels(value: Any) -> bool:
    """Whether code is shipped by value, because the other side would not have its module."""
    module = sys.modules.get(value.__module__)
    return value.__module__ == "__main__" or module is None or is_local(module)


def _code(code: types.CodeType) -> Iterator[bytes]:
    yield code.co_code
    yield repr((code.co_names, code.co_varnames, code.co_freevars)).encode()
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _code(constant)
        else:
            yield repr(constant).encode()


def _captured(fn: types.FunctionType) -> dict[str, Any]:
    """Closure cells and globals that a function's code names, by name."""
    captured: dict[str, Any] = {}
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            captured[name] = cell.cell_contents
        except ValueError:  # an empty cell
            continue
    for name in sorted(_names(fn.__code__)):
        if name in fn.__globals__:
            captured[name] = fn.__globals__[name]
    return captured


def _names(code: types.CodeType) -> set[str]:
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _names(constant)
    return found


def _pickled(value: Any) -> bytes:
    try:
        data = dumps(value)
    except Exception:
        return f"{type(value).__module__}.{type(value).__qualname__}".encode()
    return hashlib.sha256(data).digest()


def loads(data: bytes) -> Any:
    """The value again; only ever of bytes that this user's own processes made."""
    import pickle

    return pickle.loads(data)
