"""The fields of a form for a pipeline's arguments, from the JSON schema of its requests."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from mlkit.define.arguments import Arguments, Files
from mlkit.define.border import Port
from mlkit.define.example import example
from mlkit.define.typing import show

__all__ = ["FormField", "fields_of", "outline", "without_null"]

Kind: TypeAlias = Literal["check", "choice", "date", "file", "json", "number", "text"]

_NONE = ("", "")
_MEDIA = {"audio": "sound", "image": "picture", "video": "video"}

_LINE = 40

_DEPTH = 3
"""How deep an outline goes."""


@dataclass(frozen=True, kw_only=True)
class FormField:
    """One field. Values are JSON texts, except for those of texts and dates.

    Attributes:
        name: its name in requests.
        kind: how it is entered; "json" is any value as JSON, or a file with ``accept``.
        type: the parameter's annotation.
        required: whether it has no default.
        description: its purpose.
        initial: the default; "" for none.
        minimum: lower bound of a number, "" for none.
        maximum: upper bound of a number, "" for none.
        whole: whether a number has no decimal places.
        choices: labels and values to choose from.
        accept: content types of files, separated by commas; "" if it takes none.
        many: whether it takes several files.
        url: whether a URL may be entered instead of a file.
        hint: what values look like: an outline of the schema, or bounds.
        example: a value.
    """

    name: str
    kind: Kind
    type: str
    required: bool
    description: str = ""
    initial: str = ""
    minimum: str = ""
    maximum: str = ""
    whole: bool = False
    choices: tuple[tuple[str, str], ...] = ()
    accept: str = ""
    many: bool = False
    url: bool = False
    hint: str = ""
    example: str = ""

    @property
    def medium(self) -> str:
        """What its files are: "picture", "sound", "video" or "file"."""
        kinds = {kind.partition("/")[0] for kind in self.accept.split(",")}
        return _MEDIA.get(kinds.pop(), "file") if len(kinds) == 1 else "file"


def fields_of(arguments: Arguments) -> tuple[FormField, ...]:
    """Return the fields of a pipeline's arguments, in order."""
    schema = arguments.schema.input
    definitions = schema.get("$defs", {})
    properties = _resolved(schema, definitions)["properties"]
    return tuple(
        _field(arguments, key, name, {"description": "", **properties[key]}, definitions)
        for key, name in arguments.names.items()
    )


def _field(
    arguments: Arguments,
    key: str,
    name: str,
    schema: Mapping[str, Any],
    definitions: Mapping[str, Any],
) -> FormField:
    parameter = arguments.parameters[name]
    default = schema.get("default")
    common: dict[str, Any] = {
        "name": key,
        "type": show(parameter.type),
        "required": parameter.required,
        "description": schema["description"][:1].upper() + schema["description"][1:],
    }
    files = arguments.files.get(name)
    if files is not None and files.port.packed_type is None:
        return _file(files, common)
    bare = without_null(schema, definitions)
    common["initial"] = "" if default is None else _json(default)
    nullable = bare != _resolved(schema, definitions) or schema.get("default", ...) is None
    if "enum" in bare or "const" in bare:
        return _choice(bare.get("enum", [bare.get("const")]), common, nullable)
    match bare.get("type"):
        case "boolean" if nullable and not parameter.required:
            return _choice([True, False], common, nullable)
        case "boolean":
            return FormField(kind="check", **common)
        case "integer" | "number" as type_:
            low, high = _bounds(bare)
            return FormField(
                kind="number",
                minimum=low,
                maximum=high,
                whole=type_ == "integer",
                hint=_range(bare),
                **common,
            )
        case "string":
            common["initial"] = default or ""
            kind: Kind = "date" if bare.get("format") == "date" else "text"
            shown = example(bare) if "format" in bare else ""
            return FormField(kind=kind, example=shown, hint=_length(bare), **common)
    hint, accept = outline(bare, definitions), ""
    if files is not None:  # an array or a table
        hint, accept = files.port.schema.get("description", hint), ",".join(files.port.media_types)
        common["description"] = _about(files.port, common["description"])
    return FormField(
        kind="json",
        hint=hint,
        example=_sample(example({**_undefaulted(bare), "$defs": definitions})),
        accept=accept,
        **common,
    )


