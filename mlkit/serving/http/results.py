"""Encoding of results: JSON, binary formats, or a stream of events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pydantic_core
from starlette.responses import Response

from mlkit.define.border import Port, plain, port
from mlkit.define.exact import MEDIA_TYPE as EXACT
from mlkit.define.exact import Exact
from mlkit.define.graph import Graph
from mlkit.serving.http.stream import MEDIA_TYPES, Events

__all__ = ["Results"]

JSON = "application/json"


class Results:
    """Encodes the results of a pipeline.

    Attributes:
        returns: port of the result's type.
        content: schemas of the result by content type, for OpenAPI.
        events: streams steps and result as events.
    """

    def __init__(self, graph: Graph) -> None:
        self.returns = returns = port(graph.returns)
        self.events = Events(graph)
        self._exact = Exact(graph)
        self._encode, self._media_type = _encoder(returns)
        self._packed_type, self._to_bytes = returns.packed_type, returns.to_bytes
        binary = {"schema": {"type": "string", "format": "binary"}}
        json_form = self._media_type == JSON
        self.content: dict[str, Any] = {
            self._media_type: {"schema": dict(returns.output_schema)} if json_form else binary
        }
        self.content |= {self._packed_type: binary} if self._packed_type else {}
        self.content |= {kind: {"schema": {"type": "string"}} for kind in MEDIA_TYPES}

    def response(self, value: Any, accept: str) -> Response:
        """Return the response with a result, in the format of the request's ``Accept``."""
        if accept == self._packed_type and self._to_bytes is not None:
            return Response(self._to_bytes(value)[0], media_type=accept)
        return Response(self._encode(value), media_type=self._media_type)

    def exact(self, value: Any) -> Response:
        """Return the response with a result in the exact form."""
        return Response(self._exact.encode(value), media_type=EXACT)


def _encoder(returns: Port) -> tuple[Callable[[Any], bytes], str]:
    """Return the encoder of a type, and its content type."""
    if returns.pydantic is not None:
        return returns.pydantic.to_json, JSON
    to_bytes, to_json = returns.to_bytes, returns.to_json
    if to_bytes is not None and returns.schema.get("type") == "string":
        kind = returns.media_type
        if kind.endswith("*"):
            kind = "image/png" if kind == "image/*" else "application/octet-stream"
        return lambda value: to_bytes(value)[0], kind
    # JSON has no NaN; like pydantic, encode null.
    return (
        lambda value: pydantic_core.to_json(to_json(value), fallback=plain, inf_nan_mode="null"),
        JSON,
    )
