"""Downloads of untrusted URLs that cannot reach the internal network.

Addresses are checked where the socket is opened, right before it connects. That covers every
address of every redirect, in any notation, and leaves no time for DNS rebinding.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import importlib
import os
import socket
import sys
import weakref
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlkit.errors import FetchError, InputError, PayloadTooLarge
from mlkit.fetch.addresses import ALLOW_VARIABLE, is_public, parse_allowed
from mlkit.fetch.hosts import Hosts, RefusedHostError, Visit
from mlkit.media.image import MAX_BYTES

if TYPE_CHECKING:
    import aiohttp
    from aiohttp.abc import AbstractResolver
    from yarl import URL

__all__ = ["Downloader", "fetch"]

_REDIRECTS = {301, 302, 303, 307, 308}
_FIX = f"upload the file instead, or allow the host: {ALLOW_VARIABLE}=host:port"


async def fetch(url: str) -> bytes:
    """Return the body of an http(s) URL, within the limits of `Downloader`.

    Connections are pooled per event loop and closed when the loop ends.

    Raises:
        InputError: the URL has another scheme, no host, or contains credentials.
        FetchError: the request failed.
        PayloadTooLarge: the body exceeds the limit.
    """
    loop = asyncio.get_running_loop()
    if "aiohttp" not in sys.modules:
        # The import takes half a second, which would block the event loop.
        await asyncio.to_thread(importlib.import_module, "aiohttp")
    if loop not in _downloaders:
        _downloaders[loop] = Downloader()
        await _close_with_loop(_downloaders[loop])
    return await _downloaders[loop].fetch(url)


@dataclass(eq=False, kw_only=True)
class Downloader:
    """Downloads URLs within limits; bound to the event loop in which it is first used.

    Attributes:
        max_bytes: maximum length of a body in bytes, after decompression.
        max_redirects: maximum number of redirects.
        connect_s: timeout for each connection, in seconds.
        total_s: timeout for the whole download, in seconds.
        resolver: resolves host names; aiohttp's default if None. Its addresses are checked.
        public: returns whether an IP address may be connected to.
    """

    max_bytes: int = MAX_BYTES
    max_redirects: int = 5
    connect_s: float = 3.0
    total_s: float = 10.0
    resolver: AbstractResolver | None = None
    public: Callable[[str], bool] = is_public

    def __post_init__(self) -> None:
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._hosts = Hosts()

    async def fetch(self, url: str) -> bytes:
        """Return the body of ``url``; see `fetch`."""
        import aiohttp

        target = _parsed(url)
        shown = _shown(target)
        try:
            async with asyncio.timeout(self.total_s) as timer:
                return await self._follow(target, timer)
        except aiohttp.ConnectionTimeoutError as error:
            raise _failed(
                shown, "connecting timed out", got=f"over {self.connect_s:g} s"
            ) from error
        except TimeoutError as error:
            raise _failed(
                shown, "the download timed out", got=f"over {self.total_s:g} s"
            ) from error
        except aiohttp.ClientConnectorDNSError as error:
            raise _failed(shown, "the host name cannot be resolved", got=error.host) from error
        except aiohttp.ClientConnectorError as error:
            raise _unreachable(shown, error) from error
        except (aiohttp.ClientError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise _failed(shown, "the request failed", got=_message(error)) from error

    async def _follow(self, url: URL, timer: asyncio.Timeout) -> bytes:
        for _ in range(self.max_redirects + 1):
            gate = self._hosts.gate(f"{url.host}:{url.port}")
            try:
                async with gate.visited() as visit:
                    result = await self._get(url, timer, visit)
            except RefusedHostError as error:
                raise _failed(
                    _shown(url), "its host does not respond", fix="try again in a minute"
                ) from error
            if isinstance(result, bytes):
                return result
            url = result
        raise _failed(_shown(url), "too many redirects", got=f"more than {self.max_redirects}")

    async def _get(self, url: URL, timer: asyncio.Timeout, visit: Visit) -> bytes | URL:
        """Return the body of a response, or where it redirects to."""
        import aiohttp

        try:
            async with self._session(url).get(url, allow_redirects=False) as response:
                if response.status in _REDIRECTS:
                    visit.healthy = True
                    return _next(url, response)
                visit.healthy = response.status < 500 and response.status != 429
                return await self._body(response)
        except asyncio.CancelledError:
            visit.healthy = False if timer.expired() else None
            raise
        except aiohttp.ClientConnectorError as error:
            visit.healthy = None if isinstance(error.os_error, _RefusedAddressError) else False
            raise
        except (aiohttp.ClientError, TimeoutError):
            visit.healthy = False
            raise

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        shown = _shown(response.url)
        if response.status != 200:
            raise _failed(
                shown, "unexpected status", expected="status 200", got=f"{response.status}"
            )
        self._check_length(shown, response.content_length or 0)
        body = bytearray()
        async for chunk in response.content.iter_chunked(2**16):
            body += chunk
            self._check_length(shown, len(body))
        return bytes(body)

    def _check_length(self, shown: str, length: int) -> None:
        if length > self.max_bytes:
            raise PayloadTooLarge(
                "the body of the response is too large",
                where=shown,
                expected=f"at most {self.max_bytes:,} bytes",
            )

    def _session(self, url: URL) -> aiohttp.ClientSession:
        # Separate sessions keep unguarded connections to allowed hosts out of the shared pool.
        allowed = parse_allowed(os.environ.get(ALLOW_VARIABLE, ""))
        trusted = ((url.host or "").lower(), url.port or 0) in allowed
        if trusted not in self._sessions:
            self._sessions[trusted] = self._new_session(trusted)
        return self._sessions[trusted]

    def _new_session(self, trusted: bool) -> aiohttp.ClientSession:
        import aiohttp

        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,  # `Hosts` limits connections per host; none takes those of others
                resolver=self.resolver,
                socket_factory=None if trusted else self._guarded_socket,
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.connect_s),
            headers={"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "mlkit"},
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )

    def _guarded_socket(self, info: Any) -> socket.socket:
        family, kind, protocol, _, address = info
        if not self.public(address[0]):
            raise _RefusedAddressError
        return socket.socket(family, kind, protocol)

    async def close(self) -> None:
        """Close all connections."""
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()


class _RefusedAddressError(OSError):
    # The same text for all addresses: aiohttp keeps the type of an error only if all errors read
    # the same, and clients must not learn what an internal name resolves to.
    def __str__(self) -> str:
        return "the address is not public"


def _parsed(url: str) -> URL:
    from yarl import URL

    try:
        parsed = URL(url.strip())
        host, port = parsed.host, parsed.port
    except ValueError as error:
        raise InputError("invalid URL", got=f"{url.split('?')[0]:.100}") from error
    _check_form(parsed, InputError)
    if not host or not port:
        raise InputError("the URL has no host", got=_shown(parsed))
    return parsed


def _check_form(url: URL, error: type[InputError]) -> None:
    if url.scheme not in {"http", "https"}:
        raise error("unsupported URL scheme", expected="http or https", got=f"{url.scheme:.20}")
    if url.raw_user is not None or url.raw_password is not None:
        raise error("the URL contains credentials", where=_shown(url))


def _next(url: URL, response: aiohttp.ClientResponse) -> URL:
    from yarl import URL

    shown = _shown(url)
    location = response.headers.get("Location")
    if not location:
        raise _failed(shown, "the redirect has no Location")
    try:
        target = url.join(URL(location))
        host = target.host
    except ValueError as error:
        raise _failed(shown, "the redirect leads to an invalid URL") from error
    _check_form(target, FetchError)
    if not host:
        raise _failed(shown, "the redirect leads to a URL without a host")
    return target


def _shown(url: URL) -> str:
    """Return the URL for an error message: without credentials and query, and shortened."""
    text = str(url.with_user(None).with_query(None).with_fragment(None)) if url.host else str(url)
    return f"{text:.200}" + ("?..." if url.query_string else "")


def _failed(shown: str, reason: str, **parts: Any) -> FetchError:
    return FetchError(f"cannot fetch the URL: {reason}", where=shown, **parts)


def _unreachable(shown: str, error: aiohttp.ClientConnectorError) -> FetchError:
    if isinstance(error.os_error, _RefusedAddressError):
        return _failed(shown, str(error.os_error), expected="a public host", fix=_FIX)
    return _failed(
        shown, "connecting failed", got=error.os_error.strerror or _message(error.os_error)
    )


def _message(error: BaseException) -> str:
    return f"{error}"[:200] or type(error).__name__


# --- one downloader per event loop

_downloaders: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Downloader]
_downloaders = weakref.WeakKeyDictionary()
_finalizers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncIterator[None]]
_finalizers = weakref.WeakKeyDictionary()


async def _close_with_loop(downloader: Downloader) -> None:
    """Close the downloader when the running loop ends.

    The only hook that a loop offers for that is ``loop.shutdown_asyncgens``, called by
    `asyncio.run`: it closes asynchronous generators that are still suspended.
    """

    async def close_at_end() -> AsyncIterator[None]:
        try:
            yield
        finally:
            await downloader.close()

    generator = close_at_end()
    _finalizers[asyncio.get_running_loop()] = generator
    await anext(generator)


@atexit.register
def _close_all() -> None:
    """Close the downloaders of loops that run until the process exits, in daemon threads."""
    for loop, downloader in list(_downloaders.items()):
        if loop.is_running():
            with contextlib.suppress(Exception):
                asyncio.run_coroutine_threadsafe(downloader.close(), loop).result(timeout=1)
