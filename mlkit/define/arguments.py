"""The arguments of a pipeline as one JSON object."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, NotRequired

from typing_extensions import TypedDict

from mlkit.define.border import port
from mlkit.define.docstring import words
from mlkit.define.graph import Graph, Parameter, Problem
from mlkit.define.nodes import Ported
from mlkit.define.port import Port, plain
from mlkit.define.registry import own_port
from mlkit.define.schema import Schema
from mlkit.define.source import brief
from mlkit.define.typing import UNIONS, item_type, show, strip, unaliased

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

__all__ = ["Arguments", "Files", "WebURL", "problems"]


class WebURL(str):
    """An http(s) URL in the place of an upload, to be fetched before the pipeline runs."""

    __slots__ = ()


@dataclass(frozen=True)
class Files:
    """A parameter that may be uploaded.

    Attributes:
        port: of one file.
        many: whether it takes several files.
    """

    port: Port
    many: bool


class Arguments:
    """Ports of a pipeline's parameters, and the schema of its JSON body.

    Attributes:
        title: name of the schema.
        parameters: parameters of the pipeline by name.
        names: their names, by their names in requests: aliases.
        keys: their names in requests, by name.
        ports: ports of their types, by name.
        files: those that can be uploaded.
        raw: the one parameter that a raw body is the value of, the others being in the query; None
            if others are required, too.
        schema: validates the JSON object and documents it.
    """

    def __init__(self, graph: Graph) -> None:
        described = words(graph.doc).arguments
        self.title = "".join(part.capitalize() for part in graph.name.split("_")) + "Request"
        self.parameters = {p.name: p for p in graph.parameters}
        self.keys = {p.name: _alias(p) for p in graph.parameters}
        self.names = {key: name for name, key in self.keys.items()}
        self.ports = {p.name: port(p.type) for p in graph.parameters}
        uploads = {p.name: _files(p.type) for p in graph.parameters}
        self.files = {name: files for name, files in uploads.items() if files is not None}
        required = {p.name for p in graph.parameters if p.required}
        single = [name for name, files in self.files.items() if not files.many]
        first = [name for name in single if name in required] or single
        self.raw = first[0] if len(first) == 1 and required <= {first[0]} else None
        fields: dict[str, Any] = {
            p.name: _field(p, self.ports[p.name], described.get(p.name)) for p in graph.parameters
        }
        self.schema = Schema(TypedDict(self.title, fields), own_port)  # type: ignore[operator]

    def field(self, name: str) -> Port:
        """Port of a parameter's text in a form or a query."""
        target = self.ports[name]
        return _fetched(target) if _is_fetched(target) else target

    def is_text(self, name: str) -> bool:
        """Whether a parameter may be text."""
        schema = self.ports[name].schema
        return "string" in _json_types(schema, schema.get("$defs", {}))

    def is_list(self, name: str) -> bool:
        """Whether a parameter may be a list."""
        schema = self.ports[name].schema
        return "array" in _json_types(schema, schema.get("$defs", {}))

    def is_list_of_text(self, name: str) -> bool:
        """Whether a parameter may be a list whose items may be text."""
        schema = self.ports[name].schema
        definitions = schema.get("$defs", {})
        return any(
            "string" in _json_types(items, definitions)
            for alternative in _alternatives(schema, definitions)
            if isinstance(items := alternative.get("items"), Mapping)
        )


def _alternatives(
    schema: Mapping[str, Any], definitions: Mapping[str, Any]
) -> Iterator[Mapping[str, Any]]:
    """A JSON schema and its alternatives."""
    yield schema
    nested = [s for key in ("anyOf", "oneOf", "allOf") for s in schema.get(key, ())]
    if "$ref" in schema:
        nested.append(definitions.get(schema["$ref"].rpartition("/")[2], {}))
    for alternative in nested:
        yield from _alternatives(alternative, definitions)


