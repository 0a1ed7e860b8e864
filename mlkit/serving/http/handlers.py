"""Exception handlers of an application: the user's own, and problem documents for the rest."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

from fastapi.exception_handlers import (
    http_exception_handler,
    request_validation_exception_handler,
)
from fastapi.exceptions import RequestValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketState

from mlkit.errors import MlkitError
from mlkit.serving.http import problem
from mlkit.serving.http.dependency import unawaited
from mlkit.serving.http.lifecycle import Ready
from mlkit.serving.http.outcome import Outcome, cause_of, outcome_of

__all__ = ["Handlers"]

Handler: TypeAlias = Callable[[Any, Exception], Any]

_OF_FASTAPI: dict[Any, Handler] = {
    HTTPException: http_exception_handler,  # type: ignore[dict-item]
    RequestValidationError: request_validation_exception_handler,  # type: ignore[dict-item]
}

# RFC 6455, section 7.4.1, and the registry of close codes for 1013.
_CLOSE_CODES = {Outcome.REFUSED: 1007, Outcome.OVERLOADED: 1013}
_INTERNAL_ERROR = 1011
_REASON_BYTES = 123


class Handlers:
    """The exception handlers of a user's application, which also handle exceptions of steps.

    Args:
        app: the application, as the user configured it.
        pipeline: name of the pipeline, for problem documents.
        served: returns the pipeline, whose ``failures`` record unexpected errors.
    """

    def __init__(self, app: Starlette, pipeline: str, served: Ready) -> None:
        self._own: dict[Any, Handler] = {
            kind: handler
            for kind, handler in app.exception_handlers.items()
            if handler is not _OF_FASTAPI.get(kind)
        }
        self._pipeline = pipeline
        self._served = served

    @property
    def validates(self) -> bool:
        """Whether invalid requests to the user's routes are responded to with problem documents."""
        return RequestValidationError not in self._own

    def install(self, app: Starlette) -> None:
        """Respond to errors with problem documents, unless the application has its own handlers."""
        handlers: dict[Any, Handler] = {
            MlkitError: self._fault,
            HTTPException: _http_error,
            RequestValidationError: _invalid,
        }
        if 500 not in self._own:  # Starlette treats that as one for Exception
            handlers[Exception] = self._fault
        for kind, handler in handlers.items():
            if kind not in self._own:
                app.add_exception_handler(kind, handler)

    async def __call__(self, connection: Request | WebSocket, error: Exception) -> Response | None:
        """Call the user's handler for an error of a pipeline, or for what its step raised.

        Returns:
            its response; None if there is no such handler.
        """
        for raised in (error, cause_of(error)):
            handler = self._handler_of(raised)
            if handler is not None:
                return await _called(handler, connection, raised)
        handler, cause = self._own.get(Exception, self._own.get(500)), cause_of(error)
        unexpected = outcome_of(error)[0] is Outcome.FAILED and not isinstance(cause, HTTPException)
        return await _called(handler, connection, cause) if handler and unexpected else None

    async def respond(self, connection: Request | WebSocket, error: Exception) -> Response | None:
        """Respond to the error of a pipeline in the application of a route, maybe a mounted one.

        Its own handlers come first. Of its other errors, it keeps FastAPI's responses.
        """
        app: Starlette = connection.scope["app"]
        return await Handlers(app, self._pipeline, self._served)._fault(connection, error)

    def _handler_of(self, error: BaseException) -> Handler | None:
        if isinstance(error, HTTPException) and error.status_code in self._own:
            return self._own[error.status_code]
        for kind in type(error).__mro__:
            if kind is Exception:
                break
            if kind in self._own or kind is MlkitError:  # which mlkit handles: no ValueError
                return self._own.get(kind)
        return None

    async def _fault(self, connection: Request | WebSocket, error: Exception) -> Response | None:
        error = unawaited(connection.scope, error) or error
        response = await self(connection, error)
        if response is not None:
            return response
        ready = self._served()
        failures = ready.failures if ready is not None else problem.Failures()
        response = problem.of_error(error, self._pipeline, failures)
        if not isinstance(connection, WebSocket) or _is_opening(connection):
            return response
        outcome, _ = outcome_of(error)
        failed = "the pipeline failed" if isinstance(error, MlkitError) else "the route failed"
        reason = str(cause_of(error)) if outcome in _CLOSE_CODES else failed
        shortened = reason.encode()[:_REASON_BYTES].decode(errors="ignore")
        await connection.close(_CLOSE_CODES.get(outcome, _INTERNAL_ERROR), shortened)
        return None


def _is_opening(socket: WebSocket) -> bool:
    return socket.application_state is WebSocketState.CONNECTING


async def _called(handler: Handler, connection: Any, error: Any) -> Response | None:
    if inspect.iscoroutinefunction(handler):
        response = await handler(connection, error)
    else:
        response = await run_in_threadpool(handler, connection, error)
        if inspect.isawaitable(response):  # of an object whose __call__ is async
            response = await response
    assert response is None or isinstance(response, Response)
    return response


async def _http_error(connection: Any, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem.of_http_exception(error)


async def _invalid(request: Any, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = problem.errors_of(error.errors(), "request")
    return problem.answer(422, errors[0]["msg"] if errors else "invalid", errors=errors)
