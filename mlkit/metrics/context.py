"""The request that code runs for: its id and its place in a distributed trace.

``traceparent`` is that of W3C Trace Context, level 1.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from contextvars import ContextVar
from typing import NamedTuple

__all__ = [
    "RequestContext",
    "context_of",
    "current_request",
    "entered",
    "new_id",
    "request_id",
    "traceparent",
]

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class RequestContext(NamedTuple):
    """A request, for logs and for traces.

    Attributes:
        id: ``X-Request-Id`` of its response.
        trace_id: of the trace, 32 hexadecimal digits; "" if it is not traced.
        span_id: of the request itself, 16 hexadecimal digits.
        parent_id: of the span that its client had sent; "" if there is none.
        sampled: whether its spans are to be exported.
    """

    id: str
    trace_id: str = ""
    span_id: str = ""
    parent_id: str = ""
    sampled: bool = False

    @property
    def traceparent(self) -> str:
        """Header for the requests that it makes itself; "" if it is not traced."""
        flags = "01" if self.sampled else "00"
        return f"00-{self.trace_id}-{self.span_id}-{flags}" if self.trace_id else ""


_CURRENT: ContextVar[RequestContext | None] = ContextVar("mlkit-request", default=None)


def current_request() -> RequestContext | None:
    """Return the request that the caller runs for; None outside of one, and in a batch."""
    return _CURRENT.get()


def traceparent() -> str:
    """Return the header with which a step continues the trace of its request; "" without one.

    ::

        httpx2.get(url, headers={"traceparent": traceparent()})

    A batched step runs for many requests at once, so it has no request of its own.
    """
    current = _CURRENT.get()
    return "" if current is None else current.traceparent


class entered:  # noqa: N801  # a generator is slower, and this is on the way of each request
    """Run code for a request."""

    __slots__ = ("_context", "_token")

    def __init__(self, context: RequestContext | None) -> None:
        self._context = context

    def __enter__(self) -> None:
        self._token = _CURRENT.set(self._context)

    def __exit__(self, *exception: object) -> None:
        _CURRENT.reset(self._token)


def context_of(headers: Iterable[tuple[bytes, bytes]], *, traced: bool) -> RequestContext:
    """Return the context of a request; one without an id gets one.

    Args:
        headers: of the request; names are in lower case.
        traced: whether to begin a trace, unless the client has sent one.
    """
    id, parent = "", None
    for name, value in headers:
        if name == b"x-request-id":
            id = request_id(value)
        elif name == b"traceparent":
            parent = _parsed(value)
    id = id or new_id()
    if parent is not None:
        trace_id, parent_id, sampled = parent
        return RequestContext(id, trace_id, new_id(), parent_id, sampled)
    if traced:
        return RequestContext(id, f"{random.getrandbits(128) or 1:032x}", new_id(), "", True)
    return RequestContext(id)


def _parsed(value: bytes) -> tuple[str, str, bool] | None:
    """Trace, parent and whether it is sampled; None for a header that the specification ignores."""
    match = _TRACEPARENT.fullmatch(value.strip())
    if match is None:
        return None
    version, trace, parent, flags, more = match.groups()
    if version == b"ff" or (version == b"00" and more) or not (int(trace, 16) and int(parent, 16)):
        return None
    return trace.decode(), parent.decode(), bool(int(flags, 16) & 1)


def request_id(value: bytes) -> str:
    """Return the id that a client gave a request; "" if it is malformed."""
    id = value.decode("latin-1")
    return id if len(id) <= 64 and id.isascii() and id.replace("-", "").isalnum() else ""


def new_id() -> str:
    """Return a new id of a request or of a span."""
    return f"{random.getrandbits(64) or 1:016x}"
