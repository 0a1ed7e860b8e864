"""Calls of steps and pipelines inside of a step, which are errors when it runs."""

from __future__ import annotations

import ast
import types
from collections.abc import Iterator
from typing import Any

from mlkit.define.code import captured, local_names, nodes_of
from mlkit.define.step import BatchedStep, Step

__all__ = ["nested_calls"]


def nested_calls(fn: types.FunctionType) -> Iterator[Any]:
    """Yield the steps and pipelines that a function calls, as its source shows, each once."""
    if _is_body_of_pipeline(fn):
        return
    variables, local = captured(fn), local_names(fn.__code__)
    called: dict[int, Any] = {}
    for node in nodes_of(fn):
        if not isinstance(node, ast.Call):
            continue
        for value in (_value(expression, variables, local) for expression in _called(node)):
            by_batch = isinstance(value, BatchedStep) and ast.unparse(node.func) == "each"
            if not by_batch and (isinstance(value, Step) or _is_pipeline(value)):
                called[id(value)] = value
    yield from called.values()


def _called(call: ast.Call) -> Iterator[ast.expr]:
    """Expressions whose values a call may call."""
    yield call.func
    match call:
        case ast.Call(func=ast.Name(id="each" | "map"), args=[function, *_]):
            yield function
        case ast.Call(func=ast.Attribute(value=pipeline, attr="map" | "run" | "stream")):
            yield pipeline


def _value(expression: ast.expr, variables: dict[str, Any], local: set[str]) -> Any:
    """The captured variable, or member of a captured module, that an expression names."""
    root = expression
    while isinstance(root, ast.Attribute):
        root = root.value
    if not isinstance(root, ast.Name) or root.id in local:
        return None
    return variables.get(ast.unparse(expression))


def _is_pipeline(value: Any) -> bool:
    return hasattr(value, "replacements") and not isinstance(value, (type, types.ModuleType))


def _is_body_of_pipeline(fn: types.FunctionType) -> bool:
    value = fn.__globals__.get(fn.__name__)
    return _is_pipeline(value) and getattr(value, "fn", None) is fn
