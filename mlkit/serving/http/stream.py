"""Streaming: the values of steps as they finish, as server-sent events or newline-delimited JSON.

Server-sent events follow the HTML standard (WHATWG, "Server-sent events"). Newline-delimited JSON
has one object per line, with the name of the event in ``event`` and the document in ``data``.
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
"""Runs a request; arguments are an encoder of the result, and a callback for each node's value."""


class Events:
    """The events of a pipeline: one ``step`` per step, then ``result`` or ``problem``.

    A ``step`` has its name, the milliseconds since the request began, and its value unless that is
    an image or an array.
    """

    def __init__(self, graph: Graph) -> None:
        self._values = {node.name: _adapter(node.type) for node in graph}
        self._result = port(graph.returns)

    def response(self, media_type: str, finish: Finish) -> Response:
        """Return a streaming response; the request is cancelled when the client disconnects."""
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
            while not nodes.empty():  # reported by another thread at the very end
                if (late := nodes.get_nowait()) is not None:
                    yield write("step", self._step(*late))
            response = running.result()
            name = "result" if response.status_code == 200 else "problem"
            yield write(name, bytes(response.body))
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
    """Closes the generator when sending ends early, which cancels the request."""

    body_iterator: AsyncGenerator[bytes, None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.body_iterator):
            await super().__call__(scope, receive, send)


def _adapter(type_: Any) -> TypeAdapter[Any] | None:
    """The JSON encoder of a type; None if its values are not plain JSON."""
    try:
        return None if port(type_).pydantic is None else TypeAdapter(type_)
    except DefinitionError:
        return None


def _as_event(name: str, data: bytes) -> bytes:
    # The data is one line; fastapi.sse.format_sse_event would decode, split and encode it again.
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data)


def _as_line(name: str, data: bytes) -> bytes:
    return b'{"event": %s, "data": %s}\n' % (json.dumps(name).encode(), data)
