"""Local modules that code imports when it runs, shipped as source.

What a cell imports at its top is a global of its functions, and pickled with them. A module that a
function imports itself is looked up by name when it runs: its source is sent along, and installed
in the replica before any file of that name. So a replica that is started later, or on another
machine, has the same version. What else refers to such a module then does so by name as well, so
that its classes exist once.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlkit.define.code import captured, is_local, is_local_file, late_imports, travels

__all__ = [
    "Installed",
    "ModuleSource",
    "functions_of",
    "imported_names",
    "install",
    "late_modules",
    "local_sources",
    "modules_of",
    "outdated",
]


@dataclass(frozen=True)
class ModuleSource:
    """A module as text.

    Attributes:
        file: path of the file where it was packed, for tracebacks.
        text: the source.
        package: whether it is a package.
        changed: variables of plain data, and attributes of classes (``Config.scale``), that have
            other values here than in the source, such as those that a cell has set, by itself or by
            a call.
    """

    file: str
    text: str
    package: bool
    changed: tuple[tuple[str, Any], ...] = ()

    @property
    def digest(self) -> str:
        """Digest of the source and the changed variables."""
        return hashlib.sha256(f"{self.text}{self.changed}".encode()).hexdigest()[:16]


def functions_of(values: Iterable[Any]) -> Iterator[types.FunctionType]:
    """The functions that are pickled by value, and those they use, each once."""
    pending, seen = list(values), set()
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, type) and travels(value):
            pending += [_function(member) for member in vars(value).values()]
        if callable(value) and hasattr(value, "__wrapped__"):
            pending.append(value.__wrapped__)
        if isinstance(value, types.FunctionType) and _is_written_here(value):
            yield value
            pending += captured(value).values()


def _is_written_here(fn: types.FunctionType) -> bool:
    """Whether a function travels with its code; the code of a wrapper may be a library's."""
    home = sys.modules.get(fn.__globals__.get("__name__", ""))
    return travels(fn) and (home is None or home.__name__ == "__main__" or is_local(home))


def _function(member: Any) -> Any:
    """The function that a member of a class is made of."""
    if isinstance(member, (classmethod, staticmethod)):
        return member.__func__
    if isinstance(member, property):
        return member.fget
    return member.func if isinstance(member, functools.cached_property) else member


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
    return local_sources(late_imports(fn.__code__, fn.__globals__.get("__package__") or ""))


def local_sources(names: Iterable[str]) -> dict[str, ModuleSource]:
    """The local modules among some names, and the local modules that these import, by name.

    A name may also be that of a member of a module, and of an installed one.
    """
    modules: dict[str, ModuleSource] = {}
    pending = sorted(names)
    while pending:
        for part in _with_parents(pending.pop()):
            if part in modules:
                continue
            source = _source(part)
            if source is None:
                break
            modules[part] = source
            pending += sorted(imported_names(source, part))
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
    package, module = spec.submodule_search_locations is not None, sys.modules.get(name)
    changed = () if module is None else tuple(sorted(_changed(text, vars(module))))
    return ModuleSource(spec.origin, text, package, changed)


