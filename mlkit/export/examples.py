"""Arguments of the golden requests."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlkit.define.example import example
from mlkit.errors import MlkitError
from mlkit.execute.inputs import rows
from mlkit.execute.local import localise_arguments
from mlkit.export.cells import Statement
from mlkit.export.reach import calls
from mlkit.pipelines import Pipeline
from mlkit.serving.kernel.app import App
from mlkit.serving.kernel.client import Codec

__all__ = ["golden_inputs"]

MAX_GOLDEN = 20


def golden_inputs(
    pipeline: Pipeline[..., Any],
    variable: str,
    statements: Sequence[Statement],
    examples: Iterable[Any] | App | None,
) -> list[dict[str, Any]]:
    """Return the arguments of the golden requests; none if there is no example.

    Args:
        pipeline: the pipeline to export.
        variable: its variable.
        statements: of the cells, whose calls are examples.
        examples: inputs, or an app that has received some.
    """
    graph = pipeline.graph
    if isinstance(examples, App):
        decoder = Codec(graph)
        sent = [decoder.sent(request) for request in examples.sent]
        inputs = [arguments for arguments in sent if arguments is not None]
    elif examples is not None:
        inputs = rows(examples, graph.parameters)
    else:
        inputs = _called(pipeline, variable, statements) or _made_up(pipeline)
    return inputs[-MAX_GOLDEN:]


def _called(
    pipeline: Pipeline[..., Any], variable: str, statements: Sequence[Statement]
) -> list[dict[str, Any]]:
    """Arguments with which cells call the pipeline, where these are literals and variables."""
    namespace = vars(sys.modules["__main__"])
    arguments_by_call: dict[str, dict[str, Any]] = {}
    for _, call in calls(variable, statements):
        try:
            args = [_value(argument, namespace) for argument in call.args]
            kwargs = {str(k.arg): _value(k.value, namespace) for k in call.keywords}
            arguments = inspect.signature(pipeline.fn).bind(*args, **kwargs).arguments
        except (NameError, TypeError):
            continue
        if _answers(pipeline, arguments):
            arguments_by_call.setdefault(ast.unparse(call), arguments)
    return list(arguments_by_call.values())


def _value(argument: ast.expr, namespace: Mapping[str, Any]) -> Any:
    return eval(compile(ast.Expression(argument), "", "eval"), dict(namespace))


def _made_up(pipeline: Pipeline[..., Any]) -> list[dict[str, Any]]:
    """Example values of the types of required parameters, if the pipeline accepts them."""
    codec = Codec(pipeline.graph)
    try:
        arguments = {
            p.name: codec.ports[p.name].from_json(example(codec.ports[p.name].schema))
            for p in pipeline.graph.parameters
            if p.required
        }
    except (MlkitError, KeyError, TypeError, ValueError):
        return []
    return [arguments] if _answers(pipeline, arguments) else []


def _answers(pipeline: Pipeline[..., Any], arguments: Mapping[str, Any]) -> bool:
    try:
        localise_arguments(pipeline.graph, arguments)
        pipeline(**arguments)
    except Exception:
        return False
    return True
