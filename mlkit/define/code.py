"""User code: whether it is shipped by value, and what it captures."""

from __future__ import annotations

import ast
import builtins
import dis
import inspect
import sys
import sysconfig
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

__all__ = [
    "captured",
    "definition_of",
    "has_no_file",
    "identifiers",
    "is_local",
    "is_local_file",
    "is_validated_call",
    "late_imports",
    "local_modules",
    "local_names",
    "local_subclasses",
    "nodes_of",
    "quoted_types",
    "read_names",
    "travels",
    "undefined_names",
    "unguarded_names",
    "used_names",
]

_STANDARD = tuple(Path(sysconfig.get_paths()[key]).resolve() for key in ("stdlib", "platstdlib"))
_OWN = Path(__file__).resolve().parents[1]


def local_modules() -> list[types.ModuleType]:
    """Imported modules that belong to no installed package: another machine would not have them."""
    loaded: list[object] = list(sys.modules.values())  # it may hold anything
    modules = [m for m in loaded if isinstance(m, types.ModuleType)]
    # Some are registered under a name that is not theirs.
    return [m for m in modules if sys.modules.get(m.__name__) is m and is_local(m)]


def is_local(module: types.ModuleType) -> bool:
    """Whether a module is a user's own rather than part of an installed package."""
    if module.__name__ in ("__main__", "__mp_main__"):
        return False  # cloudpickle takes these by value anyway
    file, spec = module.__dict__.get("__file__"), module.__dict__.get("__spec__")
    if isinstance(file, str) and spec is not None:
        return is_local_file(file)
    return has_no_file(module)


def has_no_file(module: types.ModuleType) -> bool:
    """Whether a user's code has made a module: ``types.ModuleType("settings")``."""
    members = vars(module)
    has_file = any(members.get(name) is not None for name in ("__file__", "__loader__", "__spec__"))
    package = sys.modules.get(module.__name__.partition(".")[0], module)
    of_library = getattr(package, "__spec__", None) is not None
    # Cython makes `_cython_3_0` and `cython_runtime` in this way.
    hidden = module.__name__.startswith(("_", "cython_"))
    return type(module) is types.ModuleType and not (has_file or of_library or hidden)


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


def is_validated_call(value: Any) -> bool:
    """Whether it is what ``@validate_call`` puts in front of a function; it cannot be pickled."""
    return type(value).__name__ == "ValidateCallWrapper"  # the import of pydantic takes long


def captured(fn: types.FunctionType) -> dict[str, Any]:
    """The variables that a function captures, by name: closure cells, then globals.

    Of a local module, the attributes that the function names: ``helpers.resize``.
    """
    variables = dict(_cells(fn))
    if not travels(fn):
        return variables  # globals of an installed module are installed with it
    names = sorted(used_names(fn.__code__))
    for name in names:
        if name in fn.__globals__:
            variables[name] = fn.__globals__[name]
    for name, value in list(variables.items()):
        if isinstance(value, types.ModuleType):
            variables.update(_members(name, value, names, set()))
    return variables | quoted_types(fn)


def local_subclasses(cls: type) -> list[type]:
    """Direct subclasses that are shipped by value, each by its last definition."""
    if not travels(cls):
        return []
    subclasses: list[type] = type.__subclasses__(cls)
    return list({s.__qualname__: s for s in subclasses if travels(s)}.values())


def quoted_types(value: Any) -> dict[str, Any]:
    """Types and modules that annotations in quotes name, by name; others are none of its names.

    Args:
        value: a class, or a function: annotations of functions and classes in it count as well,
            so that any text in it may be one.
    """
    if isinstance(value, type):
        namespace = vars(sys.modules.get(value.__module__, typing))
        texts = _texts(inspect.get_annotations(value).values())
    else:
        namespace = value.__globals__
        texts = _texts([*value.__annotations__.values(), value.__code__])
    names = {name for text in texts for name in identifiers(text) if name in namespace}
    return {name: namespace[name] for name in sorted(names) if _is_type(namespace[name])}


def _texts(values: Iterable[Any]) -> Iterator[str]:
    """Text in annotations, and among the constants of code."""
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, typing.ForwardRef):
            yield value.__forward_arg__
        elif inspect.iscode(value):
            yield from _texts(value.co_consts)
        else:
            yield from _texts(value if type(value) is tuple else typing.get_args(value))


