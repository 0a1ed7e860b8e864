"""Where a variable gets its value: from the code as written, from a literal, or from a file."""

from __future__ import annotations

import ast
import io
import os
import re
import sys
import types
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

from mlkit.define.equality import same
from mlkit.export.artefacts import format_of

__all__ = ["Home", "home_of", "literal_of"]

MAX_LITERAL = 400
"""Characters of a literal; what is longer goes into a file."""


class Home(Enum):
    """Where a variable gets its value from in an exported module."""

    SOURCE = "its statement"
    LITERAL = "a literal"
    FILE = "a file"
    NOWHERE = "nowhere"


_PLAIN = (bool, bytes, complex, float, int, str, type(None))
_CONTAINERS = (dict, frozenset, list, set, tuple)
_ASSIGNMENTS = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.If, ast.Try)
_CALLABLE = {
    *("abs", "bool", "bytes", "dict", "enumerate", "float", "frozenset", "int", "len", "list"),
    *("max", "min", "range", "reversed", "round", "set", "sorted", "str", "sum", "tuple", "zip"),
}
"""Functions that an expression may call to count as written down rather than computed."""
_METHODS = {"items", "join", "keys", "lower", "split", "strip", "title", "upper", "values"}
_OF_NUMPY = {
    *("arange", "array", "asarray", "eye", "float32", "float64", "full", "geomspace", "int64"),
    *("linspace", "logspace", "ones", "stack", "uint8", "zeros"),
}
_ONCE = ("mlkit.load", "mlkit.models.optimized", "mlkit.serving", "mlkit.views")
"""Modules whose objects belong to a session or to one measurement."""


MIN_SECRET = 6
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL|DSN|AUTH", re.IGNORECASE)
"""Names of environment variables whose values are secrets."""


def home_of(name: str, node: ast.stmt, namespace: Mapping[str, Any]) -> Home:
    """Decide where a variable gets its value from.

    Definitions and short expressions stay as they are written. Data, which took a computation, is
    not computed again: it goes into a file, or into a literal.

    Args:
        name: the variable.
        node: the statement that gave it its value.
        namespace: all variables, with their present values.
    """
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return Home.SOURCE
    if name not in namespace:
        return Home.SOURCE
    value = namespace[name]
    if _is_plain(value) and _is_secret(node, value):
        return Home.NOWHERE if "getpass" in _names(node) else Home.SOURCE
    if _is_plain(value):
        if _is_written(node, value, namespace):
            return Home.SOURCE
        return Home.LITERAL if len(repr(value)) <= MAX_LITERAL else Home.FILE
    kind = format_of(value)
    if kind == "npy" and _is_written(node, value, namespace):
        return Home.SOURCE
    if kind not in (None, "exact"):
        return Home.FILE
    if type(value).__module__.startswith(_ONCE) or _is_used_up(value):
        return Home.NOWHERE
    if isinstance(node, _ASSIGNMENTS) or type(node).__name__ == "TypeAlias":
        return Home.SOURCE
    return Home.FILE if kind == "exact" else Home.NOWHERE


def _names(node: ast.stmt) -> set[str]:
    return {str(getattr(part, "attr", getattr(part, "id", ""))) for part in ast.walk(node)}


def _is_secret(node: ast.stmt, value: Any) -> bool:
    """Whether a value comes from the environment, or has a secret of it in it: it is not written.

    The exported module reads it where it runs.
    """
    if _names(node) & {"environ", "environb", "getenv", "getpass"}:
        return True
    text = repr(value)
    return any(
        len(secret) >= MIN_SECRET and secret in text
        for variable, secret in os.environ.items()
        if _SECRET.search(variable)
    )


def _is_used_up(value: Any) -> bool:
    """Whether it has a state that reading it changes: a file, a generator."""
    return isinstance(value, (io.IOBase, types.GeneratorType, types.AsyncGeneratorType)) or (
        isinstance(value, Iterator) and type(value).__module__ == "builtins"
    )


def _is_plain(value: Any) -> bool:
    if type(value) is dict:
        return all(_is_plain(part) for item in value.items() for part in item)
    if type(value) in _CONTAINERS:
        return all(map(_is_plain, value))
    return type(value) in _PLAIN


def literal_of(value: Any) -> str:
    """Return Python code for a plain value, with the quotes that formatters use."""
    text = ast.unparse(ast.parse(repr(value), mode="eval")) if value != set() else "set()"
    if "'" in text and '"' not in text and "\\" not in text:
        return text.replace("'", '"')
    return text


def _is_written(node: ast.stmt, value: Any, namespace: Mapping[str, Any]) -> bool:
    """Whether a statement says the value itself, by constants and what is made of them."""
    match node:
        case ast.Assign(targets=[ast.Name()], value=expression):
            pass
        case ast.AnnAssign(target=ast.Name(), value=ast.expr() as expression):
            pass
        case _:
            return False
    if not all(_is_simple(part, namespace, _own_names(expression)) for part in _nodes(expression)):
        return False
    try:
        return same(eval(compile(ast.Expression(expression), "", "eval"), dict(namespace)), value)
    except Exception:
        return False


def _nodes(expression: ast.expr) -> Iterator[ast.AST]:
    return (n for n in ast.walk(expression) if isinstance(n, (ast.expr, ast.comprehension)))


def _own_names(expression: ast.expr) -> set[str]:
    stored = (n for n in ast.walk(expression) if isinstance(n, ast.Name))
    return {n.id for n in stored if isinstance(n.ctx, ast.Store)}


def _is_simple(node: ast.AST, namespace: Mapping[str, Any], own: set[str]) -> bool:
    match node:
        case ast.Name(id=name):
            if name in own or name not in namespace:
                return True  # a variable of a comprehension, or Python's own
            value = namespace[name]
            numpy = value is sys.modules.get("numpy")
            return numpy or _is_plain(value) or format_of(value) == "npy"
        case ast.Call(func=ast.Name(id=function)):
            return function in _CALLABLE and function not in namespace
        case ast.Call(func=ast.Attribute(value=ast.Name(id=module), attr=attribute)) if (
            namespace.get(module) is sys.modules.get("numpy", namespace)
        ):
            return attribute in _OF_NUMPY
        case ast.Call(func=ast.Attribute(attr=attribute)):
            return attribute in _METHODS
        case ast.Await() | ast.Lambda() | ast.NamedExpr() | ast.Yield() | ast.YieldFrom():
            return False
    return not isinstance(node, ast.Call)