def _file(files: Files, common: Mapping[str, Any]) -> FormField:
    accept = "" if files.port.media_types == ["*/*"] else ",".join(files.port.media_types)
    return FormField(
        kind="file",
        accept=accept or "*/*",
        many=files.many,
        url=not files.many,
        **{**common, "description": _about(files.port, common["description"])},
    )


def _about(target: Port, description: str) -> str:
    """The description of a parameter, without the JSON form of its type."""
    form = str(target.schema.get("description", ""))
    about = description.removesuffix(form).removesuffix(": ") if form else description
    if "data: URL" in about:
        about = about.rpartition(": an http(s) or ")[0]
    return about if not about or about.endswith((".", "?", "!")) else f"{about}."


def _choice(values: list[Any], common: Mapping[str, Any], nullable: bool) -> FormField:
    choices = tuple((v if isinstance(v, str) else _json(v), _json(v)) for v in values)
    return FormField(kind="choice", choices=((_NONE,) if nullable else ()) + choices, **common)


def _bounds(schema: Mapping[str, Any]) -> tuple[str, str]:
    low = schema.get("minimum", schema.get("exclusiveMinimum", ""))
    high = schema.get("maximum", schema.get("exclusiveMaximum", ""))
    return str(low), str(high)


def _range(schema: Mapping[str, Any]) -> str:
    """The bounds of a number in words."""
    low, high = _bounds(schema)
    if low and high and not {"exclusiveMinimum", "exclusiveMaximum"} & set(schema):
        return f"{low} to {high}"
    parts = []
    if low:
        parts.append(f"{'at least' if 'minimum' in schema else 'above'} {low}")
    if high:
        parts.append(f"{'at most' if 'maximum' in schema else 'below'} {high}")
    return ", ".join(parts)


def _length(schema: Mapping[str, Any]) -> str:
    most = schema.get("maxLength")
    return "" if most is None else f"at most {most:,} characters"


def _resolved(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """Resolve a reference; keywords next to it are kept."""
    while "$ref" in schema:
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        schema = {**definitions[schema["$ref"].rpartition("/")[2]], **beside}
    return schema


def without_null(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a schema without the alternatives null and NaN, if one other is left."""
    schema = _resolved(schema, definitions)
    options = [s for s in schema.get("anyOf", ()) if s.get("type") != "null" and not _is_nan(s)]
    return without_null(options[0], definitions) if len(options) == 1 else schema


def _is_nan(schema: Mapping[str, Any]) -> bool:
    return "NaN" in schema.get("enum", ())


def outline(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """Describe what matches a JSON schema: ``{name: string, sizes?: [number]}``."""
    return _outline(schema, definitions, 0)


def _outline(schema: Mapping[str, Any], definitions: Mapping[str, Any], depth: int) -> str:
    schema = _resolved(schema, definitions)
    if depth > _DEPTH:
        return "…"
    if "enum" in schema or "const" in schema:
        return " | ".join(map(_json, schema.get("enum", [schema.get("const")])))
    options = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    if options:
        described = [_outline(s, definitions, depth) for s in options if not _is_nan(s)]
        return " | ".join(dict.fromkeys(described))
    match schema.get("type"):
        case "object":
            return f"{{{', '.join(_members(schema, definitions, depth + 1))}}}"
        case "array":
            fixed = [_outline(s, definitions, depth + 1) for s in schema.get("prefixItems", ())]
            repeated = schema.get("items")
            if not fixed and isinstance(repeated, Mapping):
                fixed = [_outline(repeated, definitions, depth + 1), "…"]
            return f"[{', '.join(fixed)}]"
        case str() as type_:
            return schema.get("format", type_) if type_ == "string" else type_
    return "any"


def _members(
    schema: Mapping[str, Any], definitions: Mapping[str, Any], depth: int
) -> Iterator[str]:
    required = schema.get("required", ())
    for name, member in schema.get("properties", {}).items():
        mark = "" if name in required else "?"
        yield f"{name}{mark}: {_outline(member, definitions, depth)}"
    more = schema.get("additionalProperties")
    if isinstance(more, Mapping):
        yield f"…: {_outline(more, definitions, depth)}"


def _undefaulted(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    return {key: value for key, value in schema.items() if key != "default"}


def _sample(value: Any) -> str:
    """JSON on one line, if it is short."""
    line = _json(value)
    return line if len(line) <= _LINE else json.dumps(value, indent=2, ensure_ascii=False)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
