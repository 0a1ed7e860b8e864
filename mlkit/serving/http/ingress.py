"""The ASGI application of a pipeline, generated from its types.

``POST /<name>`` accepts JSON, multipart or a raw body and returns the pipeline's result. At the
root and under ``/<name>`` are ``/docs``, ``/openapi.json``, ``/healthz`` and ``/readyz``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from fastapi import FastAPI, Request
from fastapi.exception_handlers import (
    http_exception_handler,
    request_validation_exception_handler,
)
from fastapi.exceptions import RequestValidationError
from fastapi.utils import is_body_allowed_for_status_code
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mlkit.define.docstring import words
from mlkit.define.exact import PROCESS_KEY
from mlkit.define.graph import Graph
from mlkit.errors import MlkitError
from mlkit.metrics.prometheus import CONTENT_TYPE
from mlkit.serving.http import problem
from mlkit.serving.http.access import Access, RedeemedCodes
from mlkit.serving.http.documentation import Documents, add_docs
from mlkit.serving.http.lifecycle import Ready, Served
from mlkit.serving.http.payload import Payloads
from mlkit.serving.http.results import Results
from mlkit.serving.http.userapp import SCOPE_KEY, derived
from mlkit.serving.limits import Limits

__all__ = ["create_app"]

Handler: TypeAlias = Callable[[Request, Send], Awaitable[None]]


def create_app(
    graph: Graph,
    served: Ready,
    limits: Limits,
    token: str | None,
    version: str = "",
    *,
    exact_key: str = PROCESS_KEY,
    fastapi: FastAPI | None = None,
    others: Mapping[str, Served] | None = None,
    guarded: bool = True,
    codes: RedeemedCodes | None = None,
    metrics: Callable[[], Awaitable[bytes]] | None = None,
) -> ASGIApp:
    """Create the ASGI application of a pipeline.

    Args:
        graph: the graph of the pipeline.
        served: returns the pipeline once it is ready, None before.
        limits: limits on requests; only that on bodies is enforced here, the others by `Served`. A
            user's application that has a ``max_body_size`` keeps it for its routes.
        token: bearer token that requests need; None for none.
        version: version that ``/readyz`` reports.
        exact_key: secret of requests in the exact form; see `mlkit.define.exact`.
        fastapi: application to add the pipeline's routes to; its own routes take precedence.
        others: further pipelines by name.
        guarded: whether requests are authenticated; see `Access`.
        codes: one-time codes for the documentation that were already used.
        metrics: returns the body of ``GET /metrics``; without it, there is no such route.
    """
    if fastapi is None:
        description = words(graph.doc).description
        app = FastAPI(title=graph.name, description=description, version="1", openapi_url=None)
    else:
        app = derived(fastapi)
        if app.max_body_size is None:  # the user's routes
            app.max_body_size = limits.max_body_bytes
    pipelines: dict[str, tuple[Graph, Ready]] = {graph.name: (graph, served)}
    for name, other in (others or {}).items():
        pipelines[name] = (other.graph, lambda other=other: other)  # type: ignore[misc]
    codings = {
        name: (Payloads(each, limits.max_body_bytes, exact_key), Results(each))
        for name, (each, _) in pipelines.items()
    }
    documents = app.state.documents = Documents(codings)
    handlers = {
        f"/{name}": _add_pipeline(app, each, *codings[name], documents, ready)
        for name, (each, ready) in pipelines.items()
    }
    own = FastAPI(openapi_url=None)  # routes other than the pipelines' and the user's
    _add_health(own, served, version)
    add_docs(own, app, graph.name, secured=token is not None)
    app.router.routes += own.routes
    if metrics is not None:
        _add_metrics(app, metrics)
    _add_problems(app, graph.name, served)
    outer: ASGIApp = Direct(app, handlers) if fastapi is None else app
    if guarded:
        codes = codes or RedeemedCodes()
        outer = Access(outer, own, app.router.routes, token, graph.name, codes)
    return Prefixed(outer, graph.name, {name: ready for name, (_, ready) in pipelines.items()})


def _add_pipeline(
    app: FastAPI,
    graph: Graph,
    payloads: Payloads,
    results: Results,
    documents: Documents,
    served: Ready,
) -> Handler:
    doc = words(graph.doc)

    async def handle(request: Request, send: Send) -> None:
        pipeline = served()
        if pipeline is not None:
            await pipeline.answer(request, send, payloads, results)
            return
        response = problem.answer(503, "not ready yet", headers={"Retry-After": "1"})
        await response(request.scope, request.receive, send)

    async def route(request: Request) -> Response:
        return _Exchange(handle, request)

    app.post(
        f"/{graph.name}",
        summary=doc.summary or graph.name,
        description=doc.description,
        response_class=Response,
        responses={
            200: {
                "description": doc.returns or "the result",
                "content": documents.result(graph.name, results),
            },
            **documents.errors(payloads),
        },
        openapi_extra=documents.request(graph.name, payloads),
        operation_id=graph.name,
    )(route)
    return handle


class _Exchange(Response):
    """Response that handles the request while it is sent.

    The request is thus in flight until sending ends, in whatever way.
    """

    def __init__(self, handle: Handler, request: Request) -> None:
        super().__init__()
        self._handle = handle
        self._request = request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._handle(self._request, send)
        if self.background is not None:  # set by a dependency of the application
            await self.background()


def _add_health(app: FastAPI, served: Ready, version: str) -> None:
    @app.get("/healthz", summary="Liveness probe", tags=["health"])
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get(
        "/readyz",
        summary="Readiness probe",
        tags=["health"],
        responses={503: {"description": "starting"}},
    )
    async def readyz() -> Response:
        ready = served() is not None
        status = "ready" if ready else "starting"
        return JSONResponse({"status": status, "version": version}, 200 if ready else 503)


def _add_metrics(app: FastAPI, metrics: Callable[[], Awaitable[bytes]]) -> None:
    @app.get(
        "/metrics",
        summary="Metrics of all replicas, in Prometheus's text format",
        tags=["health"],
        response_class=Response,
        responses={
            200: {"description": "metrics", "content": {"text/plain": {}}},
            503: {"description": "temporarily unavailable"},
        },
    )
    async def scrape() -> Response:
        try:
            return Response(await metrics(), media_type=CONTENT_TYPE)
        except Exception:  # the actor that aggregates them is restarting
            return problem.answer(503, "no metrics yet", headers={"Retry-After": "1"})


def _add_problems(app: FastAPI, pipeline: str, served: Ready) -> None:
    """Respond to errors with problem documents, unless the application has its own handlers."""

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        headers = dict(error.headers) if error.headers else None
        if not is_body_allowed_for_status_code(error.status_code):
            return Response(status_code=error.status_code, headers=headers)
        return problem.answer(error.status_code, str(error.detail), headers=headers)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        errors = problem.errors_of(error.errors(), "request")
        return problem.answer(422, errors[0]["msg"] if errors else "invalid", errors=errors)

    async def fault(request: Request, error: Exception) -> Response:
        ready = served()
        failures = ready.failures if ready is not None else problem.Failures()
        return problem.of_error(error, pipeline, failures)

    defaults = {
        HTTPException: http_exception_handler,
        RequestValidationError: request_validation_exception_handler,
    }
    handlers: dict[Any, Any] = {HTTPException: http_error, RequestValidationError: invalid}
    if 500 not in app.exception_handlers:  # Starlette treats that as one for Exception
        handlers[Exception] = fault
    for kind, handler in {**handlers, MlkitError: fault}.items():
        if app.exception_handlers.get(kind) in (None, defaults.get(kind)):
            app.add_exception_handler(kind, handler)


class Direct:
    """ASGI middleware: serves the pipelines' own routes without FastAPI's routing.

    They parse the request themselves and have no dependencies or middleware. This saves a third of
    the event loop's time for a small request.
    """

    def __init__(self, app: ASGIApp, handlers: Mapping[str, Handler]) -> None:
        self.app = app
        self.handlers = dict(handlers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a pipeline's own route, or pass the request to the application."""
        direct = scope["type"] == "http" and scope["method"] == "POST"
        handler = self.handlers.get(scope["path"]) if direct else None
        if handler is None:
            await self.app(scope, receive, send)
            return
        await handler(Request(scope, receive), send)


class Prefixed:
    """ASGI middleware: serves an application at the root and under ``/<name>/``.

    Serve passes the full path, and the prefix again as ``root_path``. Routes are declared with full
    paths, so the application is independent of its prefix.

    Args:
        app: the application.
        name: name of the pipeline.
        served: the pipelines that routes can depend on, by name.
    """

    def __init__(self, app: ASGIApp, name: str, served: Mapping[str, Ready]) -> None:
        self.app = app
        self.served = served
        self.prefix = f"/{name}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Rewrite the path."""
        if scope["type"] in ("http", "websocket"):
            path = scope["path"]
            scope = {**scope, "root_path": "", "mlkit.path": path, SCOPE_KEY: self.served}
            if path.startswith(self.prefix + "/"):
                scope["path"] = path[len(self.prefix) :].rstrip("/") or self.prefix
        await self.app(scope, receive, send)