def _json_types(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> set[str]:
    """Types that a JSON schema allows, its alternatives included."""
    types: set[str] = set()
    for alternative in _alternatives(schema, definitions):
        values = {type(value).__name__ for value in alternative.get("enum", ())}
        types |= {"string"} if values == {"str"} else set()
        types |= {alternative["type"]} if "type" in alternative else set()
    return types


def problems(graph: Graph) -> Iterator[Problem]:
    """Parameters that have other names or defaults in requests than a pipeline can tell."""
    where, names = f"pipeline {graph.name!r}", [_alias(p) for p in graph.parameters]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Problem(
            where, f"two parameters are named {name!r} in requests", fix="change an alias"
        )
    for parameter in graph.parameters:
        for mark in _marks(parameter.type):
            subject = f"the argument {parameter.name!r}"
            if not isinstance(mark.validation_alias or "", str):
                yield Problem(
                    where,
                    f"{subject} has several names in requests",
                    got=repr(mark.validation_alias),
                    fix="give it one: Field(alias=...)",
                )
            if not mark.is_required():
                yield Problem(
                    where,
                    f"{subject} has a default in its annotation, which Python ignores",
                    fix="write it after the annotation: "
                    f"{parameter.name}: {show(parameter.type)}{_assigned(mark)}",
                )
        if not parameter.required:
            yield from _no_value(where, parameter.name, parameter.type, parameter.default)
    for step in {node.step.name: node.step for node in graph}.values():
        for name, taken in step.parameters.items():
            yield from _no_value(f"step {step.name!r}", name, step.hints.get(name), taken.default)


def _no_value(where: str, name: str, type_: Any, default: Any) -> Iterator[Problem]:
    """A `Field` as the default of a parameter, which is one in models and routes only."""
    from pydantic.fields import FieldInfo

    if isinstance(default, FieldInfo):
        kind = type(default).__name__.removesuffix("Info")
        yield Problem(
            where,
            f"the default of {name!r} is a {kind}(...), and not a value",
            fix="move it into the annotation: "
            f"{name}: Annotated[{show(type_)}, {kind}(...)]{_assigned(default)}",
        )


def _assigned(mark: FieldInfo) -> str:
    """The default of a `Field` as source code, after an annotation."""
    if mark.is_required():
        return ""
    return " = ..." if mark.default_factory is not None else f" = {brief(mark.default)}"


def _marks(annotation: Any) -> Iterator[FieldInfo]:
    """The `Field` and such of an annotation, those of the types that it names included."""
    from pydantic.fields import FieldInfo

    annotation = unaliased(annotation)
    while typing.get_origin(annotation) is Annotated:
        yield from (m for m in annotation.__metadata__ if isinstance(m, FieldInfo))
        annotation = unaliased(annotation.__origin__)


def _alias(parameter: Parameter) -> str:
    """Name of a parameter in requests."""
    from pydantic.fields import FieldInfo

    marks = [m for m in getattr(parameter.type, "__metadata__", ()) if isinstance(m, FieldInfo)]
    aliases = [mark.validation_alias or mark.alias for mark in marks]
    return next((a for a in reversed(aliases) if isinstance(a, str)), parameter.name)


def _is_fetched(target: Port) -> bool:
    """Whether the server fetches a URL that is passed for an upload."""
    return target.to_bytes is not None and not target.url and target.pydantic is None


def _field(parameter: Parameter, target: Port, description: str | None) -> Any:
    """Type of a field: with its description, and not required if it has a default."""
    from pydantic import Field
    from pydantic.fields import FieldInfo

    type_ = parameter.type
    if _is_fetched(target):
        type_ = Annotated[Any, Ported(_fetched(target))]
    if not parameter.required and parameter.default is None:
        type_ = type_ | None  # null is like a missing field, whatever the type says
    own = [m for m in getattr(parameter.type, "__metadata__", ()) if isinstance(m, FieldInfo)]
    if description is not None and not any(mark.description for mark in own):
        of_type = _fetched(target).schema.get("description") if target.to_bytes else None
        whole = f"{description.rstrip('.')}: {of_type}" if of_type else description
        type_ = Annotated[type_, Field(description=whole)]
    if (alias := _alias(parameter)) != parameter.name:  # also of a union with None, or an upload
        type_ = Annotated[type_, Field(validation_alias=alias)]
    if parameter.required:
        return type_
    return NotRequired[Annotated[type_, _Default(parameter.default, target)]]


@dataclass(frozen=True, eq=False)
class _Default:
    """Documents the default of a parameter, which the pipeline itself fills in."""

    value: Any
    port: Port

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> Any:
        schema = handler(core)
        try:
            default = None if self.value is None else self.port.to_json(self.value)
            text = json.dumps(default, default=plain, allow_nan=False)
            return {**schema, "default": json.loads(text)}
        except Exception:  # of another type than annotated
            return schema


def _fetched(target: Port) -> Port:
    """Accept a URL that is to be fetched in place of an upload."""

    def from_json(value: Any) -> Any:
        if isinstance(value, str) and value.lower().startswith(("http://", "https://")):
            return WebURL(value)
        return target.from_json(value)

    schema = dict(target.schema)
    if schema.get("type") == "string":
        described = str(schema.get("description", "a data: URL"))
        schema["description"] = described.replace("a data: URL", "an http(s) or data: URL", 1)
        schema.pop("pattern", None)
    return replace(target, from_json=from_json, schema=schema)


def _files(annotation: Any) -> Files | None:
    """How a parameter is uploaded: one file, or several for a list; None if it is not."""
    bare = strip(annotation)
    if typing.get_origin(bare) in UNIONS:
        members = [a for a in typing.get_args(bare) if a is not type(None)]
        if len(members) == 1:
            return _files(members[0])
    own = own_port(annotation)
    if own is not None:
        return Files(own, many=False) if own.to_bytes is not None else None
    item = item_type(annotation)
    own = None if item in (typing.Any,) or not typing.get_args(bare) else own_port(item)
    return Files(own, many=True) if own is not None and own.to_bytes is not None else None
