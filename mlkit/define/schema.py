"""Validation, serialization and JSON schemas of types, by pydantic.

pydantic builds a core schema for a type. Nodes of classes with a `Port` of their own (arrays,
DataFrames, images, classes with a `codec`) and of ``bytes`` are replaced in it, wherever they are
nested: in lists, dataclasses, typed dicts and models. Core schemas are nested dicts, documented in
``pydantic_core.core_schema``.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeAlias

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode
from pydantic_core import (
    PydanticSerializationError,
    PydanticSerializationUnexpectedValue,
    SchemaSerializer,
    SchemaValidator,
    core_schema,
)

from mlkit.define.port import Port, plain, without_numpy
from mlkit.define.typing import show, strip
from mlkit.errors import DefinitionError, InputError
from mlkit.media.dataurl import to_data_url

__all__ = ["REF_TEMPLATE", "TYPE", "Schema", "documented", "first_error", "strict_validator"]

REF_TEMPLATE = "#/components/schemas/{model}"

Own: TypeAlias = Callable[[Any], Port | None]
"""Returns the port of a class that has one of its own."""

_ARBITRARY = ConfigDict(arbitrary_types_allowed=True)

_OPAQUE = {"cls", "config", "default", "expected", "metadata", "ref"}
"""Keys of a node that hold no nested schemas."""

_NO_NODES = {"fields", "choices", "serialization"}
"""Keys of a node that hold nested schemas by name."""

_PORT = "mlkit_port"
"""Key in the metadata of a node: its port."""

TYPE = "mlkit_type"
"""Key in the metadata of a node: its annotation, or its port."""


class Schema:
    """Validator, serializer and JSON schemas of a type.

    Args:
        annotation: the type.
        own: returns the port of a class that has one of its own.

    Raises:
        DefinitionError: values of the type cannot be serialized.
    """

    def __init__(self, annotation: Any, own: Own) -> None:
        self._annotation = annotation
        self._own = own
        self._raw = _core_schema(annotation)
        self.core = _replaced(self._raw, _ports(own, local=False))
        self._serializer = SchemaSerializer(self.core, _use_prebuilt=False)
        self._validator = SchemaValidator(self.core, _use_prebuilt=False)
        try:
            self.input = _json_schema(self.core, "validation")
            self.output = _json_schema(self.core, "serialization")
        except _NoJsonForm as error:
            raise DefinitionError(
                f"values of type {show(annotation)} cannot be serialized",
                fix=error.fix,
            ) from None

    @cached_property
    def _local(self) -> SchemaValidator:
        core = _replaced(self._raw, _ports(self._own, local=True))
        return SchemaValidator(core, _use_prebuilt=False)

    def from_json(self, value: Any) -> Any:
        """Validate decoded JSON, or a value of the type.

        Raises:
            InputError: it is invalid.
        """
        try:
            return self._validator.validate_python(value)
        except ValidationError as error:
            raise InputError(first_error(error)) from error

    def parse(self, body: bytes) -> Any:
        """Validate JSON.

        Raises:
            pydantic.ValidationError: it is invalid.
        """
        return self._validator.validate_json(body)

    def local(self, value: Any) -> Any:
        """Validate a value that a caller in this process passed: images may be paths.

        Raises:
            InputError: it is invalid.
        """
        try:
            return self._local.validate_python(value)
        except ValidationError as error:
            unwrapped = without_numpy(value)
            if unwrapped is not value:
                return self.local(unwrapped)
            raise InputError(first_error(error)) from error

    def to_python(self, value: Any) -> Any:
        """Serialize to what JSON can hold."""
        return self._serializer.to_python(
            value, mode="json", by_alias=True, fallback=plain, warnings=False
        )

    def to_json(self, value: Any) -> bytes:
        """Serialize to JSON; NaN and infinity are null."""
        return self._serializer.to_json(value, by_alias=True, fallback=plain, warnings=False)


def first_error(error: ValidationError) -> str:
    """Summarize a validation error in one line."""
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    first = errors[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    place = place.removeprefix(".")
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{place}: {first['msg']}{more}" if place else f"{first['msg']}{more}"


def documented(
    schemas: Sequence[tuple[str, JsonSchemaMode, Any]],
) -> tuple[dict[tuple[str, JsonSchemaMode], dict[str, Any]], dict[str, Any]]:
    """Return the JSON schemas of several core schemas by key and mode, and their definitions.

    Names of definitions are unique and valid in OpenAPI.
    """
    generator = _Generator(ref_template=REF_TEMPLATE)
    by_key, definitions = generator.generate_definitions(list(schemas))
    return {key: dict(schema) for key, schema in by_key.items()}, {
        str(name): schema for name, schema in definitions.items()
    }


def _core_schema(annotation: Any) -> Any:
    try:
        # As the item of a list, since models and dataclasses cannot be given a configuration.
        core: Any = TypeAdapter(list[annotation], config=_ARBITRARY).core_schema
        kind = core["type"]  # raises if a name in the annotations of a class is not defined
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError) as error:
        message = str(error).partition("\n")[0]
        raise DefinitionError(
            f"values of type {show(annotation)} cannot be serialized: {message}",
            fix="declare a codec for it: codec(T, encode=..., decode=...)",
        ) from error
    if kind == "definitions":
        return core_schema.definitions_schema(core["schema"]["items_schema"], core["definitions"])
    return core.get("items_schema", core_schema.any_schema())


Replacement: TypeAlias = Callable[[dict[str, Any], Any], Any]
"""Returns a node that stands for another, given its configuration, or None."""


def _replaced(node: Any, replacement: Replacement, config: Any = None) -> Any:
    """Return a core schema with nodes replaced."""
    if isinstance(node, (list, tuple)):
        return type(node)(_replaced(child, replacement, config) for child in node)
    if not isinstance(node, dict):
        return node
    config = node.get("config") or config
    if isinstance(node.get("type"), str):
        new = replacement(node, config)
        if new is not None:
            return new
    return {
        key: child
        if key in _OPAQUE
        else {name: _replaced(schema, replacement, config) for name, schema in child.items()}
        if key in _NO_NODES and isinstance(child, dict)
        else _replaced(child, replacement, config)
        for key, child in node.items()
    }


def _ports(own: Own, *, local: bool) -> Replacement:
    """Replace nodes of classes with a port, and of bytes.

    Args:
        own: returns the port of a type, if it has one of its own.
        local: accept what a caller in this process may pass, instead of the JSON form.
    """

    def replacement(node: dict[str, Any], config: Any) -> Any:
        if node["type"] == "bytes":
            if config and {"ser_json_bytes", "val_json_bytes"} & set(config):
                return None
            port = own(bytes)
            assert port is not None
            validate = _validator(port, local=local)
            return core_schema.no_info_before_validator_function(
                validate, node, serialization=_serialization(port, bytes), metadata={_PORT: port}
            )
        type_ = (node.get("metadata") or {}).get(TYPE, node.get("cls"))
        port = type_ if type_ is None or isinstance(type_, Port) else own(type_)
        if port is None:
            return _with_computed(node, replacement, config)
        return core_schema.no_info_plain_validator_function(
            _validator(port, local=local),
            serialization=_serialization(port, port.type),
            metadata={_PORT: port},
            ref=node.get("ref"),
        )

    return replacement


def _with_computed(node: dict[str, Any], replacement: Replacement, config: Any) -> Any:
    """Serialize the fields that a dataclass computes itself, which pydantic leaves out."""
    cls: Any = node.get("cls")
    arguments = node.get("schema", {})
    if node["type"] != "dataclass" or arguments.get("type") != "dataclass-args":
        return None
    known = {field["name"] for field in arguments["fields"]}
    missing = [f.name for f in dataclasses.fields(cls) if not f.init and f.name not in known]
    if not missing:
        return None
    hints = typing.get_type_hints(cls, include_extras=True)
    schemas = {name: _replaced(_core_schema(hints[name]), replacement) for name in missing}
    computed = [
        core_schema.computed_field(
            name, core_schema.any_schema() if schema["type"] == "definitions" else schema
        )
        for name, schema in schemas.items()
    ]
    whole = {**arguments, "computed_fields": [*arguments.get("computed_fields", ()), *computed]}
    return {**node, "schema": _replaced(whole, replacement, config)}


def _validator(port: Port, *, local: bool) -> Callable[[Any], Any]:
    if local:
        return port.local

    def validate(value: Any) -> Any:
        # JSON has values of these types only; code passes any others, but text is never a path.
        if value is None or isinstance(value, (str, bool, int, float, list, dict)):
            return port.from_json(value)
        if port.from_bytes is not None and isinstance(value, (bytes, bytearray, memoryview)):
            return port.from_bytes(bytes(value))
        return port.local(value)

    return validate


def _serialization(port: Port, type_: Any) -> Any:
    """Serialize with a port, but leave values of other types to the other members of a union."""
    bare = strip(type_)
    cls: Any = typing.get_origin(bare) or bare
    known = isinstance(cls, type) and not port.upload  # an upload may be a path, an array and more

    def serialize(value: Any) -> Any:
        if value is None or (known and not isinstance(value, cls)):
            raise PydanticSerializationUnexpectedValue(f"not of type {cls}")
        return port.to_json(value)

    return core_schema.plain_serializer_function_ser_schema(serialize, when_used="json")


class _NoJsonForm(Exception):
    """A type has no JSON form; ``fix`` is the way out."""

    def __init__(self, fix: str) -> None:
        super().__init__(fix)
        self.fix = fix


class _Generator(GenerateJsonSchema):
    """JSON schemas with those of ports."""

    ignored_warning_kinds = {  # noqa: RUF012
        "skipped-choice",
        "non-serializable-default",
    }

    def generate_inner(self, schema: Any) -> dict[str, Any]:
        port = (schema.get("metadata") or {}).get(_PORT)
        return super().generate_inner(schema) if port is None else dict(port.schema)

    def is_instance_schema(self, schema: Any) -> dict[str, Any]:
        raise _NoJsonForm(f"declare one: codec({show(schema['cls'])}, encode=..., decode=...)")

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> dict[str, Any]:
        raise _NoJsonForm(f"{error_info}: declare it with pydantic.WithJsonSchema, or use a codec")

    def encode_default(self, dft: Any) -> Any:
        if isinstance(dft, bytes):
            return to_data_url(dft, "application/octet-stream")
        try:
            return super().encode_default(dft)
        except PydanticSerializationError:
            raise
        except Exception as error:  # the default of a type that pydantic does not know
            raise PydanticSerializationError(str(error)) from None


def _json_schema(core: Any, mode: JsonSchemaMode) -> dict[str, Any]:
    return dict(_Generator(ref_template=REF_TEMPLATE).generate(core, mode))


def strict_validator(annotation: Any) -> Callable[[Any], tuple[str, Any]] | None:
    """Return a function that validates results, for `mlkit.define.conform`; None for any value.

    It returns the problem, "" for none, and the value.
    """
    try:
        core = _replaced(_core_schema(annotation), _instances)
    except DefinitionError:  # a type that pydantic cannot look into
        if not inspect.isclass(annotation):
            return None
        core = core_schema.is_instance_schema(annotation)
    if core["type"] == "any":
        return None
    validator = SchemaValidator(core, _use_prebuilt=False)

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
    if kind.startswith("function-"):
        function = node["function"]
        function = function["function"] if isinstance(function, dict) else function
        if str(getattr(function, "__module__", "")).startswith("pydantic."):
            return None  # pydantic's own, as for Sequence and URLs
        inner = node.get("schema", core_schema.any_schema())
        return _replaced(inner, _instances, config)
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
