"""Example values of JSON schemas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["example"]

Schema = Mapping[str, Any]

_PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ"
    "/pLvAAAAAElFTkSuQmCC"
)
"""A picture of one pixel."""

_FORMATS = {
    "date": "2026-01-01",
    "date-time": "2026-01-01T00:00:00Z",
    "duration": "PT1S",
    "email": "name@example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "::1",
    "time": "00:00:00Z",
    "uri": "https://example.com",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "uuid4": "00000000-0000-4000-8000-000000000000",
}


def example(schema: Schema) -> Any:
    """Return a value that matches a JSON schema, with required fields only.

    Patterns are not considered. A schema that allows anything gets a number.
    """
    return _example(schema, schema.get("$defs", {}), frozenset())


def _example(schema: Schema, definitions: Schema, inside: frozenset[str]) -> Any:
    """Return an example; ``inside`` has the references being followed, which end a recursion."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return _example(definitions[name], definitions, inside | {name})
    for value in _stated(schema):
        return value
    for keyword in ("anyOf", "oneOf", "allOf"):
        if options := schema.get(keyword):
            ends = [option for option in options if not _recurs(option, inside)]
            values = [option for option in ends if option.get("type") != "null"]
            return _example((values or ends or options)[0], definitions, inside)
    match schema.get("type"):
        case "object":
            properties = schema.get("properties", {})
            return {
                name: _example(properties.get(name, {}), definitions, inside)
                for name in schema.get("required", ())
            }
        case "array":
            return _items(schema, definitions, inside)
    return _scalar(schema)


def _stated(schema: Schema) -> list[Any]:
    """Values that the schema itself has."""
    stated = [schema[keyword] for keyword in ("const", "default") if keyword in schema]
    return [*stated, *schema.get("examples", ()), *schema.get("enum", ())]


def _items(schema: Schema, definitions: Schema, inside: frozenset[str]) -> list[Any]:
    if "prefixItems" in schema:
        return [_example(item, definitions, inside) for item in schema["prefixItems"]]
    items = schema.get("items", {})
    if _recurs(items, inside):
        return []
    return [_example(items, definitions, inside)] * max(1, schema.get("minItems", 1))


def _recurs(schema: Schema, inside: frozenset[str]) -> bool:
    return str(schema.get("$ref", "")).rpartition("/")[2] in inside


def _scalar(schema: Schema) -> Any:
    match schema.get("type"):
        case "string":
            return _text(schema)
        case "integer":
            return int(_number(schema))
        case "boolean":
            return True
        case "null":
            return None
    return _number(schema)


def _text(schema: Schema) -> str:
    if "data: URL" in schema.get("description", ""):
        return _PIXEL
    text = _FORMATS.get(schema.get("format", ""), "text")
    return text.ljust(schema.get("minLength", 0), "x")[: schema.get("maxLength")]


def _number(schema: Schema) -> float:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is None:
        value = 1 if high is None or high > 1 else high - 1
    else:
        value = low + 1 if high is None or high > low + 1 else (low + high) / 2
    factor = schema.get("multipleOf")
    return value if factor is None else factor * -(-value // factor)
