"""Values that their type leaves open, such as those of ``Any``: whether they can cross the border.

A type that cannot cross it is a problem of the pipeline. Where a type leaves open what its values
are, each value is checked instead: in a notebook as in a replica, so that both raise the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from mlkit.define.border import Port, port
from mlkit.define.exact import Exact
from mlkit.define.graph import Graph
from mlkit.define.typing import show
from mlkit.errors import DefinitionError, InputError, MissingExtra, ResultError

__all__ = ["Check", "argument_check", "result_check"]

Check: TypeAlias = Callable[[Any], Any]
"""Returns a value; raises an `MlkitError` if it cannot cross the border."""

_FIX = "convert it, or declare codec(T, encode=..., decode=...) for its type"


def argument_check(annotation: Any, graph: Graph) -> Check | None:
    """Return the check of an argument, which raises `InputError`; None if it always passes."""
    if _open_port(annotation, graph) is None:
        return None
    exact = Exact(graph)

    def check(value: Any) -> Any:
        exact.check(value)
        return value

    return check


def result_check(annotation: Any, graph: Graph) -> Check | None:
    """Return the check of a result, which raises `ResultError`; None if it always passes."""
    target = _open_port(annotation, graph)
    if target is None:
        return None
    exact = Exact(graph)

    def check(value: Any) -> Any:
        try:
            exact.check(value, public=True)
            if target.pydantic is not None:
                target.pydantic.check(value)
        except Exception as error:
            raise _no_form(error, annotation, value) from error
        return value

    return check


def _open_port(annotation: Any, graph: Graph) -> Port | None:
    """The port of a type that leaves values open; None for any other."""
    try:
        target = port(annotation)
        for type_ in (*(p.type for p in graph.parameters), graph.returns):
            port(type_)
    except (DefinitionError, MissingExtra):  # such a pipeline runs in this process only
        return None
    is_open = target.objects if target.pydantic is None else target.pydantic.open
    return target if is_open else None


def _no_form(error: Exception, annotation: Any, value: Any) -> ResultError:
    from pydantic_core import PydanticSerializationError

    own = error if isinstance(error, InputError) else None
    known = isinstance(error, (TypeError, PydanticSerializationError))
    reason = own.what if own else f"{error}" if known else type(error).__name__
    # A serializer of the user's may raise anything, with anything in its text.
    reason = reason.partition("Error calling function")[0] or "a serializer raised an exception"
    return ResultError(
        f"its result cannot be sent: {reason}",
        expected=f"what JSON can hold, as {show(annotation)}",
        got=type(value).__name__,
        fix=(own and own.fix) or _FIX,
    )
