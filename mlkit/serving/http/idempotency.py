"""``Idempotency-Key``: a request that is sent again gets the first one's response.

Each replica remembers its own responses, of each pipeline and version, for a while and within a
bound. Server errors and overloads are not kept: such a request runs again.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from time import monotonic, perf_counter
from typing import Any, TypeAlias

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Message, Send

from mlkit.errors import DeadlineExceeded, Overloaded, PayloadTooLarge
from mlkit.serving.http.payload import EXACT_HEADER, Invalid
from mlkit.serving.http.stream import EVENTS, FRAMES, LINES
from mlkit.serving.http.terms import Terms
from mlkit.serving.limits import Limits

__all__ = ["PARAMETER", "Idempotency", "Replies", "Reply"]

KEY = b"idempotency-key"

REPLAYED = (b"idempotency-replayed", b"true")
"""Header of a response that was made for an earlier request."""

MAX_KEY = 255
"""Characters of a key at most."""

KEEP_S = 600.0
"""How long responses are kept, in seconds."""

MAX_BYTES, MAX_REPLY_BYTES = 16 * 2**20, 2**20
"""Bytes of all responses that are kept, and of one, at most."""

OVERHEAD_BYTES = 1024
"""Approximate memory of a response in addition to its body."""

PARAMETER: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "if a request with this key was answered within the last minutes, by the same "
    "replica, the response is the same; another request with the key is invalid",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY, "pattern": "^[!-~]+$"},
}
"""The header, as a parameter of OpenAPI."""

_VARYING = (b"accept", b"content-type", b"content-encoding", EXACT_HEADER)
"""Headers that a response depends on."""

_PASSING = {408, 425, 429, 499}
"""Client errors that may not happen again."""

_PROBLEMS = {
    EVENTS: re.compile(rb"event: problem\n"),
    LINES: re.compile(rb'\{"event": "problem"'),
    FRAMES: re.compile(rb"\x07.{4}problem", re.DOTALL),
}
"""The last event of a stream that fails, by content type; see `mlkit.serving.http.stream`."""

_OF_ONE_REQUEST = {b"server-timing", b"x-request-id"}

Answer: TypeAlias = Callable[[Send, Terms | None], Awaitable[None]]
"""Answers a request; arguments are where to, and its terms if its time has begun to count."""


@dataclass(frozen=True)
class Reply:
    """A response.

    Attributes:
        fingerprint: digest of the request.
        start: the ASGI message that starts it.
        body: its body.
    """

    fingerprint: bytes
    start: Message
    body: bytes


@dataclass
class Replies:
    """Responses by key, for a while; the oldest make way for new ones.

    Attributes:
        now: clock in seconds.
        max_bytes: bytes of all responses at most.
        keep_s: how long they are kept, in seconds.
    """

    now: Callable[[], float] = monotonic
    max_bytes: int = MAX_BYTES
    keep_s: float = KEEP_S
    _kept: OrderedDict[bytes, tuple[float, Reply]] = field(default_factory=OrderedDict, init=False)
    _bytes: int = field(default=0, init=False)

    def get(self, key: bytes) -> Reply | None:
        """Return the response for a key, or None."""
        self._forget(0)
        kept = self._kept.get(key)
        return None if kept is None else kept[1]

    def put(self, key: bytes, reply: Reply) -> None:
        """Keep a response, for a key that has none."""
        size = _size(reply)
        self._forget(size)
        if size <= self.max_bytes:
            self._kept[key] = self.now(), reply
            self._bytes += size

    def _forget(self, needed: int) -> None:
        """Drop expired responses, and then the oldest until there is room."""
        past = self.now() - self.keep_s
        while self._kept:
            at, reply = next(iter(self._kept.values()))
            if at > past and self._bytes + needed <= self.max_bytes:
                return
            self._kept.popitem(last=False)
            self._bytes -= _size(reply)


def _size(reply: Reply) -> int:
    return len(reply.body) + OVERHEAD_BYTES


class Idempotency:
    """Answers requests to a pipeline, those with a key once.

    Args:
        limits: of the pipeline's requests; they hold for those that wait for another one, too.
        replies: keeps the responses.
    """

    def __init__(self, limits: Limits, replies: Replies | None = None) -> None:
        self._limits = limits
        self._replies = replies or Replies()
        self._running: dict[bytes, asyncio.Future[None]] = {}
        self._open = 0

    @staticmethod
    def key(request: Request) -> bytes | None:
        """Return the key of a request; None if it has none, or a dependency has read its body."""
        if request._form is not None:
            return None
        return next((value for name, value in request.scope["headers"] if name == KEY), None)

    async def answer(self, key: bytes, request: Request, send: Send, answer: Answer) -> None:
        """Answer a request with a key, with ``answer`` unless an earlier response is kept.

        Raises:
            Invalid: the key is malformed, or was used for another request.
            Overloaded: too many requests with keys are in flight.
            PayloadTooLarge: the body exceeds the limit.
            DeadlineExceeded: the earlier request, or reading this one, takes too long.
        """
        if not 0 < len(key) <= MAX_KEY or not all(33 <= byte < 127 for byte in key):
            raise Invalid(f"Idempotency-Key must be 1 to {MAX_KEY} visible ASCII characters")
        if self._open >= self._limits.max_ongoing_requests:
            raise Overloaded("too many requests in flight", fix="try again in a second")
        self._open += 1
        try:
            await self._once(key, request, send, answer)
        finally:
            self._open -= 1

    async def _once(self, key: bytes, request: Request, send: Send, answer: Answer) -> None:
        try:
            limit = Terms(perf_counter(), self._limits.request_timeout_s)
            terms = limit.asked(dict(request.scope["headers"]))
            async with asyncio.timeout(terms.left_s) as timer:
                fingerprint = await self._fingerprint(request)
                while (running := self._running.get(key)) is not None:
                    await asyncio.shield(running)
        except TimeoutError:
            if not timer.expired():
                raise
            raise DeadlineExceeded("the request exceeded its deadline before it began") from None
        reply = self._replies.get(key)
        if reply is not None:
            if reply.fingerprint != fingerprint:
                raise Invalid("this Idempotency-Key was used for another request")
            headers = [h for h in reply.start["headers"] if h[0].lower() not in _OF_ONE_REQUEST]
            await send({**reply.start, "headers": [*headers, REPLAYED]})
            await send({"type": "http.response.body", "body": reply.body})
            return
        done = self._running[key] = asyncio.get_running_loop().create_future()
        recorder = _Recorder(send)
        try:
            await answer(recorder.send, terms)
            if recorder.lasts:
                reply = Reply(fingerprint, recorder.start, b"".join(recorder.body))
                self._replies.put(key, reply)
        finally:
            del self._running[key]
            done.set_result(None)

    async def _fingerprint(self, request: Request) -> bytes:
        """Read the body, which stays in the request; return a digest of what a response varies by.

        Raises:
            PayloadTooLarge: the body exceeds the limit.
        """
        headers = dict(request.scope["headers"])
        body, limit = bytearray(), self._limits.max_body_bytes
        async for part in request.stream():
            body += part
            if len(body) > limit:
                raise PayloadTooLarge("the body is too large", expected=f"at most {limit:,} bytes")
        request._body = bytes(body)
        varying = [request.scope.get("query_string", b""), *(headers.get(n, b"") for n in _VARYING)]
        digest = blake2b(digest_size=16)
        for part in (*varying, request._body):
            digest.update(len(part).to_bytes(8) + part)
        return digest.digest()


class _Recorder:
    """Passes on the messages of a response, and records a short one."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._complete = False
        self._length = 0
        self._problem: re.Pattern[bytes] | None = None
        self._failed = False
        self.start: Message = {}
        self.body: list[bytes] = []

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            # Middleware around this changes the list, such as for compression or cookies.
            self.start = {**message, "headers": list(message.get("headers", ()))}
            content_type = Headers(raw=self.start["headers"]).get("content-type", "")
            self._problem = _PROBLEMS.get(content_type.partition(";")[0])
        elif message["type"] == "http.response.body":
            part = bytes(message.get("body", b""))
            self._failed |= self._problem is not None and bool(self._problem.match(part))
            self._length += len(part)
            self.body.append(part)
            if self._length > MAX_REPLY_BYTES:
                self.body.clear()
            self._complete = not message.get("more_body", False)
        await self._send(message)

    @property
    def lasts(self) -> bool:
        """Whether the response is complete, short enough, and repeatable."""
        status = self.start.get("status", 500)
        short = self._length <= MAX_REPLY_BYTES
        lasting = status < 500 and status not in _PASSING and not self._failed
        return self._complete and short and lasting
