"""A lean HTTP/1.1 client for load generation: keep-alive connections, without pipelining.

It exists because the client shares its machine with the server that it measures. Requests are bytes
encoded in advance, one `send` each; responses are parsed by httptools (uvicorn's parser), and only
times, status, size and the ``Server-Timing`` header are kept. That takes about a quarter of the CPU
time of aiohttp's client.

A request is never retried: a connection that breaks counts as an error.
"""

from __future__ import annotations

import asyncio
import errno
import select
import selectors
import socket
import ssl
from typing import TYPE_CHECKING, NamedTuple

import httptools

from mlkit.load.log import NEVER, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Connection", "Endpoint", "Pool", "new_event_loop"]

IDLE_LIMIT_S = 2.0
"""Connections idle for longer are not reused: the server may be closing them right now (uvicorn and
Node do so after 5 s, gunicorn after 2 s), and that race is not the server's fault."""
DETAIL_BYTES = 2000
ITEM = b'{"event": "item", "data": '
END = b'{"event": "end", '
"""Beginnings of the lines in which an app streams items, and of the last one."""
LOCAL_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS})


class Endpoint(NamedTuple):
    """Where requests go: ``address`` is the resolved IP address, ``name`` the host for TLS."""

    address: str
    port: int
    name: str
    tls: bool = False


