"""Validation of results: nothing is converted, and no validator of a class runs again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import SchemaError, SchemaValidator, core_schema

from mlkit.define.literals import by_kind
from mlkit.define.nodes import core_schema_of, function_of, is_encoded, replaced
from mlkit.define.port import without_arrays
from mlkit.define.schema import first_error
from mlkit.errors import DefinitionError

__all__ = ["strict_validator"]

_LIBRARIES = ("pydantic.", "mlkit.define.tables")
"""Modules whose validators run on results too."""


def strict_validator(annotation: Any) -> Callable[[Any], tuple[str, Any]] | None:
    """Return a function that validates results, for `mlkit.define.conform`; None for any value.

    It returns the problem, "" for none, and the value.
    """
    try:
        core = replaced(core_schema_of(annotation), _instances)
    except DefinitionError:  # a type that pydantic cannot look into
        if not inspect.isclass(annotation):
            return None
        core = core_schema.is_instance_schema(annotation)
    if core["type"] == "any":
        return None
    try:
        validator = SchemaValidator(core, _use_prebuilt=False)
    except SchemaError:  # a protocol
        return None

    def validate(value: Any) -> tuple[str, Any]:
        try:
            return "", validator.validate_python(value, strict=True)
        except ValidationError as error:
            unwrapped = without_arrays(value)
            if unwrapped is not value:
                problem, result = validate(unwrapped)
                return problem, value if problem else result
            return first_error(error), value

    return validate


def _instances(node: dict[str, Any], config: Any) -> Any:
    """Replace classes by checks of the instance, so that none of their validators runs."""
    kind, cls = node["type"], node.get("cls")
    if kind in _OF_THEIR_OWN:
        return _OF_THEIR_OWN[kind](node)
    if kind.startswith("function-"):
        module = str(getattr(function_of(node), "__module__", ""))
        if module.startswith(_LIBRARIES) and not is_encoded(node):
            return None  # pydantic's own, as for Sequence and URLs; or a DataFrame's
        inner = node.get("schema", core_schema.any_schema())
        return replaced(inner, _instances, config)
    if kind not in ("model", "dataclass") or cls is None:
        return None
    target: TypeAdapter[Any] | None = None

    def instance(value: Any) -> Any:
        nonlocal target
        if isinstance(value, cls):
            return value
        if not isinstance(value, dict) and _generic(type(value)) is not _generic(cls):
            names = cls.__name__, type(value).__name__
            again = "; run the cells that use this class again" if names[0] == names[1] else ""
            raise ValueError(f"not a {names[0]}, but {names[1]}{again}")
        target = target or TypeAdapter(cls)
        return target.validate_python(value)

    return core_schema.no_info_plain_validator_function(instance, ref=node.get("ref"))


def _instance_of(node: dict[str, Any]) -> Any:
    if getattr(node["cls"], "__name__", "") != "ndarray":
        return None
    return core_schema.no_info_before_validator_function(_array, node)


def _array(value: Any) -> Any:
    """An array without dimensions for a scalar of numpy, as items of an array are."""
    import numpy as np

    return np.asarray(value) if isinstance(value, np.generic) else value


_OF_THEIR_OWN: Mapping[str, Callable[[dict[str, Any]], Any]] = {
    # Reading an iterator would use it up.
    "generator": lambda node: core_schema.any_schema(),
    "is-instance": _instance_of,
    "json": lambda node: replaced(node.get("schema", core_schema.any_schema()), _instances),
    "literal": by_kind,
}
"""Replacements by kind of node."""


def _generic(cls: Any) -> Any:
    """The generic model that a model is a parametrization of; else the class itself."""
    return (getattr(cls, "__pydantic_generic_metadata__", None) or {}).get("origin") or cls
