"""Code of the user's own: whether it has to travel, and what it uses."""

from __future__ import annotations

import inspect
import sys
import sysconfig
import types
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["captured", "is_local", "local_modules", "travels"]

_STANDARD = tuple(Path(sysconfig.get_paths()[key]).resolve() for key in ("stdlib", "platstdlib"))
_OWN = Path(__file__).resolve().parents[1]


def local_modules() -> list[types.ModuleType]:
    """Imported modules that another machine would not have: those of no installed package."""
    loaded: list[object] = list(sys.modules.values())  # whatever somebody put there
    return [m for m in loaded if isinstance(m, types.ModuleType) and is_local(m)]


def is_local(module: types.ModuleType) -> bool:
    """Whether a module is a file of the user's rather than of an installed package."""
    if module.__name__ in ("__main__", "__mp_main__"):
        return False  # cloudpickle takes these by value anyway
    file = module.__dict__.get("__file__")
    if not isinstance(file, str) or module.__dict__.get("__spec__") is None:
        return False
    return _is_local_file(file)


@cache
def _is_local_file(file: str) -> bool:
    path = Path(file).resolve()
    if path.suffix != ".py" or {"site-packages", "dist-packages"} & set(path.parts):
        return False
    if any(path.is_relative_to(folder) for folder in (*_STANDARD, _OWN)):
        return False
    return not any(_holds_packages(folder) for folder in path.parents)


@cache
def _holds_packages(folder: Path) -> bool:
    """Whether pip installed into it under another name: ``pip install --target``."""
    return any(folder.glob("*.dist-info/RECORD"))


def travels(value: Any) -> bool:
    """Whether code is shipped by value, because the other side would not have its module."""
    module = sys.modules.get(value.__module__)
    return value.__module__ == "__main__" or module is None or is_local(module)


def captured(fn: types.FunctionType) -> dict[str, Any]:
    """What a function uses from outside of it, by name: closure cells, then globals.

    Of a local module it is what the function names of it: ``helpers.resize``.
    """
    found = dict(_cells(fn))
    if not travels(fn):
        return found  # what an installed module's function uses is installed with it
    names = sorted(_names(fn.__code__))
    for name in names:
        if name in fn.__globals__:
            found[name] = fn.__globals__[name]
    for name, value in list(found.items()):
        if isinstance(value, types.ModuleType):
            found.update(_members(name, value, names, set()))
    return found


def _cells(fn: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # an empty cell
            continue


def _names(code: types.CodeType) -> set[str]:
    """Names of globals and attributes that code uses, functions inside of it included."""
    inner = (_names(c) for c in code.co_consts if inspect.iscode(c))
    return set(code.co_names).union(*inner)


def _members(
    prefix: str, module: types.ModuleType, names: list[str], seen: set[str]
) -> Iterator[tuple[str, Any]]:
    if module.__name__ in seen or not is_local(module):
        return
    for name in names:
        if name in vars(module):
            member = vars(module)[name]
            yield f"{prefix}.{name}", member
            if isinstance(member, types.ModuleType):
                yield from _members(f"{prefix}.{name}", member, names, seen | {module.__name__})
