"""Payloads encoded as complete HTTP/1.1 requests, before a load test starts."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from mlkit.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["HttpRequest", "Preparable", "RequestLike", "Server", "as_list", "preparer", "wire"]


class RequestLike(Protocol):
    """A request as a target's ``prepare`` returns it; `HttpRequest` is one."""

    @property
    def method(self) -> str:
        """The HTTP method, e.g. ``"POST"``."""

    @property
    def url(self) -> str:
        """The full URL."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers, without Host and Content-Length."""

    @property
    def body(self) -> bytes:
        """The body; empty for none."""


class Preparable(Protocol):
    """A target that turns payloads into requests; a deployed ``App`` is one."""

    def prepare(self, payload: Any) -> RequestLike:
        """Return the request that carries this payload."""


@dataclass(frozen=True, kw_only=True)
class HttpRequest:
    """A request with any method and headers, for load tests of any server."""

    method: str = "POST"
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)


class Server(NamedTuple):
    """Host, port and TLS of a URL."""

    host: str
    port: int
    tls: bool


@dataclass(frozen=True)
class _Url:
    """A plain URL as a target."""

    url: str

    def prepare(self, payload: Any) -> RequestLike:
        """POST bytes as they are, GET for None, POST everything else as JSON."""
        if hasattr(payload, "method") and hasattr(payload, "url") and hasattr(payload, "body"):
            return payload  # type: ignore[no-any-return]
        if payload is None:
            return HttpRequest(method="GET", url=self.url)
        if isinstance(payload, (bytes, bytearray, memoryview)):
            kind = _sniff(bytes(payload[:12]))
            return HttpRequest(url=self.url, headers={"Content-Type": kind}, body=bytes(payload))
        body = json.dumps(payload).encode()
        return HttpRequest(url=self.url, headers={"Content-Type": "application/json"}, body=body)

    def __str__(self) -> str:
        return self.url


def preparer(target: Preparable | str) -> Preparable:
    """Turn the target into something with a ``prepare`` method.

    Raises:
        LoadError: it is neither a URL nor has such a method.
    """
    if isinstance(target, str):
        return _Url(target)
    if callable(getattr(target, "prepare", None)):
        return target
    raise LoadError(
        "this cannot be load-tested",
        where="load_test(target, ...)",
        expected="a deployed App, or a URL like 'http://127.0.0.1:8000/tag'",
        got=type(target).__name__,
        fix="deploy the pipeline first: app = deploy(tag); a step needs a pipeline around it",
    )


def as_list(payloads: Any) -> Sequence[Any]:
    """Turn payloads into a sequence; rows of a DataFrame become dicts.

    Raises:
        LoadError: there is no payload, or it is a single one.
    """
    if hasattr(payloads, "columns") and hasattr(payloads, "to_dict"):
        payloads = payloads.to_dict("records")
    if isinstance(payloads, (str, bytes, dict)) or not hasattr(payloads, "__iter__"):
        raise LoadError(
            "payloads must be a list or a DataFrame",
            where="load_test(target, payloads, ...)",
            got=type(payloads).__name__,
            fix="for a single payload write [payload]; more than one is a fairer test",
        )
    items: list[Any] = list(payloads)
    if not items:
        raise LoadError("there is no payload to send", where="load_test(target, payloads, ...)")
    return items


def wire(request: RequestLike) -> tuple[Server, bytes]:
    """Encode a request for HTTP/1.1, and say where it goes.

    Raises:
        LoadError: the URL is not http(s), or a header or the URL contains a line break.
    """
    parts = urlsplit(request.url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise LoadError(
            "only http and https URLs can be load-tested",
            expected="a URL like 'http://127.0.0.1:8000/tag'",
            got=repr(request.url),
        )
    tls = parts.scheme == "https"
    server = Server(parts.hostname, parts.port or (443 if tls else 80), tls)
    query = f"?{parts.query}" if parts.query else ""
    headers = {
        "Host": parts.netloc.rpartition("@")[2],
        "User-Agent": "mlkit-load",
        "Accept": "*/*",
        **{name: value for name, value in request.headers.items() if name.lower() not in _OURS},
    }
    if request.body or request.method not in ("GET", "HEAD"):
        headers["Content-Length"] = str(len(request.body))
    lines = [f"{request.method} {parts.path or '/'}{query} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return server, _checked(lines) + request.body


_OURS = frozenset({"host", "content-length", "transfer-encoding", "connection"})


def _checked(lines: list[str]) -> bytes:
    for line in lines:
        if "\r" in line or "\n" in line:
            raise LoadError("a header or URL contains a line break", got=repr(line))
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _sniff(start: bytes) -> str:
    if start.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "image/webp"
    return "application/octet-stream"
