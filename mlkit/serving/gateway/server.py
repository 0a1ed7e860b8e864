"""The gateway: a gRPC server that passes each call on to an app's HTTP routes.

Admission, deadlines, tokens, outcomes and traces are those of the request over HTTP. Calls are
spread over replicas as any request is.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property, partial
from io import BytesIO
from typing import Any

import aiohttp
import grpc
import grpc.aio
from yarl import URL

from mlkit.errors import DeployError, InputError
from mlkit.serving.gateway.messages import METHODS, SERVICE, message
from mlkit.serving.gateway.translate import (
    RouteAnswer,
    RouteRequest,
    failure,
    request_of,
    response_of,
)

__all__ = ["Gateway", "run"]

GRACE_S = 5.0
"""How long calls in flight may take when it stops."""

MAX_CALLS = 1_024
"""Calls in flight at most; more are RESOURCE_EXHAUSTED. Their bodies are in memory."""

CONNECT_S = 10.0

_IDLE_S = 3.0
"""For which a connection is kept; less than what servers do, or a request may meet its end."""

_PASSED_ON = frozenset(
    {
        "authorization",
        "baggage",
        "idempotency-key",
        "traceparent",
        "tracestate",
        "x-mlkit-token",
        "x-priority",
        "x-request-id",
        "x-request-timeout-seconds",
    }
)
"""Metadata that become headers."""

_RETURNED = frozenset({"retry-after", "server-timing", "x-mlkit-version", "x-request-id"})
"""Headers that become trailing metadata."""

_ENVELOPE_BYTES = 2**20
"""Maximum size of a message in addition to its tensors."""


@dataclass(eq=False)
class Gateway:
    """A gRPC server in front of an app.

    Attributes:
        url: base URL of the app; ``/v2`` is under it.
        host: address to listen on.
        port: to listen on; 0 for a free one, which is known once it is started.
        max_body_bytes: the app's limit of bodies. Longer messages are RESOURCE_EXHAUSTED.
    """

    url: str
    host: str = "127.0.0.1"
    port: int = 0
    max_body_bytes: int = 20 * 2**20
    _server: Any = field(default=None, init=False)
    _session: Any = field(default=None, init=False)

    async def __aenter__(self) -> Gateway:
        """Start to listen.

        Raises:
            DeployError: the port is taken.
        """
        options = [
            ("grpc.max_receive_message_length", self.max_body_bytes + _ENVELOPE_BYTES),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # two on one port would share its calls
        ]
        self._server = grpc.aio.server(options=options, maximum_concurrent_rpcs=MAX_CALLS)
        handlers = {
            method: grpc.unary_unary_rpc_method_handler(
                partial(self._call, method),
                request_deserializer=message(f"{method}Request").FromString,
                response_serializer=message(f"{method}Response").SerializeToString,
            )
            for method in METHODS
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, handlers),)
        )
        try:
            self.port = self._server.add_insecure_port(f"{self.host}:{self.port}")
        except RuntimeError:
            raise DeployError(
                f"cannot listen on {self.host}:{self.port} for gRPC",
                fix="stop the process that uses the port, or pass another one",
            ) from None
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_S),
            timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        await self._server.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Finish the calls in flight, and stop."""
        await self._server.stop(GRACE_S)
        await self._session.close()

    async def _call(self, method: str, request: Any, context: Any) -> Any:
        """Answer a call. If it is cancelled or past its deadline, so is the request."""
        try:
            answer = await self._exchange(request_of(method, request), context)
        except InputError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.what)
        except (aiohttp.ClientError, TimeoutError) as error:
            detail = f"the app cannot be reached: {type(error).__name__}"
            await context.abort(grpc.StatusCode.UNAVAILABLE, detail)
        returned = [(key, value) for key, value in answer.headers.items() if key in _RETURNED]
        context.set_trailing_metadata(tuple(returned))
        response = response_of(method, answer)
        if response is None:
            await context.abort(*failure(answer))
        return response

    @cached_property
    def _in_front(self) -> bool:
        """Whether the app is on this machine: it must not take remote callers for local ones."""
        return URL(self.url).host in ("localhost", "::1") or str(URL(self.url).host).startswith(
            "127."
        )

    async def _exchange(self, request: RouteRequest, context: Any) -> RouteAnswer:
        headers = {**_passed_on(context.invocation_metadata() or ()), **request.headers}
        if self._in_front:
            headers["host"] = f"{self.host}:{self.port}"
        left_s = context.time_remaining()
        if left_s is not None:
            headers["x-request-timeout-seconds"] = f"{max(left_s, 0.001):.3f}"
        url = URL(self.url.rstrip("/") + request.path, encoded=True)
        # From a buffer, a long body is sent in parts, and other calls go on between them.
        body = BytesIO(request.body) if request.body else None
        async with self._session.request(
            request.method, url, data=body, headers=headers, allow_redirects=False
        ) as response:
            names = {key.lower(): value for key, value in response.headers.items()}
            return RouteAnswer(response.status, names, await response.read())


def _passed_on(metadata: Iterable[tuple[str, str | bytes]]) -> dict[str, str]:
    return {key: value for key, value in metadata if key in _PASSED_ON and isinstance(value, str)}


async def run(gateway: Gateway, ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        gateway: not started yet.
        ready: called with its address once it listens.
    """
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    async with gateway:
        ready(f"{gateway.host}:{gateway.port}")
        await ended.wait()
