"""Encoding of results: JSON, binary formats, or a stream of events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from starlette.responses import Response

from mlkit.define.border import Port, port
from mlkit.define.exact import MEDIA_TYPE as EXACT
from mlkit.define.exact import Exact
from mlkit.define.graph import Graph
from mlkit.errors import InputError
from mlkit.serving.http.stream import FRAMES, MEDIA_TYPES, Events, ItemEvents

__all__ = ["Results"]

JSON = "application/json"


class Results:
    """Encodes the results of a pipeline.

    Attributes:
        returns: port of the result's type.
        content: schemas of the result by content type, for OpenAPI.
        events: streams steps and result as events.
        items: streams the items of a pipeline that streams; None for any other.
    """

    def __init__(self, graph: Graph) -> None:
        self.returns = returns = port(graph.returns)
        self.events = Events(graph)
        self._exact = Exact(graph)
        self._encode, self._media_types = _encoder(returns)
        self._media_type = self._media_types[0]
        self._encodings = returns.encodings
        self._packed_type, self._to_bytes = returns.packed_type, returns.to_bytes
        binary = {"schema": {"type": "string", "format": "binary"}}
        json_form = self._media_type == JSON
        self.content: dict[str, Any] = {
            kind: {"schema": dict(returns.output_schema)} if json_form else binary
            for kind in self._media_types
        }
        self.content |= {self._packed_type: binary} if self._packed_type else {}
        self.content |= dict.fromkeys(returns.encodings, binary)
        self.content |= {kind: {"schema": {"type": "string"}} for kind in MEDIA_TYPES}
        self.items = ItemEvents(graph, self._exact) if graph.streams else None
        if self.items is not None:
            self.content |= self.items.content(self.items.item.output_schema)
        self._exactly = {*self.content, EXACT, FRAMES, "*/*", ""}

    def preferred(self, accept: str) -> str:
        """Return the content type that a request's ``Accept`` prefers, among those of a result.

        Among equals it is the result's own type, which is also the answer to any other ``Accept``.
        """
        if accept in self._exactly:
            return accept
        qualities = _qualities(accept)
        best = max(self.content, key=lambda kind: _quality(kind, qualities))
        return best if _quality(best, qualities) else self._media_type

    def response(self, value: Any, accept: str) -> Response:
        """Return the response with a result, in a format that `preferred` has returned."""
        if accept == self._packed_type and self._to_bytes is not None:
            with suppress(InputError):  # it has objects, which these formats do not
                return Response(self._to_bytes(value)[0], media_type=accept)
        if accept in self._encodings:
            return Response(self._encodings[accept](value), media_type=accept)
        content, kind = self._encode(value)
        known = kind in self._media_types
        return Response(content, media_type=kind if known else self._media_type)

    def exact(self, value: Any) -> Response:
        """Return the response with a result in the exact form."""
        return Response(self._exact.encode_result(value), media_type=EXACT)


def _qualities(accept: str) -> dict[str, float]:
    """Quality values of an ``Accept`` header, by media range; RFC 9110, section 12.5.1."""
    qualities: dict[str, float] = {}
    for text in accept.lower().split(","):
        kind, *parameters = map(str.strip, text.split(";"))
        weights = [p.removeprefix("q=") for p in parameters if p.startswith("q=")]
        try:
            qualities[kind] = float(weights[0]) if weights else 1.0
        except ValueError:  # ill-formed, so that nothing is preferred
            qualities[kind] = 0.0
    return qualities


def _quality(kind: str, qualities: Mapping[str, float]) -> float:
    """Quality value of a content type, by the most specific range that matches it."""
    ranges = (kind, f"{kind.partition('/')[0]}/*", "*/*")
    return next((qualities[name] for name in ranges if name in qualities), 0.0)


def _encoder(returns: Port) -> tuple[Callable[[Any], tuple[bytes, str]], list[str]]:
    """Return the encoder of a type, and the content types that it produces."""
    if returns.to_bytes is None or returns.packed_type or returns.url:
        return lambda value: (returns.to_text(value), JSON), [JSON]
    kinds = [kind for kind in returns.media_types if not kind.endswith("*")]
    images = returns.media_type == "image/*"
    return returns.to_bytes, kinds or ["image/png" if images else "application/octet-stream"]
