"""Validation, serialization and JSON schemas of types, by pydantic."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError, SchemaSerializer, SchemaValidator
from pydantic_core.core_schema import CoreConfig

from mlkit.define.jsonform import json_schema
from mlkit.define.nodes import (
    NoJsonForm,
    Own,
    core_schema_of,
    encoded,
    leaves_open,
    ports,
    replaced,
)
from mlkit.define.objects import parts
from mlkit.define.port import escaped, plain, without_arrays
from mlkit.define.typing import show
from mlkit.errors import DefinitionError, InputError
from mlkit.media.schema import TRIAL

__all__ = ["Schema", "first_error", "own_error"]


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
        self._raw = core_schema_of(annotation)
        try:
            self.core = replaced(self._raw, ports(own, self._raw, local=False))
            self.input = json_schema(self.core, "validation")
            self.output = json_schema(self.core, "serialization")
        except NoJsonForm as error:
            raise DefinitionError(
                f"values of type {show(annotation)} cannot be serialized",
                fix=error.fix,
            ) from None
        self._serializer = SchemaSerializer(self.core, _use_prebuilt=False)
        self._validator = SchemaValidator(self.core, _use_prebuilt=False)

    @cached_property
    def _local(self) -> SchemaValidator:
        core = replaced(self._raw, ports(self._own, self._raw, local=True))
        return SchemaValidator(core, _use_prebuilt=False)

    def from_json(self, value: Any) -> Any:
        """Validate decoded JSON, or a value of the type.

        Raises:
            InputError: it is invalid.
        """
        try:
            return self._validator.validate_python(value)
        except ValidationError as error:
            raise own_error(error) or InputError(first_error(error)) from error

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
            unwrapped = without_arrays(value)
            if unwrapped is not value:
                return self.local(unwrapped)
            raise own_error(error) or InputError(first_error(error)) from error

    def to_python(self, value: Any) -> Any:
        """Serialize to what JSON can hold."""
        return self._serialized(value, SchemaSerializer.to_python, mode="json")

    def to_json(self, value: Any) -> bytes:
        """Serialize to JSON; NaN and infinity are null."""
        try:
            return bytes(self._serialized(value, SchemaSerializer.to_json))
        except PydanticSerializationError as error:
            return escaped(error, lambda: self.to_python(value))

    @cached_property
    def open(self) -> bool:
        """Whether the type leaves open what some of its values are."""
        return leaves_open(self.core)

    def check(self, value: Any) -> None:
        """Check that a value has a JSON form, without encoding what is large.

        Raises:
            TypeError: a part of it has none.
            pydantic_core.PydanticSerializationError: likewise.
        """
        options: dict[str, Any] = {"mode": "json", "context": TRIAL, "fallback": self._tried}
        self._serialized(value, SchemaSerializer.to_python, **options)

    def _tried(self, value: Any) -> Any:
        if (objects := parts(value)) is not None:
            return objects
        return None if self._own(type(value)) is not None else plain(value)

    def _serialized(self, value: Any, serialize: Callable[..., Any], **options: Any) -> Any:
        options = {"by_alias": True, "fallback": self._plain, "warnings": False, **options}
        try:
            return serialize(self._serializer, value, **options)
        except (PydanticSerializationError, UnicodeDecodeError) as error:
            if "invalid utf-8" not in str(error):
                raise
            return serialize(self._with_base64, value, **options)

    @cached_property
    def _with_base64(self) -> SchemaSerializer:
        """For bytes that are no text, where the type leaves its values open."""
        config = CoreConfig(ser_json_bytes="base64")
        return SchemaSerializer(replaced(self.core, encoded), config, _use_prebuilt=False)

    def _plain(self, value: Any) -> Any:
        """The JSON form of what the type leaves open, such as a table in a ``dict[str, Any]``."""
        port = self._own(type(value))
        return plain(value) if port is None else port.to_json(value)


def first_error(error: ValidationError) -> str:
    """Summarize a validation error in one line."""
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    first = errors[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    place = place.removeprefix(".")
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{place}: {first['msg']}{more}" if place else f"{first['msg']}{more}"


def own_error(error: ValidationError) -> InputError | None:
    """Return the first cause that has a status of its own, such as 413; None if none has."""
    causes = (detail.get("ctx", {}).get("error") for detail in error.errors(include_url=False))
    own = (cause for cause in causes if isinstance(cause, InputError))
    return next((cause for cause in own if cause.status != InputError.status), None)
