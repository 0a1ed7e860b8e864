"""Sending requests to an app: connections, recent requests, and explained errors."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

from mlkit.errors import MlkitError, RequestError
from mlkit.serving.http.terms import TIMEOUT
from mlkit.serving.kernel.client import Codec, PreparedRequest
from mlkit.serving.kernel.transport import exchange
from mlkit.serving.replica.output import read_failures
from mlkit.serving.retries import ATTEMPT, UNREACHED, Retries, RetryBudget

__all__ = ["Sender", "shut_down"]

RESPONSE_MARGIN_S = 30.0

REPLICA_LOST = 502
"""Status of HAProxy for a request whose replica died before it answered."""

MAX_SENT, MAX_SENT_BYTES = 20, 2 * 2**20
"""Number and size of the requests that are kept for load tests."""


class Sender:
    """Sends requests of one app and decodes the responses; thread-safe.

    Args:
        codec: of the app's pipeline.
        timeout_s: seconds within which the server responds.
        logs: folder of the app's output and failures.
        record_duration: called with id and duration, in seconds, of each answered request.
        sleep: waits before a retry, for a number of seconds.
        clock: clock in seconds.

    Attributes:
        sent: the last requests, oldest first.
        closed: whether it was closed.
    """

    def __init__(
        self,
        codec: Codec,
        timeout_s: float,
        logs: Path,
        record_duration: Callable[[str, float], None],
        *,
        sleep: Callable[[float], None] = sleep,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._app = codec.graph.name
        self._sleep, self._clock, self._budget = sleep, clock, RetryBudget()
        self._codec, self._timeout_s, self._logs = codec, timeout_s, logs
        self._record_duration = record_duration
        self.sent: deque[PreparedRequest] = deque(maxlen=MAX_SENT)
        self.closed = False

    def send(self, request: PreparedRequest) -> Any:
        """Send a request and return its result.

        It is sent again if the connection or the replica is lost before it is answered; see
        `Retries`.

        Raises:
            RequestError: the response is an error, or there is none.
        """
        self._keep(request)
        start = self._clock()
        response = self._respond(request, idempotent=self._codec.graph.idempotent)
        self._record_duration(response.headers.get("x-request-id", ""), self._clock() - start)
        if not response.is_success:
            raise self._explained(self._codec.error(response.status_code, response.content))
        try:
            return self._codec.result(response.content, response.headers.get("content-type", ""))
        except RequestError as error:
            raise self._explained(error) from None

    def ask(self, request: PreparedRequest, *, idempotent: bool = True) -> bytes:
        """Send a request to another route of the app, and return the body of its response.

        Raises:
            RequestError: the response is an error, or there is none.
        """
        if self.closed:
            raise shut_down(RequestError, self._app)
        response = self._respond(request, idempotent=idempotent)
        if response.status_code >= 400:
            raise self._codec.error(response.status_code, response.content)
        body: bytes = response.content
        return body

    def _respond(self, request: PreparedRequest, *, idempotent: bool) -> Any:
        """Send a request, again if it is lost; return the response, with its body."""
        import httpx2

        start = self._clock()
        retries = Retries(self._budget, idempotent=idempotent)
        headers, attempt = {**request.headers, ATTEMPT: "1"}, 1
        while True:
            lost: httpx2.HTTPError | None = None
            try:
                with self._exchange(replace(request, headers=headers)) as response:
                    response.read()
            except (httpx2.NetworkError, httpx2.RemoteProtocolError) as error:
                lost = error
            except httpx2.HTTPError as error:
                raise self._unanswered(error) from error
            if lost is None and not _is_lost(response):
                return response
            left_s = start + self._timeout_s - self._clock()
            wait_s = retries.wait_s(left_s)
            if wait_s is not None:
                self._sleep(wait_s)
                attempt += 1
                # All attempts have one deadline.
                headers |= {ATTEMPT: f"{attempt}", TIMEOUT: f"{left_s - wait_s:.6f}"}
            elif lost is not None:
                raise self._unanswered(lost) from lost
            else:
                return response

    def stream(self, request: PreparedRequest) -> Iterator[Any]:
        """Send a request at the first `next`, and yield the items of its response.

        Raises:
            RequestError: the response is an error, or there is none, or it breaks off.
        """
        import httpx2

        self._keep(request)
        start = self._clock()
        try:
            with self._exchange(request) as response:
                if not response.is_success:
                    raise self._codec.error(response.status_code, response.read())
                yield from self._codec.streamed(response.iter_bytes())
                id = response.headers.get("x-request-id", "")
        except httpx2.HTTPError as error:
            raise self._unanswered(error) from error
        except RequestError as error:
            raise self._explained(error) from None
        self._record_duration(id, self._clock() - start)

    def close(self) -> None:
        """Close the connections; nothing is sent any more."""
        self.closed = True
        if "_transport" in self.__dict__:
            self._transport.close()

    def _keep(self, request: PreparedRequest) -> None:
        """Keep a request for load tests."""
        if self.closed:
            raise shut_down(RequestError, self._app)
        if len(request.body or b"") <= MAX_SENT_BYTES:
            self.sent.append(request)

    def _unanswered(self, error: Exception) -> RequestError:
        return RequestError(
            f"no response: {type(error).__name__}: {error}",
            where=f"app {self._app!r}",
            fix="check app.status()",
        )

    def _explained(self, error: RequestError) -> RequestError:
        """Add the message from the log, which the server omits."""
        if error.failure_id is not None:
            for failure in read_failures(self._logs, self._app, error.failure_id):
                error.got = failure.error
        return error

    def _exchange(self, request: PreparedRequest) -> AbstractContextManager[Any]:
        import httpx2

        # The server responds with 504 at its own deadline.
        timeout = httpx2.Timeout(self._timeout_s + RESPONSE_MARGIN_S, connect=5)
        return exchange(
            self._transport,
            request.method,
            request.url,
            headers=request.headers,
            content=request.body,
            timeout=timeout,
        )

    @cached_property
    def _transport(self) -> Any:
        import httpx2

        limits = httpx2.Limits(max_connections=256, max_keepalive_connections=256)
        # It retries failed connects only, before anything is sent.
        transport = httpx2.HTTPTransport(retries=2, limits=limits)
        weakref.finalize(self, transport.close)
        return transport


def _is_lost(response: Any) -> bool:
    """Whether the front end has answered in place of a replica."""
    return response.status_code == REPLICA_LOST or UNREACHED in response.headers


def shut_down(kind: type[MlkitError], app: str) -> MlkitError:
    """Return the error on an app that was shut down."""
    return kind("the app was shut down", where=f"app {app!r}", fix="deploy again")
