"""Results as they come: a step's value as soon as it is there, as events or as lines of JSON.

Server-sent events are those of the HTML standard (WHATWG, "Server-sent events"); newline-delimited
JSON has the same documents, one a line, with the event's name in ``event``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from time import perf_counter
from typing import Any, TypeAlias

import pydantic_core
from pydantic import TypeAdapter
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from mlkit.define.border import plain, port
from mlkit.define.graph import Graph
from mlkit.errors import DefinitionError

__all__ = ["MEDIA_TYPES", "Events", "Finish"]

EVENTS, LINES = "text/event-stream", "application/x-ndjson"
MEDIA_TYPES = (EVENTS, LINES)

Finish: TypeAlias = Callable[
    [Callable[[Any], Response], Callable[[str, Any], None] | None], Awaitable[Response]
]
"""Runs a request; takes what encodes its result, and what is told each node's name and value."""


class Events:
    """The events of one pipeline: ``step`` for each, then ``result`` or ``problem``.

    A step's event has its name, the milliseconds since the request began, and its value where that
    is plain JSON: pictures and arrays stay behind.
    """

    def __init__(self, graph: Graph) -> None:
        self._values = {node.name: _adapter(node.type) for node in graph}
        self._result = port(graph.returns)

    def response(self, media_type: str, finish: Finish) -> Response:
        """A response that is sent while the request runs; a client that goes away ends it."""
        write = _as_event if media_type == EVENTS else _as_line
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return _Streamed(self._events(write, finish), media_type=media_type, headers=headers)

    async def _events(
        self, write: Callable[[str, bytes], bytes], finish: Finish
    ) -> AsyncGenerator[bytes, None]:
        loop = asyncio.get_running_loop()
        nodes: asyncio.Queue[tuple[str, Any, float] | None] = asyncio.Queue()
        began = perf_counter()

        def on_node(name: str, value: Any) -> None:
            loop.call_soon_threadsafe(nodes.put_nowait, (name, value, perf_counter() - began))

        running = asyncio.ensure_future(finish(self._encode, on_node))
        running.add_done_callback(lambda _: nodes.put_nowait(None))
        try:
            while (node := await nodes.get()) is not None:
                yield write("step", self._step(*node))
            while not nodes.empty():  # told by another thread at the very end
                if (late := nodes.get_nowait()) is not None:
                    yield write("step", self._step(*late))
            last = running.result()
            yield write("result" if last.status_code == 200 else "problem", bytes(last.body))
        finally:
            running.cancel()

    def _encode(self, value: Any) -> Response:
        document = self._result.to_json(value)
        return Response(pydantic_core.to_json(document, fallback=plain, inf_nan_mode="null"))

    def _step(self, name: str, value: Any, seconds: float) -> bytes:
        document: dict[str, Any] = {"step": name, "at_ms": round(1e3 * seconds, 3)}
        adapter = self._values[name]
        if adapter is not None:
            document["value"] = adapter.dump_python(
                value, mode="json", fallback=plain, warnings=False
            )
        return pydantic_core.to_json(document, inf_nan_mode="null")


class _Streamed(StreamingResponse):
    """Closes its events with it: where sending ends early, so does the request."""

    body_iterator: AsyncGenerator[bytes, None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.body_iterator):
            await super().__call__(scope, receive, send)


def _adapter(type_: Any) -> TypeAdapter[Any] | None:
    """What writes values of a type as JSON; None where they are no plain JSON."""
    try:
        if port(type_).converts:
            return None
        return TypeAdapter(type_)
    except DefinitionError:
        return None


def _as_event(name: str, data: bytes) -> bytes:
    # The data is one line; fastapi.sse.format_sse_event would decode, split and encode it again.
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data)


def _as_line(name: str, data: bytes) -> bytes:
    return b'{"event": %s, "data": %s}\n' % (json.dumps(name).encode(), data)
