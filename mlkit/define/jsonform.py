"""JSON schemas from core schemas, with those of ports."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pydantic_core
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode
from pydantic_core import PydanticSerializationError

from mlkit.define.nodes import PORT, NoJsonForm
from mlkit.define.typing import show
from mlkit.media.dataurl import to_data_url

__all__ = ["REF_TEMPLATE", "documented", "json_schema"]

REF_TEMPLATE = "#/components/schemas/{model}"


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


def json_schema(core: Any, mode: JsonSchemaMode) -> dict[str, Any]:
    """Return the JSON schema of a core schema.

    Raises:
        NoJsonForm: values of a part of it have no JSON form.
    """
    return dict(_Generator(ref_template=REF_TEMPLATE).generate(core, mode))


class _Generator(GenerateJsonSchema):
    """JSON schemas with those of ports."""

    ignored_warning_kinds = {  # noqa: RUF012
        "skipped-choice",
        "non-serializable-default",
    }

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._without_text: list[Any] = []  # values of enums that cannot be keys

    def generate_inner(self, schema: Any) -> dict[str, Any]:
        port = (schema.get("metadata") or {}).get(PORT)
        if port is None:
            return super().generate_inner(schema)
        return dict(port.schema if self.mode == "validation" else port.output_schema)

    def is_instance_schema(self, schema: Any) -> dict[str, Any]:
        raise NoJsonForm(f"declare one: codec({show(schema['cls'])}, encode=..., decode=...)")

    def is_subclass_schema(self, schema: Any) -> dict[str, Any]:
        raise NoJsonForm("pass a name, and look the class up in a step")

    def generator_schema(self, schema: Any) -> dict[str, Any]:
        raise NoJsonForm("an iterable can be read once only: annotate list[...]")

    def enum_schema(self, schema: Any) -> dict[str, Any]:
        document = super().enum_schema(schema)
        if any(isinstance(member.value, (list, dict)) for member in schema["cls"]):
            self._without_text.append(document.get("enum"))
        if issubclass(schema["cls"], enum.Flag):  # combinations are values as well
            document.pop("enum", None)
            document.pop("const", None)
            document["type"] = "integer"
        return document

    def dict_schema(self, schema: Any) -> dict[str, Any]:
        return self._with_text_keys(schema, super().dict_schema(schema))

    def ordered_dict_schema(self, schema: Any) -> dict[str, Any]:
        return self._with_text_keys(schema, super().ordered_dict_schema(schema))

    def counter_schema(self, schema: Any) -> dict[str, Any]:
        return self._with_text_keys(schema, super().counter_schema(schema))

    def _with_text_keys(self, schema: Any, document: dict[str, Any]) -> dict[str, Any]:
        """Leave the names of properties open where the type has others than texts.

        Raises:
            NoJsonForm: keys have no text, or one that is not read back, as that of a tuple.
        """
        keys = schema.get("keys_schema")
        forms = [] if keys is None else list(self._forms(self.generate_inner(keys)))
        kinds = {str(form.get("type")) for form in forms}
        values = [v for form in forms for v in form.get("enum", [form.get("const", "")])]
        nested = kinds & {"array", "object"} or any(
            form.get("enum") in self._without_text for form in forms if "enum" in form
        )
        if nested or self._is_none_only(kinds):
            raise NoJsonForm("keys are texts in JSON: use a list of pairs, list[tuple[K, V]]")
        if "integer" in kinds or not all(isinstance(value, str) for value in values):
            document.pop("propertyNames", None)
        return document

    def _is_none_only(self, kinds: set[str]) -> bool:
        """Whether None is a key whose text is not read back; a float is null where it is NaN."""
        return kinds == {"null"} or (
            self.mode == "validation" and "null" in kinds and "string" not in kinds
        )

    def _forms(self, document: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The members of a union, with references resolved."""
        if "$ref" in document:
            document = self.get_schema_from_definitions(document["$ref"]) or {}
        members = document.get("anyOf") or document.get("oneOf")
        if members is None:
            yield document
        for member in members or ():
            yield from self._forms(member)

    def float_schema(self, schema: Any) -> dict[str, Any]:
        document = super().float_schema(schema)
        if schema.get("allow_inf_nan") is False:
            return document
        if self._config.ser_json_inf_nan == "strings":
            return {"anyOf": [document, {"enum": ["NaN", "Infinity", "-Infinity"]}]}
        if self.mode == "validation":
            return document
        bounds = {"ge", "gt"} & schema.keys() and {"le", "lt"} & schema.keys()
        return document if bounds else {"anyOf": [document, {"type": "null"}]}

    def timedelta_schema(self, schema: Any) -> dict[str, Any]:
        document = super().timedelta_schema(schema)
        if self.mode == "validation" and self._config.ser_json_timedelta == "float":
            return {"anyOf": [document, {"type": "number"}]}
        if self.mode == "serialization" and document.get("format") == "duration":
            # pydantic writes years without months, which the format does not allow.
            return {"type": "string", "description": "a duration in ISO 8601"}
        return document

    def ser_schema(self, schema: Any) -> dict[str, Any] | None:
        document = super().ser_schema(schema)
        function = schema.get("function")
        if document is not None or function is None:
            return document
        name = f"{getattr(function, '__module__', '')}.{getattr(function, '__name__', '')}"
        pydantics = name.startswith("pydantic.") and "secret" not in name
        return None if pydantics else {}  # a serializer without annotation returns anything

    def field_is_required(self, field: Any, total: bool) -> bool:
        aliases = field.get("validation_alias")
        if self.mode == "validation" and isinstance(aliases, list):
            paths = aliases if isinstance(aliases[0], list) else [aliases]
            if min(map(len, paths)) > 1:
                return False  # it is read at a path, which a name cannot express
        return super().field_is_required(field, total)

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> dict[str, Any]:
        raise NoJsonForm(f"{error_info}: declare it with pydantic.WithJsonSchema, or use a codec")

    def encode_default(self, dft: Any) -> Any:
        if isinstance(dft, bytes):
            return to_data_url(dft, "application/octet-stream")
        try:
            json.loads(
                pydantic_core.to_json(dft, inf_nan_mode="constants", fallback=str),
                parse_constant=_not_json,
            )
            return super().encode_default(dft)
        except PydanticSerializationError:
            raise
        except Exception as error:  # the default of a type that pydantic does not know
            raise PydanticSerializationError(str(error)) from None


def _not_json(constant: str) -> None:
    raise PydanticSerializationError(f"{constant} is no JSON")
