"""Pipelines as tools of the Model Context Protocol: descriptions from types, results as content."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from starlette.requests import Request
from starlette.responses import Response

from mlkit.define.docstring import words
from mlkit.define.graph import Graph
from mlkit.define.jsonform import REF_TEMPLATE
from mlkit.define.port import json_text
from mlkit.serving.http.lifecycle import Ready
from mlkit.serving.http.observer import Headers
from mlkit.serving.http.payload import Payloads
from mlkit.serving.http.results import JSON, Results

__all__ = ["CallPayloads", "CallResults", "Reply", "Tool", "failed"]

Reply: TypeAlias = Callable[[Mapping[str, Any]], bytes]
"""Returns the message with a result of the protocol."""

_REFERENCES = REF_TEMPLATE.format(model="")
_RESULT = "result"
"""Key of a result that is no object, since structured content is one."""


@dataclass(frozen=True)
class Tool:
    """A pipeline as a tool.

    Attributes:
        graph: the graph of the pipeline.
        payloads: reads its requests.
        results: encodes its results.
        ready: returns the pipeline once it is ready.
    """

    graph: Graph
    payloads: Payloads
    results: Results
    ready: Ready

    @cached_property
    def description(self) -> dict[str, Any]:
        """Its description for clients: schemas have their definitions in themselves."""
        doc = words(self.graph.doc)
        returns = f"Returns: {doc.returns}" if doc.returns else ""
        text = "\n\n".join(part for part in (doc.description, returns) if part)
        tool: dict[str, Any] = {
            "name": self.graph.name,
            "description": text or f"The pipeline {self.graph.name}.",
            "inputSchema": {"type": "object", **_own(self.payloads.arguments.schema.input)},
        }
        if not self._is_file:
            tool["outputSchema"] = self._structure
        return tool

    @property
    def _is_file(self) -> bool:
        """Whether a result is the content of a file, such as a picture."""
        return JSON not in self.results.content

    @cached_property
    def _structure(self) -> dict[str, Any]:
        """JSON schema of the structured content."""
        schema = _own(self.results.returns.output_schema)
        if not self._is_wrapped:
            return schema
        definitions = schema.pop("$defs", None)
        wrapped = {"type": "object", "properties": {_RESULT: schema}, "required": [_RESULT]}
        return wrapped if definitions is None else {**wrapped, "$defs": definitions}

    @cached_property
    def _is_wrapped(self) -> bool:
        return _own(self.results.returns.output_schema).get("type") != "object"

    def content(self, value: Any) -> dict[str, Any]:
        """Return a result of the pipeline as one of the protocol."""
        if self._is_file:
            file = self.results.response(value, "")
            return {"content": [_file(self.graph.name, bytes(file.body), str(file.media_type))]}
        text = self.results.returns.to_text(value).decode()
        structured = json.loads(text)
        return {
            "content": [_text(structured if isinstance(structured, str) else text)],
            "structuredContent": {_RESULT: structured} if self._is_wrapped else structured,
        }


def failed(text: str) -> dict[str, Any]:
    """Return the result of a call that failed, which a model can read and correct."""
    return {"content": [_text(text)], "isError": True}


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _file(name: str, data: bytes, media_type: str) -> dict[str, Any]:
    kind, encoded = media_type.partition("/")[0], base64.b64encode(data).decode()
    if kind in ("image", "audio"):
        return {"type": kind, "data": encoded, "mimeType": media_type}
    resource = {"uri": f"mlkit:///{name}/result", "mimeType": media_type, "blob": encoded}
    return {"type": "resource", "resource": resource}


def _own(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON schema that stands alone, with its root in place of a reference to it."""
    document: dict[str, Any] = _localised(dict(schema))
    name = str(document.get("$ref", "")).rpartition("/")[2]
    if name in document.get("$defs", {}):
        return {**document["$defs"][name], "$defs": document["$defs"]}
    return document


def _localised(node: Any) -> Any:
    """A JSON schema whose references are to its own definitions."""
    if isinstance(node, list):
        return [_localised(child) for child in node]
    if not isinstance(node, dict):
        return node
    return {
        key: f"#/$defs/{child.removeprefix(_REFERENCES)}"
        if key == "$ref" and isinstance(child, str) and child.startswith(_REFERENCES)
        else _localised(child)
        for key, child in node.items()
    }


class CallPayloads(Payloads):
    """Reads the arguments of one call, whose message was read before."""

    def __init__(self, payloads: Payloads, arguments: Mapping[str, Any]) -> None:
        self.arguments = payloads.arguments
        self.max_body_bytes = payloads.max_body_bytes
        self._given = arguments

    def is_exact(self, headers: Headers) -> bool:
        """Messages of the protocol are no exact form."""
        return False

    async def read(self, request: Request, headers: Headers) -> dict[str, Any]:
        """Return the arguments, by name.

        Raises:
            Invalid: a field is missing or has the wrong type.
        """
        return await self._from_json(json_text(self._given))


class CallResults(Results):
    """Encodes the result of one call; a pipeline that streams returns all its items."""

    def __init__(self, tool: Tool, reply: Reply) -> None:
        self.items = None
        self._tool = tool
        self._reply = reply

    def preferred(self, accept: str) -> str:
        """Return the only content type."""
        return JSON

    def response(self, value: Any, accept: str) -> Response:
        """Return the response with a result."""
        return Response(self._reply(self._tool.content(value)), media_type=JSON)
