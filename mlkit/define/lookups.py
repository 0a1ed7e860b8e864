"""Names that functions look up as text: what they name in this way does not travel with them."""

from __future__ import annotations

import ast
import builtins
import re
import sys
import types
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from mlkit.define.code import captured, local_names, nodes_of, used_names

__all__ = ["lookups"]

_LOOKING_UP = {"__main__", "eval", "exec", "globals", "modules", "query"}
_MAIN = ("the module __main__", "write the names themselves")


def lookups(fn: types.FunctionType) -> Iterator[tuple[str, str]]:
    """Yield what a function looks up among the global variables by text, and what to do instead.

    Of the globals, a replica has those that the function names in its code. It is read from the
    source; of a text that is not a literal, it is not known what it names.
    """
    code = fn.__code__
    used, main = used_names(code), sys.modules.get("__main__")
    if any(value is main for value in captured(fn).values()):
        yield _MAIN
    if used.isdisjoint(_LOOKING_UP):
        return
    known = used | local_names(code) | set(code.co_freevars) | vars(builtins).keys()
    missing = fn.__globals__.keys() - known
    literal: set[ast.AST] = set()  # calls of globals() with a literal name
    for node in nodes_of(fn):
        match node:
            case (
                ast.Subscript(value=ast.Call() as call, slice=ast.Constant(value=str(name)))
                | ast.Compare(left=ast.Constant(value=str(name)), comparators=[ast.Call() as call])
            ) if _is_call_of_globals(call):
                literal.add(call)
                if name in missing:
                    yield f"{name!r} in globals()", f"write {name} itself"
            case ast.Call() if _is_call_of_globals(node) and node not in literal:
                yield "globals()", "write the names themselves, or keep the values in a dict"
            case (
                ast.Import(names=[ast.alias(name="__main__")])
                | ast.ImportFrom(module="__main__")
                | ast.Subscript(
                    value=ast.Attribute(attr="modules"), slice=ast.Constant(value="__main__")
                )
            ):
                yield _MAIN
            case ast.Call():
                yield from _in_text(node, missing)


def _is_call_of_globals(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node) == "globals()"


def _in_text(call: ast.Call, missing: set[str]) -> Iterator[tuple[str, str]]:
    """Names in a text that a call evaluates in the function's own namespace."""
    match call:
        case ast.Call(func=ast.Attribute(attr="eval" | "query" as method), args=[text, *_]):
            for name in re.findall(r"@(\w+)", _literal(text) or ""):
                if name in missing:
                    yield f"@{name} in {method}(...)", "assign it to a local variable first"
        case ast.Call(func=ast.Name(id="eval" | "exec" as function), args=[text], keywords=[]):
            source = _literal(text)
            if source is None:
                fix = f"pass the names that it may use: {function}(text, {{'name': name}})"
                yield f"whatever the text of {function}(...) names", f"{fix}, or {{}} for none"
                return
            with suppress(SyntaxError):
                tree = ast.parse(source)
                for name in sorted({n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}):
                    if name in missing:
                        fix = f"pass it: {function}(text, {{{name!r}: {name}}})"
                        yield f"{name!r} in {function}(...)", fix


def _literal(text: Any) -> str | None:
    return text.value if isinstance(text, ast.Constant) and isinstance(text.value, str) else None
