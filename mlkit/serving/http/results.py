"""Encoding of results: JSON, binary formats, or a stream of events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pydantic_core
from pydantic import TypeAdapter
from starlette.responses import Response

from mlkit.define.border import plain, port
from mlkit.define.graph import Graph
from mlkit.serving.http.documentation import reference
from mlkit.serving.http.stream import MEDIA_TYPES, Events

__all__ = ["Results"]


class Results:
    """Encodes the results of a pipeline.

    Attributes:
        content: schemas of the result by content type, for OpenAPI.
        events: streams steps and result as events.
    """

    def __init__(self, graph: Graph) -> None:
        returns = port(graph.returns)
        self.events = Events(graph)
        self._encode, self._media_type, schema = _encoder(graph.returns)
        self._packed_type, self._to_bytes = returns.packed_type, returns.to_bytes
        binary = {"schema": {"type": "string", "format": "binary"}}
        self.content: dict[str, Any] = {self._media_type: {"schema": schema}}
        self.content |= {self._packed_type: binary} if self._packed_type else {}
        self.content |= {kind: {"schema": {"type": "string"}} for kind in MEDIA_TYPES}

    def response(self, value: Any, accept: str) -> Response:
        """Return the response with a result, in the format of the request's ``Accept``."""
        if accept == self._packed_type and self._to_bytes is not None:
            return Response(self._to_bytes(value)[0], media_type=accept)
        return Response(self._encode(value), media_type=self._media_type)


def _encoder(type_: Any) -> tuple[Callable[[Any], bytes], str, dict[str, Any]]:
    """Return the encoder of a type, its content type and its schema."""
    returns = port(type_)
    if not returns.converts:
        dump_json = TypeAdapter(type_).dump_json
        return (
            lambda value: dump_json(value, fallback=plain, warnings=False),
            "application/json",
            reference(returns.schema),
        )
    to_bytes, to_json = returns.to_bytes, returns.to_json
    if to_bytes is not None and returns.schema.get("type") == "string":
        media_type = "image/png" if returns.media_type == "image/*" else "application/octet-stream"
        return lambda value: to_bytes(value)[0], media_type, {"type": "string", "format": "binary"}
    return (
        # JSON has no NaN; like pydantic, encode null.
        lambda value: pydantic_core.to_json(to_json(value), fallback=plain, inf_nan_mode="null"),
        "application/json",
        dict(returns.schema),
    )
