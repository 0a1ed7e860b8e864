"""Which functions can be steps and pipelines, and how arguments are bound to them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from mlkit.define.resource import Resource
from mlkit.errors import DefinitionError, InputError, did_you_mean

__all__ = ["bind_arguments", "check_pipeline_function", "check_step_function", "is_resource"]


def check_step_function(fn: Any) -> None:
    """Check that a function can be a step.

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
    _check_signature(fn, "step")
    for parameter in inspect.signature(fn).parameters.values():
        if is_resource(parameter) and parameter.kind is not parameter.KEYWORD_ONLY:
            raise DefinitionError(
                "a resource is a keyword-only parameter",
                where=f"step {fn.__name__!r}",
                got=f"{parameter.name!r} before the *",
                fix=f"write (..., *, {parameter.name}=resource(...))",
            )


def check_pipeline_function(fn: Any) -> None:
    """Check that a function can be traced.

    Raises:
        DefinitionError: not a plain function with named parameters.
    """
    if not inspect.isfunction(fn):
        raise DefinitionError("a pipeline is a function", where="pipeline", got=type(fn).__name__)
    if not fn.__name__.isidentifier():  # it becomes part of paths, routes and file names
        raise DefinitionError(
            "invalid name of a pipeline",
            where="pipeline",
            expected="a Python identifier",
            got=f"{fn.__name__!r:.80}",
            fix="define it with `def`, or set its __name__",
        )
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise DefinitionError(
            "a pipeline returns its result, it does not yield it",
            where=f"pipeline {fn.__name__!r}",
            fix="yield the items in its last step, and return the call of that step",
        )
    if inspect.iscoroutinefunction(fn):
        raise DefinitionError(
            "a pipeline is a plain function that calls steps",
            where=f"pipeline {fn.__name__!r}",
            got="async def",
            fix="drop async and await: async steps are called without await",
        )
    _check_signature(fn, "pipeline")
    if "given" in inspect.signature(fn).parameters:
        raise DefinitionError(
            "'given' is a keyword of Pipeline.run, and cannot be a parameter",
            where=f"pipeline {fn.__name__!r}",
            fix="rename it",
        )


def _check_signature(fn: Any, kind: str) -> None:
    where = f"{kind} {fn.__name__!r}"
    for parameter in inspect.signature(fn).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise DefinitionError(
                f"a {kind} takes named parameters only",
                where=where,
                got=str(parameter),
                fix="no *args, **kwargs or positional-only parameters",
            )


def is_resource(parameter: inspect.Parameter) -> bool:
    """Whether a parameter is filled in from a resource."""
    return isinstance(parameter.default, Resource)


def bind_arguments(
    signature: inspect.Signature,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    where: str,
    expected: str,
    partial: bool = False,
) -> inspect.BoundArguments:
    """Bind arguments by name, without defaults.

    Args:
        signature: that of the function that is called.
        args: its positional arguments.
        kwargs: its keyword arguments.
        where: the callable, for the error.
        expected: its signature as text, for the error.
        partial: whether required arguments may be missing.

    Raises:
        InputError: they do not match the signature.
    """
    names = list(signature.parameters)
    # A misspelt name leaves another one missing, which `Signature.bind` would report instead.
    if unknown := [name for name in kwargs if name not in names]:
        suggestions = (did_you_mean(name, names) for name in unknown)
        raise InputError(
            f"unexpected argument {', '.join(map(repr, unknown))}",
            where=where,
            expected=expected,
            fix=next(filter(None, suggestions), None),
        )
    try:
        bind = signature.bind_partial if partial else signature.bind
        return bind(*args, **kwargs)
    except TypeError as error:
        raise InputError(f"{error}", where=where, expected=expected) from None