class Connection(asyncio.BufferedProtocol):
    """A connection that carries one request at a time.

    Args:
        pool: its `Pool.finished` is called for each request that was sent.
        clock: seconds, for the times of responses.

    Attributes:
        item_times: when the items of the current response arrived, if it is a stream.
    """

    # One buffer serves all connections of a thread: asyncio fills it right before `buffer_updated`.
    _shared = memoryview(bytearray(256 * 1024))

    def __init__(self, pool: Pool, clock: Callable[[], float]) -> None:
        self._pool, self._clock = pool, clock
        self._parser = httptools.HttpResponseParser(self)
        self.transport: asyncio.Transport | None = None
        self.slot: int | None = None
        self.idle_since = 0.0
        self.item_times: list[float] = []
        self._no_body = False
        self._reset()

    def _reset(self) -> None:
        self._first = NEVER
        self._status = 0
        self._size = 0
        self._timing = ""
        self._framed = self._headed = self._complete = self._keep = False
        self._detail = b""
        self._location = self._media_type = ""
        self._body: list[bytes] = []
        self._line = bytearray()
        self._last_line = b""
        self.item_times = []

    @property
    def open(self) -> bool:
        """Whether a request can be sent on it."""
        return self.transport is not None and not self.transport.is_closing()

    def send(self, slot: int, raw: bytes, *, no_body: bool = False) -> None:
        """Send one request; ``no_body`` for one whose response has no body (HEAD)."""
        assert self.transport is not None
        self.slot, self._no_body = slot, no_body
        self.transport.write(raw)

    def close(self) -> None:
        """Abort the connection and its request, without a report."""
        self.slot = None
        if self.transport is not None:
            self.transport.abort()

    # asyncio calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport of the new connection."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer for the next bytes."""
        return self._shared

    def buffer_updated(self, nbytes: int) -> None:
        """Parse received bytes."""
        if self.slot is None:
            self.close()  # unsolicited bytes, which the next request would get
            return
        if self._first != self._first:
            self._first = self._clock()
        try:
            self._parser.feed_data(self._shared[:nbytes])
        except httptools.HttpParserUpgrade:
            self._fail("protocol", "the server switched protocols")
        except httptools.HttpParserError as error:
            if self._complete:
                self._finish(keep=False)  # bytes after a complete response
            else:
                self._fail("protocol", str(error))
        else:
            if self._complete:
                self._finish(keep=self._reusable())

    def eof_received(self) -> bool:
        """Finish a response that ends with its connection."""
        if self.slot is not None and self._headed and not self._framed:
            self._finish(keep=False)  # a body without framing ends with its connection
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the request that a lost connection carried."""
        self._pool.lost(self)
        if self.slot is None:
            return
        place = "before its response" if self._first != self._first else "within its response"
        kind = "reset" if exc is not None else "closed"
        self._fail(kind, f"the connection ended {place}" + (f": {exc}" if exc else ""))

    # httptools calls these.

    def on_message_begin(self) -> None:
        """Refuse a second response to the same request."""
        if self._complete:
            raise ValueError("an unsolicited response")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note the headers that matter."""
        # Lengths are compared first: most headers are none of these three.
        if len(name) == 13 and name.lower() == b"server-timing":
            text = value.decode("latin-1")
            self._timing = f"{self._timing}, {text}" if self._timing else text
        elif (len(name) == 14 and name.lower() == b"content-length") or (
            len(name) == 17 and name.lower() == b"transfer-encoding"
        ):
            self._framed = True
        elif len(name) == 8 and name.lower() == b"location":
            self._location = value.decode("latin-1")
        elif self._pool.keeps_bodies and name.lower() == b"content-type":
            self._media_type = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Take the status; a response without a body is complete here."""
        self._status = self._parser.get_status_code()
        self._headed = self._status >= 200
        if self._no_body and self._headed:
            self._complete = True

    def on_body(self, body: bytes) -> None:
        """Count the body, and keep the start of an error's."""
        self._size += len(body)
        if self._status >= 400 and len(self._detail) < DETAIL_BYTES:
            self._detail += body[:DETAIL_BYTES]
        if self._pool.streams and self._status == 200:
            self._read_lines(body)
        elif self._pool.keeps_bodies:
            self._body.append(body)

    def _read_lines(self, body: bytes) -> None:
        *ended, rest = body.split(b"\n")
        for part in ended:
            self._line += part
            line = self._last_line = bytes(self._line)
            self._line.clear()
            if line.startswith(ITEM):
                self.item_times.append(self._clock())
                if self._pool.keeps_bodies:
                    self._body.append(line[len(ITEM) : -1])
        self._line += rest

    def on_message_complete(self) -> None:
        """Note that a response, or an interim one (1xx), is complete."""
        if self._headed:
            self._complete = True
            self._keep = self._parser.should_keep_alive()  # the parser resets it for the next one
        else:
            self._framed = False  # 1xx: the final response follows

    # Outcomes.

    def _reusable(self) -> bool:
        assert self.transport is not None
        # A response before all of the request was sent.
        early = self.transport.get_write_buffer_size() > 0
        return self._keep and not self._no_body and not early

    def _finish(self, *, keep: bool) -> None:
        error = self._pool.fault(self._status, self._size if not self._no_body else None)
        detail = self._detail.decode("utf-8", "replace")
        if error == "redirect":
            detail = f"{self._status} to {self._location or 'nowhere'}"
        body, media_type = (
            b"".join(self._body) if self._pool.keeps_bodies else None,
            self._media_type,
        )
        if self._pool.streams and self._status == 200:
            if not self._last_line.startswith(END):
                error, detail = "problem", self._last_line[:DETAIL_BYTES].decode("utf-8", "replace")
            if body is not None:  # as the list that the app sends without an ``Accept`` header
                body, media_type = b"[%s]" % b",".join(self._body), "application/json"
        numbers = self._first, self._clock(), self._status, self._size
        response = Response(*numbers, self._timing, error, detail, media_type, body)
        self._report(response._replace(item_times=self.item_times), keep)

    def _fail(self, kind: str, detail: str) -> None:
        numbers = self._first, self._clock(), self._status, self._size
        failure = Response(*numbers, error=kind, detail=detail, item_times=self.item_times)
        self._report(failure, False)

    def _report(self, response: Response, keep: bool) -> None:
        slot, self.slot = self.slot, None
        assert slot is not None
        self._reset()
        if keep:
            self.idle_since = response.finished
        elif self.transport is not None:
            self.transport.abort()
        self._pool.finished(self, slot, response)


