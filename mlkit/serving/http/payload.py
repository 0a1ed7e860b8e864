"""Requests in: JSON, multipart or a raw body, to arguments by name."""

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
    """A request that does not validate; ``errors`` has it field by field."""

    def __init__(self, what: str, errors: list[dict[str, Any]] | None = None) -> None:
        super().__init__(what)
        self.errors = errors


class Payloads:
    """What a pipeline's parameters look like in a request, and how to read them.

    Attributes:
        model: pydantic model of the JSON body.
        upload: the one parameter whose value can be a whole body, or None.
    """

    def __init__(self, graph: Graph, max_body_bytes: int) -> None:
        self.parameters = {p.name: p for p in graph.parameters}
        self.ports = {p.name: port(p.type) for p in graph.parameters}
        self.max_body_bytes = max_body_bytes
        self.model = _model(graph, self.ports)
        self.uploads = [name for name, p in self.ports.items() if p.from_bytes is not None]
        required = [name for name, p in self.parameters.items() if p.required]
        alone = len(self.uploads) == 1 and set(required) <= set(self.uploads)
        self.upload = self.uploads[0] if alone else None

    async def read(self, request: Request, headers: Headers) -> dict[str, Any]:
        """Arguments by name.

        Raises:
            Invalid: a field is missing or of the wrong type.
            UnsupportedMedia: a content type that is not taken.
            PayloadTooLarge: a body over the limit.
        """
        named = headers.get(b"content-type", b"").decode("latin-1")
        kind = named.partition(";")[0].strip().lower()
        body = await self._body(request, length_of(headers))
        if not body and self.parameters and not (kind == JSON and not self._required()):
            raise Invalid("the body is empty")
        if kind == JSON or kind.endswith("+json"):
            return await self._from_json(body)
        if kind in FORMS:
            return await self._from_form(request, body)
        if self.upload is not None and _matches(kind, self.ports[self.upload].media_type):
            return await self._from_raw(self.upload, body, request.query_params)
        raise UnsupportedMedia(
            "this content type is not taken",
            expected=" or ".join(self.media_types()),
            got=kind or "none",
        )

    def media_types(self) -> list[str]:
        """Content types that are taken."""
        raw = [self.ports[self.upload].media_type] if self.upload else []
        return [JSON, *raw, *(["multipart/form-data"] if self.uploads else [])]

    def _required(self) -> bool:
        return any(p.required for p in self.parameters.values())

    async def _body(self, request: Request, declared: int) -> bytes:
        # Starlette's RequestBodyLimitMiddleware answers in plain text, and takes 7 µs for these 3.
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
                        uploads[name] = await value.read()
                    else:
                        fields[name] = value
        except (HTTPException, MultiPartException) as error:
            why = error.detail if isinstance(error, HTTPException) else error.message
            raise Invalid(f"the form cannot be read: {why}") from None
        return await self._assemble(fields, uploads)

    async def _from_raw(self, name: str, body: bytes, query: Mapping[str, str]) -> dict[str, Any]:
        return await self._assemble(dict(query), {name: body})

    async def _assemble(self, fields: dict[str, Any], uploads: dict[str, bytes]) -> dict[str, Any]:
        """Text fields and uploads as arguments; text of a structured field is JSON."""
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
        found = self.ports.get(name)
        if found is None or found.schema.get("type") not in ("object", "array", None):
            return text
        try:
            return json.loads(text)
        except ValueError:
            return text

    def _value(self, name: str, value: Any) -> Any:
        found = self.ports[name]
        if not found.converts:
            return value
        parameter = self.parameters[name]
        if value is None and not parameter.required and parameter.default is None:
            return None  # as if it were not there, whatever its type says
        try:
            return found.from_json(value)
        except InputError as error:
            if error.status != InputError.status:
                raise
            at = [{"loc": ["body", name], "msg": str(error), "type": "value_error"}]
            raise Invalid(f"{name!r}: {error}", at) from None


async def _decoded(found: Port, data: bytes) -> Any:
    """The value of an upload; the loop goes on while a picture is decoded."""
    assert found.from_bytes is not None
    if found.type is bytes or found.url:
        return found.from_bytes(data)
    return await asyncio.to_thread(found.from_bytes, data)


def _is_web_url(value: Any) -> bool:
    return isinstance(value, str) and value.lower().startswith(("http://", "https://"))


async def from_route(found: Port, value: Any) -> Any:
    """A value that a route of the user's passes to a pipeline, as the pipeline takes it.

    Raises:
        InputError: it does not fit.
    """
    if found.from_bytes is not None and isinstance(value, (bytes, bytearray, memoryview)):
        return await _decoded(found, bytes(value))
    if found.from_bytes is None or not isinstance(value, str):
        return found.local(value)
    if found.url or not _is_web_url(value):  # a path would be the server's
        return found.from_json(value)
    return await _decoded(found, await fetch(value))


def _model(graph: Graph, ports: Mapping[str, Port]) -> type[BaseModel]:
    said = words(graph.doc).arguments
    fields: dict[str, Any] = {
        p.name: _field(p, ports[p.name], said.get(p.name)) for p in graph.parameters
    }
    title = "".join(part.capitalize() for part in graph.name.split("_")) + "Request"
    return create_model(title, **fields)


def _field(parameter: Parameter, found: Port, said: str | None) -> tuple[Any, Any]:
    default = ... if parameter.required else parameter.default
    if not found.converts:
        own = [m for m in getattr(parameter.type, "__metadata__", ()) if isinstance(m, FieldInfo)]
        if said is None or any(mark.description for mark in own):
            return parameter.type, Field(default)
        return parameter.type, Field(default, description=said)
    type_ = str if found.schema.get("type") == "string" else Any
    schema = dict(found.schema)
    if said is not None:  # of this argument; the schema's own is of its type
        kind = schema.get("description")
        schema["description"] = f"{said.rstrip('.')}: {kind}" if kind else said
    return type_, Field(default, json_schema_extra=schema)


def _matches(kind: str, taken: str) -> bool:
    return kind == taken or (taken.endswith("/*") and kind.startswith(taken[:-1]))


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge("the body is too large", expected=f"at most {limit:,} bytes")


def _invalid(error: ValidationError) -> Invalid:
    errors = errors_of(error.errors(include_url=False, include_input=False), "body")
    first = errors[0]
    where = ".".join(map(str, first["loc"][1:])) or "body"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return Invalid(f"{where}: {first['msg']}{more}", errors)
