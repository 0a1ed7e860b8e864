"""User code: whether it is shipped by value, and what it captures."""

from __future__ import annotations

import builtins
import dis
import inspect
import sys
import sysconfig
import types
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

__all__ = [
    "captured",
    "is_local",
    "is_local_file",
    "late_imports",
    "local_modules",
    "travels",
    "undefined_names",
]

_STANDARD = tuple(Path(sysconfig.get_paths()[key]).resolve() for key in ("stdlib", "platstdlib"))
_OWN = Path(__file__).resolve().parents[1]


def local_modules() -> list[types.ModuleType]:
    """Imported modules that belong to no installed package: another machine would not have them."""
    loaded: list[object] = list(sys.modules.values())  # it may hold anything
    return [m for m in loaded if isinstance(m, types.ModuleType) and is_local(m)]


def is_local(module: types.ModuleType) -> bool:
    """Whether a module is a user's file rather than part of an installed package."""
    if module.__name__ in ("__main__", "__mp_main__"):
        return False  # cloudpickle takes these by value anyway
    file = module.__dict__.get("__file__")
    if not isinstance(file, str) or module.__dict__.get("__spec__") is None:
        return False
    return is_local_file(file)


@cache
def is_local_file(file: str) -> bool:
    """Whether a file is a user's module rather than part of an installed package."""
    path = Path(file).resolve()
    if path.suffix != ".py" or {"site-packages", "dist-packages"} & set(path.parts):
        return False
    if any(path.is_relative_to(folder) for folder in (*_STANDARD, _OWN)):
        return False
    return not any(_holds_packages(folder) for folder in path.parents)


@cache
def _holds_packages(folder: Path) -> bool:
    """Whether pip installed packages there with ``--target``."""
    return any(folder.glob("*.dist-info/RECORD"))


def travels(value: Any) -> bool:
    """Whether code is shipped by value, because its module is not installed elsewhere."""
    module = sys.modules.get(value.__module__)
    return value.__module__ == "__main__" or module is None or is_local(module)


def captured(fn: types.FunctionType) -> dict[str, Any]:
    """The variables that a function captures, by name: closure cells, then globals.

    Of a local module, the attributes that the function names: ``helpers.resize``.
    """
    variables = dict(_cells(fn))
    if not travels(fn):
        return variables  # globals of an installed module are installed with it
    names = sorted(_names(fn.__code__))
    for name in names:
        if name in fn.__globals__:
            variables[name] = fn.__globals__[name]
    for name, value in list(variables.items()):
        if isinstance(value, types.ModuleType):
            variables.update(_members(name, value, names, set()))
    return variables


def late_imports(code: types.CodeType, package: str = "") -> set[str]:
    """Names of the modules that code imports when it runs, nested functions included.

    Args:
        code: code of a function.
        package: package of the module that it belongs to, for relative imports.
    """
    modules: set[str] = set()
    recent: list[Any] = []  # constants before an import: its level, and the imported names
    for instruction in dis.get_instructions(code):
        if instruction.opname == "IMPORT_NAME":
            level, names = recent[-2:]
            base = instruction.argval
            if level:
                parents = package.split(".")[: len(package.split(".")) - level + 1]
                base = ".".join(filter(None, [*parents, base]))
            modules.add(base)
            modules.update(f"{base}.{name}" for name in names or () if name != "*")
        elif instruction.opname in ("LOAD_CONST", "LOAD_SMALL_INT"):
            recent.append(instruction.argval)
    for constant in code.co_consts:
        if inspect.iscode(constant):
            modules |= late_imports(constant, package)
    return modules


def undefined_names(fn: types.FunctionType) -> list[str]:
    """Global names that a function loads, and that neither its module nor Python defines."""
    defined = fn.__globals__.keys() | vars(builtins).keys() | {"__class__"}
    return sorted(_loaded(fn.__code__) - defined)


def _loaded(code: types.CodeType) -> set[str]:
    names: set[str] = set()
    assigned: set[str] = set()
    for instruction in dis.get_instructions(code):
        if instruction.opname == "LOAD_GLOBAL":
            names.add(instruction.argval)
        elif instruction.opname == "STORE_GLOBAL":
            assigned.add(instruction.argval)
    for constant in code.co_consts:
        if inspect.iscode(constant):
            names |= _loaded(constant)
    return names - assigned


def _cells(fn: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # an empty cell
            continue


def _names(code: types.CodeType) -> set[str]:
    """Names of globals and attributes that code uses, nested functions included."""
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
