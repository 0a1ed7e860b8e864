"""Local modules that code imports when it runs, shipped as source.

What a cell imports at its top is a global of its functions, and pickled with them. A module that a
function imports itself is looked up by name when it runs: its source is sent along, and installed
in the replica before any file of that name. So a replica that is started later, or on another
machine, has the same version.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlkit.define.code import captured, is_local_file, late_imports, travels

__all__ = ["ModuleSource", "functions_of", "install", "late_modules", "modules_of"]


@dataclass(frozen=True)
class ModuleSource:
    """A module as text.

    Attributes:
        file: path of the file where it was packed, for tracebacks.
        text: the source.
        package: whether it is a package.
    """

    file: str
    text: str
    package: bool

    @property
    def digest(self) -> str:
        """Digest of the source."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


def functions_of(values: Iterable[Any]) -> Iterator[types.FunctionType]:
    """The functions that are pickled by value, and those they use, each once."""
    pending, seen = list(values), set()
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, type) and travels(value):
            pending += [getattr(member, "__func__", member) for member in vars(value).values()]
        value = inspect.unwrap(value) if callable(value) else value
        if isinstance(value, types.FunctionType) and travels(value):
            yield value
            pending += captured(value).values()


def modules_of(values: Iterable[Any]) -> dict[str, ModuleSource]:
    """Local modules that functions import when they run, and those that these import, by name.

    Args:
        values: functions; those that they use count as well.
    """
    modules: dict[str, ModuleSource] = {}
    for fn in functions_of(values):
        modules |= late_modules(fn)
    return dict(sorted(modules.items()))


def late_modules(fn: types.FunctionType) -> dict[str, ModuleSource]:
    """Local modules that one function imports when it runs, and those that these import."""
    modules: dict[str, ModuleSource] = {}
    pending = sorted(late_imports(fn.__code__, fn.__globals__.get("__package__") or ""))
    while pending:
        for part in _with_parents(pending.pop()):
            if part in modules:
                continue
            source = _source(part)
            if source is None:
                break
            modules[part] = source
            pending += sorted(_imported(source.text, part, package=source.package))
    return modules


def _with_parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _source(name: str) -> ModuleSource | None:
    """A local module; None for any other, and for a name that is no module."""
    try:
        spec = _spec(name)
        if spec is None or spec.origin is None or not is_local_file(spec.origin):
            return None
        text = Path(spec.origin).read_text(encoding="utf-8")
    except (OSError, ValueError, ImportError):
        return None
    return ModuleSource(spec.origin, text, spec.submodule_search_locations is not None)


def _spec(name: str) -> Any:
    """Find a module without importing it or its parents."""
    path: Any = None
    spec: Any = None
    for part in _with_parents(name):
        spec = importlib.machinery.PathFinder.find_spec(part, path)
        if spec is None:
            return None
        path = spec.submodule_search_locations
        if path is None and part != name:
            return None
    return spec


def _imported(text: str, name: str, *, package: bool) -> set[str]:
    """Names that the source of a module imports."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return set()
    parents = name.split(".") if package else name.split(".")[:-1]
    modules: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = parents[: len(parents) - node.level + 1] if node.level else []
            base = ".".join(filter(None, [*above, node.module or ""]))
            modules.add(base)
            modules.update(f"{base}.{alias.name}" for alias in node.names if alias.name != "*")
    return modules - {""}


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports modules from their shipped sources."""

    def __init__(self, modules: Mapping[str, ModuleSource]) -> None:
        self._modules = dict(modules)

    def add(self, modules: Mapping[str, ModuleSource]) -> None:
        """Add modules, such as those of another pipeline."""
        self._modules |= modules

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        source = self._modules.get(fullname)
        if source is None:
            return None
        spec = importlib.util.spec_from_loader(
            fullname, self, origin=source.file, is_package=source.package
        )
        assert spec is not None
        spec.has_location = True
        return spec

    def get_source(self, fullname: str) -> str:
        return self._modules[fullname].text

    def get_code(self, fullname: str) -> types.CodeType:
        source = self._modules[fullname]
        return compile(source.text, source.file, "exec", dont_inherit=True)

    def is_package(self, fullname: str) -> bool:
        return self._modules[fullname].package


def install(modules: Mapping[str, ModuleSource]) -> None:
    """Have this process import modules from their shipped sources.

    A module that is loaded already stays as it is: other sources need another process.
    """
    finders = [finder for finder in sys.meta_path if isinstance(finder, _Finder)]
    if finders:
        finders[0].add(modules)
    elif modules:
        sys.meta_path.insert(0, _Finder(modules))