class Pool:
    """A transport for `mlkit.load.generator.Generator` with as many connections as needed.

    Args:
        loop: the running loop.
        endpoint: where all requests are sent.
        requests: complete requests, as bytes.
        order: positions in ``requests``, in the order of sending, over and over; by default all.
        first: the slot that sends the first in this order.
        headless: the positions in ``requests`` whose responses have no body (HEAD).
        statuses: statuses of successes; any 2xx if there are none.
        nonempty: whether a success has a body.
        keeps_bodies: whether responses have their bodies; that of a stream is the list of items.
        streams: whether responses are the items of an app, line by line.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        endpoint: Endpoint,
        requests: Sequence[bytes],
        *,
        order: Sequence[int] | None = None,
        first: int = 0,
        headless: frozenset[int] = frozenset(),
        statuses: frozenset[int] = frozenset(),
        nonempty: bool = False,
        keeps_bodies: bool = False,
        streams: bool = False,
    ) -> None:
        self._statuses, self._nonempty = statuses, nonempty
        self.keeps_bodies, self.streams = keeps_bodies, streams
        self._loop, self._endpoint, self._requests = loop, endpoint, requests
        self._order: Sequence[int] = range(len(requests)) if order is None else order
        self._first, self._headless = first, headless
        self._tls = ssl.create_default_context() if endpoint.tls else None
        self._idle: list[Connection] = []
        self._busy: dict[int, Connection] = {}
        self._opening: dict[int, asyncio.Task[None]] = {}
        self.answered: Callable[[int, Response], None]
        self.opened = 0
        self.short_of: str | None = None

    def fault(self, status: int, size: int | None) -> str | None:
        """Return why a response is a failure, by its status and the size of its body, if any."""
        if status in self._statuses:
            return None
        if 300 <= status < 400:
            return "redirect"
        if self._statuses or not 200 <= status < 300:
            return f"http {status}"
        return "empty" if self._nonempty and size == 0 else None

    async def probe(self) -> None:
        """Open one connection and keep it.

        Raises:
            OSError: the connection failed.
        """
        self._idle.append(await self._connect())

    def send(self, slot: int) -> None:
        """Send the slot's request on an idle connection, or open one for it."""
        oldest = self._loop.time() - IDLE_LIMIT_S
        while self._idle:
            connection = self._idle.pop()
            if connection.idle_since < oldest:
                self._drop_idle(connection)  # those below it have been idle for longer
            elif connection.open:
                self._send_on(connection, slot)
                return
        self._opening[slot] = self._loop.create_task(self._open_and_send(slot))

    def abandon(self, slot: int) -> Sequence[float]:
        """Close the slot's connection, so that a late response is not taken for another one's."""
        if (task := self._opening.pop(slot, None)) is not None:
            task.cancel()
        elif (connection := self._busy.pop(slot, None)) is not None:
            connection.close()
            return connection.item_times
        return ()

    def finished(self, connection: Connection, slot: int, response: Response) -> None:
        """Take a connection's report."""
        del self._busy[slot]
        if connection.open:
            self._idle.append(connection)
        self.answered(slot, response)

    def lost(self, connection: Connection) -> None:
        """Forget a connection that ended."""
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        """Close every connection."""
        for slot in [*self._opening, *self._busy]:
            self.abandon(slot)
        while self._idle:
            self._idle.pop().close()

    def _drop_idle(self, connection: Connection) -> None:
        stale = [connection, *self._idle]
        self._idle.clear()
        for unused in stale:
            unused.close()

    def _send_on(self, connection: Connection, slot: int) -> None:
        position = self._order[(slot - self._first) % len(self._order)]
        self._busy[slot] = connection
        connection.send(slot, self._requests[position], no_body=position in self._headless)

    async def _open_and_send(self, slot: int) -> None:
        try:
            connection = await self._connect()
        except OSError as error:
            del self._opening[slot]
            self._note_shortage(error)
            now = self._loop.time()
            self.answered(slot, Response(NEVER, now, error=_kind(error), detail=str(error)))
            return
        del self._opening[slot]
        self._send_on(connection, slot)

    async def _connect(self) -> Connection:
        endpoint = self._endpoint
        _, connection = await self._loop.create_connection(
            lambda: Connection(self, self._loop.time),
            endpoint.address,
            endpoint.port,
            ssl=self._tls,
            server_hostname=endpoint.name if self._tls else None,
        )
        self.opened += 1
        connection.idle_since = self._loop.time()
        return connection

    def _note_shortage(self, error: OSError) -> None:
        if error.errno in LOCAL_ERRNOS:
            self.short_of = error.strerror


def _kind(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, ssl.SSLError):
        return "tls"
    return "no connection"


def resolve(host: str, port: int) -> list[str]:
    """Resolve a host to addresses, in the order in which to try them.

    Raises:
        OSError: the name cannot be resolved.
    """
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in infos))


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Create an asyncio loop with timers accurate to some 0.1 ms.

    asyncio rounds timeouts up to whole milliseconds on Linux, the resolution of epoll; that alone
    would send requests 0.5 ms late on average.
    """
    return asyncio.SelectorEventLoop(_FineSelector())


class _FineSelector(selectors.EpollSelector):
    """Waits on epoll's descriptor with select(), whose resolution is microseconds."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout > 0:
            select.select([self.fileno()], [], [], timeout)
            timeout = 0
        return super().select(timeout)
