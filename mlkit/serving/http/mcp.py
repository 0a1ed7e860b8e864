"""The Model Context Protocol: the pipelines of an app as tools for assistants, at ``POST /mcp``.

It is the transport "Streamable HTTP" without sessions and streams: each message is a request of its
own, answered with JSON. Versions up to 2025-11-25 begin with ``initialize``; since 2026-07-28 each
message names its version instead.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from fastapi import FastAPI
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Send

from mlkit.define.port import json_text
from mlkit.errors import MlkitError
from mlkit.serving.http import problem
from mlkit.serving.http.observer import Headers
from mlkit.serving.http.results import JSON
from mlkit.serving.http.tools import CallPayloads, CallResults, Tool, failed

__all__ = ["MODERN", "VERSIONS", "add_tools"]

Handle: TypeAlias = Callable[[Request, Send], Awaitable[None]]

MODERN = "2026-07-28"
"""The version without ``initialize``."""

_WITH_HANDSHAKE = ("2025-11-25", "2025-06-18")

VERSIONS = (MODERN, *_WITH_HANDSHAKE)
"""Supported versions of the protocol, the newest first."""

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
HEADER_MISMATCH = -32020
UNSUPPORTED_VERSION = -32022

_META = "io.modelcontextprotocol/"
_LIST_LIFE_MS = 60_000
"""How long clients may keep the list of tools: a deployment can change it."""


class _Refused(Exception):
    """A message that is answered with an error of the protocol.

    Attributes:
        code: of JSON-RPC, or of the protocol.
        status: of HTTP.
        data: further members of the error.
    """

    def __init__(self, code: int, text: str, status: int = 400, **data: Any) -> None:
        super().__init__(text)
        self.code = code
        self.status = status
        self.data = data


@dataclass(frozen=True)
class _Message:
    """A request, or a notification, which has no id.

    Attributes:
        modern: whether it names the version itself.
    """

    method: str
    id: int | float | str | None
    params: Mapping[str, Any] = field(default_factory=dict)
    modern: bool = False


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        document = from_json(body)
    except ValueError as error:
        raise _Refused(PARSE_ERROR, f"the body is not JSON: {error}") from None
    if not isinstance(document, dict) or document.get("jsonrpc") != "2.0":
        raise _Refused(INVALID_REQUEST, "the body is not one message of JSON-RPC 2.0")
    return document


def _id_of(document: Mapping[str, Any]) -> int | float | str | None:
    id = document.get("id")
    is_valid = isinstance(id, (int, float, str)) and not isinstance(id, bool)
    if "id" in document and not is_valid:
        raise _Refused(INVALID_REQUEST, "the id is neither a text nor a number")
    return id if is_valid else None


def _message(document: Mapping[str, Any], headers: Headers) -> _Message:
    id, method, params = _id_of(document), document.get("method"), document.get("params", {})
    if not isinstance(method, str):
        raise _Refused(INVALID_REQUEST, "the message has no method")
    if not isinstance(params, dict):
        raise _Refused(INVALID_PARAMS, "the parameters are no object")
    meta = params.get("_meta", {})
    named = meta.get(f"{_META}protocolVersion") if isinstance(meta, dict) else None
    message = _Message(method, id, params, modern=named is not None)
    if id is not None:  # what headers a notification has is not defined
        _check_version(named, _header(headers, "mcp-protocol-version"))
        if message.modern:
            _check_headers(message, headers)
    return message


def _check_version(named: Any, header: str | None) -> None:
    """Check the version that a message names in its body, and in its header."""
    if named is not None and named != header:
        raise _mismatch("MCP-Protocol-Version", header, named)
    if header == MODERN and named is None:
        raise _mismatch("MCP-Protocol-Version", header, named)
    supported = (MODERN,) if named is not None else (None, *_WITH_HANDSHAKE)
    if header not in supported:
        raise _Refused(
            UNSUPPORTED_VERSION,
            f"unsupported protocol version {header!r}",
            supported=list(VERSIONS),
            requested=header,
        )


def _check_headers(message: _Message, headers: Headers) -> None:
    """Check the headers that repeat parts of the message for gateways."""
    method = _header(headers, "mcp-method")
    if method != message.method:
        raise _mismatch("Mcp-Method", method, message.method)
    if message.method == "tools/call":
        name = _header(headers, "mcp-name")
        if _decoded(name) != message.params.get("name"):
            raise _mismatch("Mcp-Name", name, message.params.get("name"))


def _header(headers: Headers, name: str) -> str | None:
    value = headers.get(name.encode())
    return None if value is None else value.decode("latin-1").strip()


def _decoded(value: str | None) -> str | None:
    """The text of a header; text that is not ASCII is in Base64."""
    if value is None or not (value.startswith("=?base64?") and value.endswith("?=")):
        return value
    try:
        return base64.b64decode(value[len("=?base64?") : -len("?=")], validate=True).decode()
    except ValueError:
        return None


def _mismatch(name: str, header: Any, body: Any) -> _Refused:
    return _Refused(HEADER_MISMATCH, f"header mismatch: {name} is {header!r}, in the body {body!r}")


@dataclass(frozen=True)
class _Server:
    """Answers messages.

    Attributes:
        name: of the app.
        version: of the app.
        tools: its pipelines, by name.
    """

    name: str
    version: str
    tools: Mapping[str, Tool]

    async def answer(self, request: Request, send: Send) -> None:
        headers: Headers = dict(request.scope["headers"])
        document: Mapping[str, Any] = {}
        try:
            # As large as that of any pipeline: which one it is for, the body says.
            body = await self.tools[self.name].payloads.body(request, headers)
            document = _parsed(body)
            message = None if _is_response(document) else _message(document, headers)
            if message is not None and message.method == "tools/call" and message.id is not None:
                await self._call(message, request, send)
                return
            response = self._response(message)
        except _Refused as refused:
            response = _error(document, refused)
        except (ClientDisconnect, HTTPException, MlkitError) as error:
            response = problem.of_error(error, self.name, problem.Failures())
        await response(request.scope, request.receive, send)

    def _response(self, message: _Message | None) -> Response:
        if message is None or message.id is None:
            return Response(status_code=202)
        return Response(self._reply(message, self._result(message)), media_type=JSON)

    def _result(self, message: _Message) -> dict[str, Any]:
        match message.method, message.modern:
            case "initialize", False:
                asked = message.params.get("protocolVersion")
                version = asked if asked in _WITH_HANDSHAKE else _WITH_HANDSHAKE[0]
                return {"protocolVersion": version, **self._abilities, "serverInfo": self._info}
            case "server/discover", True:
                return {"supportedVersions": list(VERSIONS), **self._abilities, **_cached()}
            case "ping", False:
                return {}
            case "tools/list", modern:
                tools = [tool.description for tool in self.tools.values()]
                return {"tools": tools, **(_cached() if modern else {})}
            case method, modern:
                text = f"there is no method {method!r}"
                raise _Refused(METHOD_NOT_FOUND, text, 404 if modern else 200)

    async def _call(self, message: _Message, request: Request, send: Send) -> None:
        name, arguments = message.params.get("name"), message.params.get("arguments") or {}
        status = 400 if message.modern else 200
        tool = self.tools.get(name) if isinstance(name, str) else None
        if tool is None:
            raise _Refused(INVALID_PARAMS, f"there is no tool {name!r}", status)
        if not isinstance(arguments, dict):
            raise _Refused(INVALID_PARAMS, "the arguments are no object", status)
        reply = partial(self._reply, message)
        send = problem.converted(send, lambda _, text: (200, reply(failed(text))))
        pipeline = tool.ready()
        if pipeline is None:
            response = problem.answer(503, "not ready yet", headers={"Retry-After": "1"})
            await response(request.scope, request.receive, send)
            return
        payloads = CallPayloads(tool.payloads, arguments)
        await pipeline.answer(request, send, payloads, CallResults(tool, reply))

    def _reply(self, message: _Message, result: Mapping[str, Any]) -> bytes:
        if message.modern:
            meta = {f"{_META}serverInfo": self._info}
            result = {**result, "resultType": "complete", "_meta": meta}
        return json_text({"jsonrpc": "2.0", "id": message.id, "result": result})

    @property
    def _abilities(self) -> dict[str, Any]:
        return {"capabilities": {"tools": {}}}

    @property
    def _info(self) -> dict[str, Any]:
        return {"name": self.name, "version": self.version}


def _cached() -> dict[str, Any]:
    return {"ttlMs": _LIST_LIFE_MS, "cacheScope": "private"}


def _is_response(document: Mapping[str, Any]) -> bool:
    return "method" not in document and ("result" in document or "error" in document)


def _error(document: Mapping[str, Any], refused: _Refused) -> Response:
    try:
        id = _id_of(document)
    except _Refused:
        id = None
    error: dict[str, Any] = {"code": refused.code, "message": str(refused)}
    if refused.data:
        error["data"] = refused.data
    body = json_text({"jsonrpc": "2.0", "id": id, "error": error})
    return Response(body, refused.status, media_type=JSON)


def add_tools(
    own: FastAPI,
    name: str,
    tools: Mapping[str, Tool],
    version: str,
    exchange: Callable[[Handle, Request], Response],
) -> None:
    """Add the route of the protocol.

    Args:
        own: application to add it to.
        name: name of the app, and of its pipeline.
        tools: its pipelines, by name.
        version: the app's version.
        exchange: returns a response that has a function handle the request while it is sent.
    """
    server = _Server(name, version or "1", tools)

    async def route(request: Request) -> Response:
        return exchange(server.answer, request)

    own.add_route("/mcp", route, ["POST"], include_in_schema=False)
