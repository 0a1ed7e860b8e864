"""Results of steps against their annotations.

A step's result is checked wherever the step runs, so that a wrong one is an error of the step that
names what it returned, not of whoever reads it. Checks are strict: a text is no number. Three
conversions are made, as users of FastAPI and numpy expect: a dict becomes the annotated model or
dataclass, numpy's scalars and arrays become Python's own where these are annotated, and an int
becomes the annotated float. Validators of models do not run again on a model.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias

from mlkit.define.typing import show
from mlkit.errors import DefinitionError

__all__ = ["Conform", "conform_to"]

Conform: TypeAlias = Callable[[Any], Any]
"""Returns a value as its annotation has it; raises `DefinitionError`."""


def conform_to(annotation: Any) -> Conform | None:
    """Return the check of an annotation; None if it allows any value."""
    if annotation in (inspect.Parameter.empty, Any, object):
        return None
    try:
        return _conform_to(annotation)
    except TypeError:  # unhashable metadata
        return _conform_to.__wrapped__(annotation)


@lru_cache(maxsize=1024)
def _conform_to(annotation: Any) -> Conform | None:
    validate = _validator(annotation)
    if validate is None:
        return None

    def conform(value: Any) -> Any:
        return value if type(value) is annotation else validate(value)  # by far the most frequent

    return conform if inspect.isclass(annotation) else validate


def _validator(annotation: Any) -> Conform | None:
    from mlkit.define.strict import strict_validator  # late: loads pydantic

    validate = strict_validator(annotation)
    if validate is None:
        return None

    def checked(value: Any) -> Any:
        problem, value = validate(value)
        if problem:
            raise DefinitionError(
                f"its result does not match its annotation: {problem}",
                expected=show(annotation),
                got=_shown(value),
                fix="return a value of that type, or change the annotation",
            )
        return value

    return checked


def _shown(value: Any) -> str:
    kind = type(value).__name__
    if value is None or not isinstance(value, (str, int, float, list, tuple, dict, set)):
        return kind
    return f"{value!r:.80} ({kind})"
