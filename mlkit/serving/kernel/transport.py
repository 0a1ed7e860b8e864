"""Requests of mlkit's own, on a transport of `httpx2`.

A `httpx2.Client` logs each request at INFO, so that every call of an app or of its session would
be a line in a notebook that configures logging.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

__all__ = ["exchange"]


@contextmanager
def exchange(
    transport: Any,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    content: str | bytes,
    timeout: Any,
) -> Iterator[Any]:
    """Send a request, and close its response at the end.

    Args:
        transport: a `httpx2.BaseTransport`; it keeps the connections.
        method: the method.
        url: the full URL.
        headers: headers; those of the body and its host are added.
        content: the body.
        timeout: a `httpx2.Timeout`.

    Yields:
        a `httpx2.Response` whose body has not been read yet.

    Raises:
        httpx2.TransportError: there is no response, or none in time.
    """
    import httpx2

    extensions = {"timeout": timeout.as_dict()}
    request = httpx2.Request(
        method, url, headers=headers and dict(headers), content=content, extensions=extensions
    )
    response = transport.handle_request(request)
    try:
        yield response
    finally:
        response.close()
