"""Validation of results: nothing is converted, and no validator of a class runs again."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import SchemaError, SchemaValidator, core_schema

from mlkit.define.literals import by_kind
from mlkit.define.nodes import core_schema_of, function_of, is_encoded, replaced
from mlkit.define.port import without_numpy
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
            unwrapped = without_numpy(value)
            if unwrapped is not value:
                problem, result = validate(unwrapped)
                return problem, value if problem else result
            return first_error(error), value

    return validate


def _instances(node: dict[str, Any], config: Any) -> Any:
    """Replace classes by checks of the instance, so that none of their validators runs."""
    kind, cls = node["type"], node.get("cls")
    if kind == "generator":  # reading an iterator would use it up
        return core_schema.any_schema()
    if kind == "literal":
        return by_kind(node)
    if kind == "json":
        return replaced(node.get("schema", core_schema.any_schema()), _instances)
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


def _generic(cls: Any) -> Any:
    """The generic model that a model is a parametrization of; else the class itself."""
    return (getattr(cls, "__pydantic_generic_metadata__", None) or {}).get("origin") or cls
