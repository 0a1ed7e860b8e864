"""What can be the function of a step."""

from __future__ import annotations

import inspect
from typing import Any

from mlkit.define.resource import Resource
from mlkit.errors import DefinitionError

__all__ = ["check_function", "is_resource"]


def check_function(fn: Any) -> None:
    """Refuse what cannot be a step.

    Raises:
        DefinitionError: not a function with named parameters that returns.
    """
    if not inspect.isfunction(fn):
        raise DefinitionError(
            "a step is a function",
            where="step",
            got=type(fn).__name__,
            fix="wrap it: def my_step(x: X) -> Y: return thing(x)",
        )
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise DefinitionError(
            "a step returns its result, it does not yield it", where=f"step {fn.__name__!r}"
        )
    for parameter in inspect.signature(fn).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise DefinitionError(
                "a step's parameters are named ones",
                where=f"step {fn.__name__!r}",
                got=str(parameter),
                fix="no *args, **kwargs or positional-only parameters",
            )
        if is_resource(parameter) and parameter.kind is not parameter.KEYWORD_ONLY:
            raise DefinitionError(
                "a resource is a keyword-only parameter",
                where=f"step {fn.__name__!r}",
                got=f"{parameter.name!r} before the *",
                fix=f"write (..., *, {parameter.name}=resource(...))",
            )


def is_resource(parameter: inspect.Parameter) -> bool:
    """Whether a parameter is filled in from a resource."""
    return isinstance(parameter.default, Resource)