@lru_cache(maxsize=4096)
def identifiers(text: str) -> frozenset[str]:
    """Names in an expression as text; none if it is not one."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return frozenset()
    return frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))


def _is_type(value: Any) -> bool:
    """Whether it can be part of an annotation: a class, a generic type, or a module of those."""
    special = type(value).__module__ in ("types", "typing", "typing_extensions")
    return special or isinstance(value, (type, types.ModuleType))


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
    by_function = not _IMPORTERS.isdisjoint(code.co_names)
    for constant in code.co_consts:
        if inspect.iscode(constant):
            modules |= late_imports(constant, package)
        elif by_function and isinstance(constant, str) and _is_dotted(constant):
            modules.add(constant)
    return modules


_IMPORTERS = {"import_module", "__import__"}
"""Functions that import a module by its name as text."""


def _is_dotted(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def local_names(code: types.CodeType) -> set[str]:
    """Names of the local variables of code, nested functions included."""
    inner = (local_names(constant) for constant in code.co_consts if inspect.iscode(constant))
    return {*code.co_varnames, *code.co_cellvars}.union(*inner)


def nodes_of(fn: types.FunctionType) -> Iterator[ast.AST]:
    """Syntax of a function's body, outer nodes first; nothing if its source is not known."""
    definition = definition_of(fn)
    for statement in definition.body if definition is not None else ():
        yield from ast.walk(statement)


def definition_of(fn: types.FunctionType) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """Syntax of a function's definition; None if its source is not known, and for a lambda."""
    try:
        return _definition(fn.__code__)
    except (OSError, TypeError, SyntaxError):
        return None


@lru_cache(maxsize=1024)
def _definition(code: types.CodeType) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
    definition = tree.body[0]
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return definition if isinstance(definition, functions) else None


def used_names(code: types.CodeType) -> set[str]:
    """Names of globals and attributes that code uses, nested functions included."""
    inner = (used_names(c) for c in code.co_consts if inspect.iscode(c))
    return set(code.co_names).union(*inner)


def undefined_names(fn: types.FunctionType) -> list[str]:
    """Global names that a function loads, and that neither its module nor Python defines.

    Without those for whose absence it is prepared.
    """
    defined = fn.__globals__.keys() | vars(builtins).keys() | {"__class__"}
    undefined = _loaded(fn.__code__) - defined
    return sorted(undefined - set(_guarded(fn))) if undefined else []


def unguarded_names(fn: types.FunctionType) -> set[str]:
    """Global names that a function loads, without those for whose absence it is prepared."""
    return _loaded(fn.__code__) - set(_guarded(fn))


def _guarded(fn: types.FunctionType) -> Iterator[str]:
    """Names that a function tries under ``NameError``, or whose existence it asks for."""
    for node in nodes_of(fn):
        match node:
            case ast.Try(body=body, handlers=handlers) if any(
                handler.type is not None and _names_name_error(handler.type) for handler in handlers
            ):
                yield from (n.id for s in body for n in ast.walk(s) if isinstance(n, ast.Name))
            case ast.With(items=items, body=body) if any(
                _names_name_error(item.context_expr)
                for item in items  # contextlib.suppress
            ):
                yield from (n.id for s in body for n in ast.walk(s) if isinstance(n, ast.Name))
            case (
                ast.Compare(left=ast.Constant(value=str(name)), ops=[ast.In() | ast.NotIn()])
                | ast.Call(func=ast.Name(id="hasattr"), args=[_, ast.Constant(value=str(name))])
            ):
                yield name


def _names_name_error(expression: ast.expr) -> bool:
    return any(isinstance(n, ast.Name) and n.id == "NameError" for n in ast.walk(expression))


def read_names(code: types.CodeType) -> tuple[set[str], set[str]]:
    """Names that a module's code reads when it is executed, and those that its functions read.

    Names that only a class body defines for itself are neither.

    Args:
        code: code of a module, or of a statement of it.
    """
    now: set[str] = set()
    later: set[str] = set()
    own: set[str] = set()
    for instruction in dis.get_instructions(code):
        if instruction.opname in _READS:
            now.add(instruction.argval)
        elif instruction.opname == "STORE_NAME":
            own.add(instruction.argval)
    for constant in code.co_consts:
        if inspect.iscode(constant):
            inner_now, inner_later = read_names(constant)
            at_once = not constant.co_flags & inspect.CO_OPTIMIZED or _is_comprehension(constant)
            (now if at_once else later).update(inner_now)
            later |= inner_later
    if code.co_name != "<module>" and not code.co_flags & inspect.CO_OPTIMIZED:
        now -= own | {"__name__"}  # a class body
    return now, later


_READS = {"LOAD_FROM_DICT_OR_GLOBALS", "LOAD_GLOBAL", "LOAD_NAME"}


def _is_comprehension(code: types.CodeType) -> bool:
    return code.co_name in ("<dictcomp>", "<genexpr>", "<listcomp>", "<setcomp>")


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
