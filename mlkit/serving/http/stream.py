"""Results as they come: a step's value as soon as it is there, as events or as lines of JSON.

Server-sent events are those of the HTML standard (WHATWG, "Server-sent events"); newline-delimited
JSON has the same documents, one a line, with the event's name in ``event``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pydantic_core
from pydantic import TypeAdapter
from starlette.responses import Response, StreamingResponse

from mlkit.define.border import Port, plain, port
from mlkit.define.graph import Graph
from mlkit.errors import DefinitionError
from mlkit.serving.http import problem

if TYPE_CHECKING:
    from mlkit.serving.http.ingress import Served

__all__ = ["MEDIA_TYPES", "Events"]

EVENTS, LINES = "text/event-stream", "application/x-ndjson"
MEDIA_TYPES = (EVENTS, LINES)


class Events:
    """The events of one pipeline: ``step`` for each, then ``result`` or ``problem``.

    A step's event has its name, the milliseconds since the request began, and its value where that
    is plain JSON: pictures and arrays stay behind.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._values = {node.name: _adapter(node.type) for node in graph}
        self._result = port(graph.returns)

    def answer(self, media_type: str, served: Served, arguments: Mapping[str, Any]) -> Response:
        """A response that is sent while the request runs; a client that goes away ends it."""
        write = _as_event if media_type == EVENTS else _as_line
        events = (write(name, data) async for name, data in self._events(served, arguments))
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(events, media_type=media_type, headers=headers)

    async def _events(
        self, served: Served, arguments: Mapping[str, Any]
    ) -> AsyncIterator[tuple[str, bytes]]:
        loop = asyncio.get_running_loop()
        came: asyncio.Queue[tuple[str, Any, float] | None] = asyncio.Queue()
        began = perf_counter()

        def on_node(name: str, value: Any) -> None:
            loop.call_soon_threadsafe(came.put_nowait, (name, value, perf_counter() - began))

        running = asyncio.ensure_future(served(arguments, on_node))
        running.add_done_callback(lambda _: came.put_nowait(None))
        try:
            while (one := await came.get()) is not None:
                yield "step", self._step(*one)
            while not came.empty():  # told by another thread at the very end
                if (late := came.get_nowait()) is not None:
                    yield "step", self._step(*late)
            yield self._end(running, served)
        finally:
            running.cancel()

    def _step(self, name: str, value: Any, seconds: float) -> bytes:
        document: dict[str, Any] = {"step": name, "at_ms": round(1e3 * seconds, 3)}
        adapter = self._values[name]
        if adapter is not None:
            document["value"] = adapter.dump_python(
                value, mode="json", fallback=plain, warnings=False
            )
        return pydantic_core.to_json(document, inf_nan_mode="null")

    def _end(self, running: asyncio.Future[Any], served: Served) -> tuple[str, bytes]:
        try:
            result = running.result()
            return "result", _json(self._result, result)
        except Exception as error:
            answer = problem.of_error(error, self.graph.name, served.failures)
            return "problem", bytes(answer.body)


def _adapter(type_: Any) -> TypeAdapter[Any] | None:
    """What writes values of a type as JSON; None where they are no plain JSON."""
    try:
        if port(type_).converts:
            return None
        return TypeAdapter(type_)
    except DefinitionError:
        return None


def _json(found: Port, value: Any) -> bytes:
    return pydantic_core.to_json(found.to_json(value), fallback=plain, inf_nan_mode="null")


def _as_event(name: str, data: bytes) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data)


def _as_line(name: str, data: bytes) -> bytes:
    return b'{"event": %s, "data": %s}\n' % (json.dumps(name).encode(), data)