def _changed(text: str, members: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Variables that have other values in the loaded module than its source gives them.

    Those that are literals at its top or that of a class, and those that its functions assign, as
    far as their values are plain data.
    """
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return
    declared = (node.names for node in ast.walk(tree) if isinstance(node, ast.Global))
    before: dict[str, Any] = dict.fromkeys((n for names in declared for n in names), _UNKNOWN)
    before |= _literals(tree.body)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and isinstance(members.get(node.name), type):
            before |= {f"{node.name}.{name}": v for name, v in _literals(node.body).items()}
    for name, literal in before.items():
        owner, _, key = name.rpartition(".")
        member = (vars(members[owner]) if owner else members).get(key, literal)
        if _is_plain(member) and (type(member), repr(member)) != (type(literal), repr(literal)):
            yield name, member


def _literals(body: Iterable[ast.stmt]) -> dict[str, Any]:
    """The literals that statements assign, by name."""
    found: dict[str, Any] = {}
    for node in body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=ast.expr() as value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ):
                with suppress(ValueError, TypeError, SyntaxError):
                    found[name] = ast.literal_eval(value)
    return found


_UNKNOWN = object()


def outdated(name: str, source: ModuleSource) -> str | None:
    """Return the first function of a loaded module that is not that of its source; None if all are.

    Such as after its file was edited, or a cell has replaced the function.
    """
    members = vars(sys.modules[name]) if name in sys.modules else {}
    written = _written(source.text, source.file)
    for key, member in members.items():
        home = getattr(member, "__module__", None)
        if home == "__main__" and key in written:
            return key
        inner = vars(member).values() if isinstance(member, type) else ()
        for value in (member, *map(_function, inner)) if home == name else ():
            fn = inspect.unwrap(value) if callable(value) else value
            if isinstance(fn, types.FunctionType) and fn.__code__.co_filename == source.file:
                qualname = fn.__code__.co_qualname
                # What the file no longer has may be left from before a reload.
                if qualname in written and _content(fn.__code__) not in written[qualname]:
                    return qualname
    return None


@functools.lru_cache(maxsize=256)
def _written(text: str, file: str) -> dict[str, set[Any]]:
    """The code of a source's functions and methods, by qualified name."""
    found: dict[str, set[Any]] = {}
    try:
        pending = [compile(text, file, "exec", dont_inherit=True)]
    except SyntaxError:
        return found
    while pending:
        for constant in pending.pop().co_consts:
            if inspect.iscode(constant):
                found.setdefault(constant.co_qualname, set()).add(_content(constant))
                pending.append(constant)
    return found


def _content(code: types.CodeType) -> Any:
    """What code does, wherever it stands in its file."""
    return (
        code.co_code,
        code.co_names,
        code.co_varnames,
        code.co_freevars,
        code.co_flags,
        tuple(_content(c) if inspect.iscode(c) else repr(c) for c in code.co_consts),
    )


def _is_plain(value: Any) -> bool:
    if type(value) is dict:
        return all(_is_plain(part) for item in value.items() for part in item)
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    return type(value) in (bool, bytes, complex, float, int, str, type(None))


def _spec(name: str) -> Any:
    """Find a module without importing it or its parents."""
    loaded = getattr(sys.modules.get(name), "__spec__", None)
    if loaded is not None and loaded.origin is not None and is_local_file(loaded.origin):
        return loaded  # wherever it was loaded from, such as by `spec_from_file_location`
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


def imported_names(source: ModuleSource, name: str) -> set[str]:
    """Names of modules that the source of a module imports."""
    try:
        tree = ast.parse(source.text)
    except SyntaxError:
        return set()
    parents = name.split(".") if source.package else name.split(".")[:-1]
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


class _Loader(importlib.machinery.SourceFileLoader):
    """Executes a module's shipped source; data files are read where it was packed."""

    def __init__(self, name: str, module: ModuleSource) -> None:
        super().__init__(name, module.file)
        self._module = module

    def get_source(self, fullname: str) -> str:
        return self._module.text

    def get_code(self, fullname: str) -> types.CodeType:
        return compile(self._module.text, self._module.file, "exec", dont_inherit=True)

    def exec_module(self, module: types.ModuleType) -> None:
        super().exec_module(module)
        for name, value in self._module.changed:
            owner, _, key = name.rpartition(".")
            setattr(vars(module)[owner] if owner else module, key, value)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds modules that were shipped as source."""

    def __init__(self, modules: Mapping[str, ModuleSource]) -> None:
        self._modules = dict(modules)

    def add(self, modules: Mapping[str, ModuleSource]) -> None:
        """Add modules, such as those of another pipeline.

        Raises:
            ImportError: one was imported already, from another source.
        """
        for name, source in modules.items():
            before = self._modules.get(name, source)
            spec = getattr(sys.modules.get(name), "__spec__", None)
            imported = isinstance(getattr(spec, "loader", None), _Loader)
            if before.digest != source.digest and imported:
                raise ImportError(
                    f"module {name!r} has changed since this process imported it: deploy again, "
                    "which starts new processes",
                    name=name,
                )
        self._modules |= modules

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        source = self._modules.get(fullname)
        if source is None:
            return None
        loader = _Loader(fullname, source)
        return importlib.util.spec_from_file_location(
            fullname,
            source.file,
            loader=loader,
            submodule_search_locations=[str(Path(source.file).parent)] if source.package else None,
        )


class Installed:
    """Installs modules in the process that unpickles it; see `install`.

    What is pickled after it may refer to these modules by name.
    """

    def __init__(self, modules: Mapping[str, ModuleSource]) -> None:
        self._modules = dict(modules)

    def __reduce__(self) -> tuple[Any, ...]:
        return install, (self._modules,)


def install(modules: Mapping[str, ModuleSource]) -> None:
    """Have this process import modules from their shipped sources.

    Raises:
        ImportError: one of them was installed and imported already, from another source: that
            needs another process.
    """
    finders = [finder for finder in sys.meta_path if isinstance(finder, _Finder)]
    if finders:
        finders[0].add(modules)
    elif modules:
        sys.meta_path.insert(0, _Finder(modules))
