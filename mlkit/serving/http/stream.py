"""Streaming, as server-sent events or newline-delimited JSON.

Of a pipeline that streams, the items as they are made; of any other, the values of its steps as
they finish.

Server-sent events follow the HTML standard (WHATWG, "Server-sent events"). Newline-delimited JSON
has one object per line, with the name of the event in ``event`` and the document in ``data``.
Between a notebook and its own app, items are in the exact form, each event as a frame::

    length of the name, 1 byte | length of the data, 4 bytes, big endian | name | data
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from time import perf_counter
from typing import Any, TypeAlias

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from mlkit.define.border import port
from mlkit.define.exact import MEDIA_TYPE as EXACT
from mlkit.define.exact import Exact
from mlkit.define.graph import Graph
from mlkit.define.port import json_text
from mlkit.errors import DefinitionError
from mlkit.execute.items import Items

__all__ = [
    "EVENTS",
    "FRAMES",
    "LINES",
    "MEDIA_TYPES",
    "Events",
    "Finish",
    "ItemEvents",
    "as_event",
    "read_frames",
    "read_lines",
]

EVENTS = "text/event-stream"
LINES = "application/x-ndjson"
FRAMES = f"{EXACT}-items"
MEDIA_TYPES = (EVENTS, LINES)

Finish: TypeAlias = Callable[
    [Callable[[Any], Response], Callable[[str, Any], None] | None], Awaitable[Response]
]
"""Runs a request; arguments are an encoder of the result, and a callback for each node's value."""


class Events:
    """The events of a pipeline: one ``step`` per step, then ``result`` or ``problem``.

    A ``step`` has its name, the milliseconds since the request began, and its value unless that is
    an image or an array. A value that has no JSON form is left out, and ``omitted`` is true.
    """

    def __init__(self, graph: Graph) -> None:
        self._types = {node.name: node.type_name for node in graph}
        self._values = {node.name: _to_python(node.type) for node in graph}
        self._result = port(graph.returns)

    def response(self, media_type: str, finish: Finish) -> Response:
        """Return a streaming response; the request is cancelled when the client disconnects."""
        events = self._events(_WRITERS[media_type], finish)
        return _Streamed(events, media_type=media_type, headers=_HEADERS)

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
        return Response(self._result.to_text(value))

    def _step(self, name: str, value: Any, seconds: float) -> bytes:
        document: dict[str, Any] = {"step": name, "at_ms": round(1e3 * seconds, 3)}
        to_python = self._values[name]
        if to_python is not None:
            try:
                return json_text({**document, "value": to_python(value)})
            except Exception:  # of pydantic, or of a serializer of the user's
                document["omitted"] = f"{self._types[name]} has no JSON form"
        return json_text(document)


Ended: TypeAlias = Callable[[Exception | None, int], Awaitable[Response]]
"""Records the end of a request: its error, and the bytes sent; returns the error's response."""


class ItemEvents:
    """The items of a pipeline that streams: one ``item`` each, then ``end`` or ``problem``.

    Attributes:
        item: port of the items' type.
    """

    def __init__(self, graph: Graph, exact: Exact) -> None:
        self.item = port(graph.items)
        to_text = self.item.to_text
        self._encoders = {EVENTS: to_text, LINES: to_text, FRAMES: exact.encode_result}

    @staticmethod
    def content(schema: Mapping[str, Any]) -> dict[str, Any]:
        """Return the schemas of a response by content type, for OpenAPI.

        Args:
            schema: of an item.
        """
        data = {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": schema,
        }
        return {
            EVENTS: {"itemSchema": _object(event=_NAME, data=data)},
            LINES: {"itemSchema": _object(event=_NAME, data=schema)},
        }

    def response(
        self, media_type: str, items: Items, ended: Ended, headers: Mapping[str, str]
    ) -> Response:
        """Return a response that sends items as they are made.

        The request is cancelled when the client disconnects. One that fails before its first item
        has an error response; later, its last event is a problem.
        """
        events = self._events(_WRITERS[media_type], self._encoders[media_type], items, ended)
        return _Items(events, media_type=media_type, headers={**_HEADERS, **headers})

    async def _events(
        self,
        write: Callable[[str, bytes], bytes],
        encode: Callable[[Any], bytes],
        items: Items,
        ended: Ended,
    ) -> AsyncGenerator[bytes, None]:
        count = sent = 0
        async with aclosing(items):
            try:
                async for item in items:
                    event = write("item", encode(item))
                    count, sent = count + 1, sent + len(event)
                    yield event
            except Exception as error:
                response = await ended(error, sent)
                if not count:
                    raise _FailedAtOnceError(response) from error
                yield write("problem", bytes(response.body))
            else:
                await ended(None, sent)
                yield write("end", b'{"items": %d}' % count)


_NAME = {"type": "string", "enum": ["item", "end", "problem"]}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


class _FailedAtOnceError(Exception):
    """A request failed before anything was sent."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


class _Streamed(StreamingResponse):
    """Closes the generator when sending ends early, which cancels the request."""

    body_iterator: AsyncGenerator[bytes, None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.body_iterator):
            await super().__call__(scope, receive, send)


class _Items(_Streamed):
    """Begins with the first event; if there is none, its status is that of the error."""

    async def stream_response(self, send: Send) -> None:
        try:
            first = await anext(self.body_iterator)
        except _FailedAtOnceError as failed:
            response = failed.response
            body = {"type": "http.response.body", "body": bytes(response.body)}
            start = {"status": response.status_code, "headers": response.raw_headers}
            await send({"type": "http.response.start", **start})
            await send(body)
            return
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        await send({"type": "http.response.body", "body": first, "more_body": True})
        async for event in self.body_iterator:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def _to_python(type_: Any) -> Callable[[Any], Any] | None:
    """The serializer of a type; None if its values are uploads, or have no JSON form."""
    try:
        pydantic = port(type_).pydantic
    except DefinitionError:
        return None
    return None if pydantic is None else pydantic.to_python


def as_event(name: str, data: bytes) -> bytes:
    """Return a server-sent event; its data is one line of JSON."""
    # The data is one line; fastapi.sse.format_sse_event would decode, split and encode it again.
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data)


def _as_line(name: str, data: bytes) -> bytes:
    return b'{"event": %s, "data": %s}\n' % (json.dumps(name).encode(), data)


_FRAME = struct.Struct(">BI")


def _as_frame(name: str, data: bytes) -> bytes:
    return _FRAME.pack(len(name), len(data)) + name.encode() + data


def read_frames(chunks: Iterable[bytes]) -> Iterator[tuple[str, bytes]]:
    """Split a body of frames into names and data of events."""
    rest = bytearray()
    for chunk in chunks:
        rest += chunk
        while len(rest) >= _FRAME.size:
            name_length, length = _FRAME.unpack_from(rest)
            start = _FRAME.size + name_length
            if len(rest) < start + length:
                break
            yield rest[_FRAME.size : start].decode(), bytes(rest[start : start + length])
            del rest[: start + length]


def read_lines(chunks: Iterable[bytes]) -> Iterator[tuple[str, Any]]:
    """Split a body of lines into names and documents of events."""
    line = bytearray()
    for chunk in chunks:
        *ends, start = chunk.split(b"\n")  # `splitlines` also splits within JSON text
        for end in ends:
            line += end
            event = json.loads(line)
            line.clear()
            yield event["event"], event["data"]
        line += start


_WRITERS = {EVENTS: as_event, LINES: _as_line, FRAMES: _as_frame}
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
