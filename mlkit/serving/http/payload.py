"""Parsing of requests: JSON, multipart or a raw body to arguments by name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field, ValidationError, create_model
from pydantic.fields import FieldInfo
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from mlkit.define.border import Port, port
from mlkit.define.docstring import words
from mlkit.define.graph import Graph, Parameter
from mlkit.errors import InputError, PayloadTooLarge, UnsupportedMedia
from mlkit.fetch import fetch
from mlkit.serving.http.observer import Headers, length_of
from mlkit.serving.http.problem import errors_of

__all__ = ["Invalid", "Payloads", "from_route"]

JSON = "application/json"
FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


class Invalid(InputError):
    """A request that fails validation; ``errors`` lists the invalid fields."""

    def __init__(self, message: str, errors: list[dict[str, Any]] | None = None) -> None:
        super().__init__(message)
        self.errors = errors


class Payloads:
    """Parses the requests of a pipeline.

    Attributes:
        parameters: parameters of the pipeline by name.
        ports: conversions of their types, by name.
        max_body_bytes: maximum length of a body in bytes.
        model: pydantic model of the JSON body.
        uploads: parameters that can be uploaded as files.
        upload: the one parameter that a raw body is the value of, or None.
    """

    def __init__(self, graph: Graph, max_body_bytes: int) -> None:
        self.parameters = {p.name: p for p in graph.parameters}
        self.ports = {p.name: port(p.type) for p in graph.parameters}
        self.max_body_bytes = max_body_bytes
        self.model = _model(graph, self.ports)
        self.uploads = [name for name, p in self.ports.items() if p.from_bytes is not None]
        self._required = {name for name, p in self.parameters.items() if p.required}
        alone = len(self.uploads) == 1 and self._required <= set(self.uploads)
        self.upload = self.uploads[0] if alone else None

    async def read(self, request: Request, headers: Headers) -> dict[str, Any]:
        """Read the arguments of a request, by name.

        Raises:
            Invalid: a field is missing or has the wrong type.
            UnsupportedMedia: the content type is not supported.
            PayloadTooLarge: the body exceeds the limit.
        """
        content_type = headers.get(b"content-type", b"").decode("latin-1")
        kind = content_type.partition(";")[0].strip().lower()
        if request._form is not None:  # a dependency of the user's application has read it
            return await self._from_form(request, b"")
        body = await self._body(request, length_of(headers))
        if not body and self.parameters and (kind != JSON or self._required):
            raise Invalid("the body is empty")
        if kind == JSON or kind.endswith("+json"):
            return await self._from_json(body)
        if kind in FORMS:
            return await self._from_form(request, body)
        if self.upload is not None and _matches(kind, self.ports[self.upload].media_type):
            return await self._assemble(dict(request.query_params), {self.upload: body})
        supported = [JSON, *([self.ports[self.upload].media_type] if self.upload else ())]
        supported += ["multipart/form-data"] if self.uploads else []
        raise UnsupportedMedia(
            "unsupported content type", expected=" or ".join(supported), got=kind or "none"
        )

    async def _body(self, request: Request, declared: int) -> bytes:
        # Starlette's RequestBodyLimitMiddleware responds in plain text, and takes 7 µs, this one 3.
        limit = self.max_body_bytes
        if declared > limit:
            raise _too_large(limit)
        parts: list[bytes] = []
        size = 0
        try:
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise _too_large(limit)
                parts.append(part)
        except HTTPException as error:  # the user's FastAPI application has a limit of its own
            raise PayloadTooLarge("the body exceeds the application's limit") from error
        return b"".join(parts)

    async def _from_json(self, body: bytes) -> dict[str, Any]:
        try:
            values = self.model.model_validate_json(body) if body else self.model()
        except ValidationError as error:
            raise _invalid(error) from None
        arguments = {name: getattr(values, name) for name in values.model_fields_set}
        for name, value in arguments.items():
            upload = self.ports[name]
            if upload.from_bytes is not None and not upload.url and _is_web_url(value):
                arguments[name] = await _decoded(upload, await fetch(value))
            elif upload.converts:
                arguments[name] = self._value(name, value)
        return arguments

    async def _from_form(self, request: Request, body: bytes) -> dict[str, Any]:
        request._body = body
        uploads: dict[str, bytes] = {}
        fields: dict[str, Any] = {}
        try:
            async with request.form(max_part_size=self.max_body_bytes) as form:
                for name, value in form.multi_items():
                    if isinstance(value, UploadFile):
                        await value.seek(0)
                        uploads[name] = await value.read()
                    else:
                        fields[name] = value
        except (HTTPException, MultiPartException) as error:
            reason = error.detail if isinstance(error, HTTPException) else error.message
            raise Invalid(f"the form cannot be parsed: {reason}") from None
        return await self._assemble(fields, uploads)

    async def _assemble(self, fields: dict[str, Any], uploads: dict[str, bytes]) -> dict[str, Any]:
        """Validate text fields and uploads; the text of a structured field is JSON."""
        for name in uploads:
            if name not in self.uploads:
                raise Invalid(
                    f"{name!r} is not a file",
                    [{"loc": ["body", name], "msg": "not a file", "type": "file"}],
                )
        loaded = {name: self._loaded(name, text) for name, text in fields.items()}
        try:
            values = self.model.model_validate({**loaded, **dict.fromkeys(uploads, "data:,")})
        except ValidationError as error:
            raise _invalid(error) from None
        arguments = {
            name: self._value(name, getattr(values, name))
            for name in values.model_fields_set
            if name not in uploads
        }
        for name, data in uploads.items():
            if not data:
                raise Invalid(f"the file {name!r} is empty")
            arguments[name] = await _decoded(self.ports[name], data)
        return arguments

    def _loaded(self, name: str, text: str) -> Any:
        field = self.ports.get(name)
        if field is None or field.schema.get("type") not in ("object", "array", None):
            return text
        try:
            return json.loads(text)
        except ValueError:
            return text

    def _value(self, name: str, value: Any) -> Any:
        field = self.ports[name]
        if not field.converts:
            return value
        parameter = self.parameters[name]
        if value is None and not parameter.required and parameter.default is None:
            return None  # like a missing field, even if its type excludes None
        try:
            return field.from_json(value)
        except InputError as error:
            if error.status != InputError.status:
                raise
            errors = [{"loc": ["body", name], "msg": str(error), "type": "value_error"}]
            raise Invalid(f"{name!r}: {error}", errors) from None


async def _decoded(target: Port, data: bytes) -> Any:
    """Decode an upload; images are decoded in a thread."""
    assert target.from_bytes is not None
    if target.type is bytes or target.url:
        return target.from_bytes(data)
    return await asyncio.to_thread(target.from_bytes, data)


def _is_web_url(value: Any) -> bool:
    return isinstance(value, str) and value.lower().startswith(("http://", "https://"))


async def from_route(target: Port, value: Any) -> Any:
    """Convert a value that a route of the user's passes to a pipeline.

    Raises:
        InputError: the value is invalid.
    """
    if target.from_bytes is not None and isinstance(value, (bytes, bytearray, memoryview)):
        return await _decoded(target, bytes(value))
    if target.from_bytes is None or not isinstance(value, str):
        return target.local(value)
    if target.url or not _is_web_url(value):  # never a path: it would refer to the server's files
        return target.from_json(value)
    return await _decoded(target, await fetch(value))


def _model(graph: Graph, ports: Mapping[str, Port]) -> type[BaseModel]:
    described = words(graph.doc).arguments
    fields: dict[str, Any] = {
        p.name: _field(p, ports[p.name], described.get(p.name)) for p in graph.parameters
    }
    title = "".join(part.capitalize() for part in graph.name.split("_")) + "Request"
    return create_model(title, **fields)


def _field(parameter: Parameter, target: Port, description: str | None) -> tuple[Any, Any]:
    default = ... if parameter.required else parameter.default
    if not target.converts:
        own = [m for m in getattr(parameter.type, "__metadata__", ()) if isinstance(m, FieldInfo)]
        if description is None or any(mark.description for mark in own):
            return parameter.type, Field(default)
        return parameter.type, Field(default, description=description)
    type_ = str if target.schema.get("type") == "string" else Any
    schema = dict(target.schema)
    if description is not None:  # the schema's own describes the type
        of_type = schema.get("description")
        schema["description"] = f"{description.rstrip('.')}: {of_type}" if of_type else description
    return type_, Field(default, json_schema_extra=schema)


def _matches(kind: str, pattern: str) -> bool:
    return kind == pattern or (pattern.endswith("/*") and kind.startswith(pattern[:-1]))


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge("the body is too large", expected=f"at most {limit:,} bytes")


def _invalid(error: ValidationError) -> Invalid:
    errors = errors_of(error.errors(include_url=False, include_input=False), "body")
    first = errors[0]
    where = ".".join(map(str, first["loc"][1:])) or "body"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return Invalid(f"{where}: {first['msg']}{more}", errors)
