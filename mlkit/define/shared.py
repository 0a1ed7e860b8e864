"""State outside of a request that functions change: of it, each replica has its own copy."""

from __future__ import annotations

import ast
import dis
import inspect
import random
import types
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from mlkit.define.code import captured, local_names, nodes_of, travels
from mlkit.define.modules import functions_of
from mlkit.define.resource import Resource

__all__ = ["CHANGING", "changed_state", "changed_variables"]

CHANGING = {
    "add",
    "append",
    "appendleft",
    "clear",
    "difference_update",
    "discard",
    "extend",
    "extendleft",
    "fill",
    "insert",
    "intersection_update",
    "pop",
    "popitem",
    "popleft",
    "put",
    "remove",
    "resize",
    "reverse",
    "rotate",
    "setdefault",
    "sort",
    "subtract",
    "symmetric_difference_update",
    "update",
}
"""Methods that change what they are called on."""


def changed_state(functions: Iterable[Any]) -> dict[str, str]:
    """Return what functions change outside of themselves, and the function that does it, by name.

    Global variables that they assign, and lists, dicts, arrays, objects and the like in global
    variables, in variables of enclosing functions, and in ``resource(value=...)``. It is read from
    the source; what has none, or is called in other ways, is not found.

    Args:
        functions: functions that are pickled by value; those that they use count as well.
    """
    names: dict[str, str] = {}
    for fn in functions_of(functions):
        assigned = _assigned(fn.__code__, frozenset(fn.__code__.co_freevars))
        for name in (*assigned, *_mutated(fn), *_advanced(fn)):
            names.setdefault(name, fn.__name__)
    return names


def changed_variables(statement: ast.AST) -> set[str]:
    """Names of the variables whose values a statement changes in place, or parts of them.

    What functions and classes in it do counts when they are called, not here.
    """
    names: set[str] = set()
    pending = [statement]
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.AsyncFunctionDef, ast.ClassDef, ast.FunctionDef, ast.Lambda)):
            continue
        pending += ast.iter_child_nodes(node)
        for changed in _targets(node):
            expression = changed
            while isinstance(expression, (ast.Attribute, ast.Subscript)):
                expression = expression.value
            if isinstance(expression, ast.Name):
                names.add(expression.id)
    return names


def _assigned(code: types.CodeType, enclosing: frozenset[str]) -> Iterator[str]:
    """Variables that code assigns under ``global`` or ``nonlocal``."""
    for instruction in dis.get_instructions(code):
        name = instruction.argval
        if instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL") or (
            instruction.opname in ("STORE_DEREF", "DELETE_DEREF") and name in enclosing
        ):
            yield name
    for constant in code.co_consts:
        if inspect.iscode(constant):
            yield from _assigned(constant, enclosing)


def _advanced(fn: types.FunctionType) -> Iterator[str]:
    """Variables that change when they are used: ``next(ids)``, ``rng.random()``, ``f.read()``."""
    for name, value in (captured(fn) | _values(fn)).items():
        kind = type(value)
        draws = (kind.__module__, kind.__name__) in _GENERATORS or isinstance(value, random.Random)
        if draws or (isinstance(value, Iterator) and not isinstance(value, types.GeneratorType)):
            yield name


_GENERATORS = {
    ("numpy.random._generator", "Generator"),
    ("numpy.random.mtrand", "RandomState"),
    ("torch._C", "Generator"),
}
"""Types of generators of random numbers, besides Python's own."""


def _mutated(fn: types.FunctionType) -> Iterator[str]:
    variables = captured(fn) | _values(fn)
    for name in local_names(fn.__code__) - _values(fn).keys():
        variables.pop(name, None)
    for node in nodes_of(fn):
        for target in _targets(node):
            changed = _resolved(target, variables)
            if changed is not None:
                yield changed


def _values(fn: types.FunctionType) -> dict[str, Any]:
    """Resources of a step that are given as values, by keyword."""
    defaults = (fn.__kwdefaults__ or {}).items()
    return {n: r.value for n, r in defaults if isinstance(r, Resource) and r.load is None}


def _targets(node: ast.AST) -> Iterator[ast.expr]:
    """Expressions whose values a node changes."""
    match node:
        case ast.Assign(targets=targets) | ast.Delete(targets=targets):
            stored = list(targets)
        case ast.AugAssign(target=target) | ast.AnnAssign(target=target):
            stored = [target]
        case ast.For(target=target) | ast.AsyncFor(target=target):
            stored = [target]
        case ast.Call(func=ast.Attribute(value=changed, attr=method), keywords=keywords):
            if method in CHANGING or any(keyword.arg == "inplace" for keyword in keywords):
                yield changed
            return
        case _:
            return
    while stored:
        target = stored.pop()
        if isinstance(target, (ast.Tuple, ast.List)):
            stored += target.elts
        elif isinstance(target, (ast.Subscript, ast.Attribute)):
            yield target.value


def _resolved(expression: ast.expr, variables: dict[str, Any]) -> str | None:
    """Name of the captured object that an expression is, or is a part of, if it can change."""
    path: list[str] = []
    while not isinstance(expression, ast.Name):
        if isinstance(expression, ast.Attribute):
            path.append(expression.attr)
        elif isinstance(expression, ast.Subscript):
            path.clear()
        else:
            return None
        expression = expression.value
    name = expression.id
    value = variables.get(name)
    while isinstance(value, types.ModuleType) and path:
        attribute = path.pop()
        name, value = f"{name}.{attribute}", vars(value).get(attribute)
    return name if _can_change(value) else None


def _can_change(value: Any) -> bool:
    if isinstance(value, types.ModuleType) or value is None:
        return False
    if isinstance(value, types.FunctionType):  # its attributes
        return travels(value)
    if isinstance(value, (list, dict, set, bytearray, deque, types.SimpleNamespace)):
        return True
    kind = value if isinstance(value, type) else type(value)
    if hasattr(kind, "shape") and hasattr(kind, "__setitem__"):  # an array, a tensor or a table
        return True
    return travels(kind)
