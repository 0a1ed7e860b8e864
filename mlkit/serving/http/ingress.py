"""The HTTP face of a pipeline: a FastAPI application made from its types.

``POST /<name>`` takes JSON, multipart or a raw body and answers with the pipeline's result; beside
it, at the root and under ``/<name>``, are ``/docs``, ``/openapi.json``, ``/healthz``, ``/readyz``.
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
from mlkit.define.graph import Graph
from mlkit.errors import MlkitError
from mlkit.metrics.prometheus import CONTENT_TYPE
from mlkit.serving.http import problem
from mlkit.serving.http.access import Access, RedeemedCodes
from mlkit.serving.http.documentation import add_docs, error_answers, query, request_body, schemas
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
    fastapi: FastAPI | None = None,
    others: Mapping[str, Served] | None = None,
    guarded: bool = True,
    codes: RedeemedCodes | None = None,
    metrics: Callable[[], Awaitable[bytes]] | None = None,
) -> ASGIApp:
    """The ASGI application of a pipeline.

    Args:
        graph: the pipeline's.
        limits: the body's is used here, the others by `Served`. A user's application that has a
            ``max_body_size`` keeps it for its routes.
        served: gives the pipeline once it is ready, None before.
        token: what callers send as ``Authorization: Bearer``; None asks for none.
        version: what ``/readyz`` tells, so that one can see which version answers.
        fastapi: an application to which the routes of the pipeline are added; its own come first.
        others: further pipelines by name.
        guarded: whether it is looked at who calls; without a token, by which name of the host.
        codes: the one-time codes for the documentation that were used.
        metrics: gives what ``GET /metrics`` answers; there is no such route without it.
    """
    app = _bare(graph) if fastapi is None else derived(fastapi)
    if fastapi is not None and app.max_body_size is None:  # the user's routes
        app.max_body_size = limits.max_body_bytes
    app.state.schemas = {}
    pipelines: dict[str, tuple[Graph, Ready]] = {graph.name: (graph, served)}
    for name, other in (others or {}).items():
        pipelines[name] = (other.graph, lambda other=other: other)  # type: ignore[misc]
    handlers = {
        f"/{name}": _add_pipeline(app, each, Payloads(each, limits.max_body_bytes), ready)
        for name, (each, ready) in pipelines.items()
    }
    own = FastAPI(openapi_url=None)  # what answers beside the pipelines and the user's routes
    _add_health(own, served, version)
    add_docs(own, app, graph.name, secured=token is not None)
    app.router.routes += own.routes
    _add_metrics(app, graph.name, metrics)
    _add_problems(app, graph.name, served)
    given: ASGIApp = Direct(app, handlers)
    if fastapi is not None:
        given = Pipelines(app, {name: ready for name, (_, ready) in pipelines.items()})
    if guarded:
        codes = codes or RedeemedCodes()
        given = Access(given, own, app.router.routes, token, graph.name, codes)
    return Prefixed(given, graph.name)


def _bare(graph: Graph) -> FastAPI:
    return FastAPI(
        title=graph.name,
        description=words(graph.doc).description,
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        openapi_tags=None,
    )


def _add_pipeline(app: FastAPI, graph: Graph, payloads: Payloads, served: Ready) -> Handler:
    results = Results(graph)
    said = words(graph.doc)

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
        summary=said.summary or graph.name,
        description=said.description,
        response_class=Response,
        responses={
            200: {"description": said.returns or "the result", "content": results.content},
            **error_answers(),
        },
        openapi_extra={"requestBody": request_body(payloads), "parameters": query(payloads)},
        operation_id=graph.name,
    )(route)
    app.state.schemas |= schemas(payloads, graph)
    return handle


class _Exchange(Response):
    """What FastAPI sends for a pipeline's own route: the request is handled while it is sent.

    So its place is given back when the sending ends, however that ends.
    """

    def __init__(self, handle: Handler, request: Request) -> None:
        super().__init__()
        self._handle = handle
        self._request = request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._handle(self._request, send)
        if self.background is not None:  # of a dependency of the whole application
            await self.background()


def _add_health(app: FastAPI, served: Ready, version: str) -> None:
    @app.get("/healthz", summary="Whether the process is alive", tags=["health"])
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get(
        "/readyz",
        summary="Whether requests are answered",
        tags=["health"],
        responses={503: {"description": "not yet"}},
    )
    async def readyz() -> Response:
        ready = served() is not None
        status = "ready" if ready else "starting"
        return JSONResponse({"status": status, "version": version}, 200 if ready else 503)


def _add_metrics(app: FastAPI, name: str, metrics: Callable[[], Awaitable[bytes]] | None) -> None:
    if metrics is None:
        return

    @app.get(
        "/metrics",
        summary="Counts of all replicas, in Prometheus's text format",
        tags=["health"],
        response_class=Response,
        responses={
            200: {"description": "counts", "content": {"text/plain": {}}},
            503: {"description": "they cannot be had at the moment"},
        },
    )
    async def scrape() -> Response:
        try:
            return Response(await metrics(), media_type=CONTENT_TYPE)
        except Exception:  # the actor that gathers them is being started again
            return problem.answer(503, "no counts yet", headers={"Retry-After": "1"})


def _add_problems(app: FastAPI, pipeline: str, served: Ready) -> None:
    """Answer errors with problem documents, but for those that the application answers itself."""

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

    standing = {
        HTTPException: http_exception_handler,
        RequestValidationError: request_validation_exception_handler,
    }
    own: dict[Any, Any] = {HTTPException: http_error, RequestValidationError: invalid}
    if 500 not in app.exception_handlers:  # Starlette takes that for one of Exception
        own[Exception] = fault
    for kind, handler in {**own, MlkitError: fault}.items():
        if app.exception_handlers.get(kind) in (None, standing.get(kind)):
            app.add_exception_handler(kind, handler)


class Direct:
    """ASGI middleware: answers the pipelines' own routes without FastAPI's way to them.

    They read the request themselves, and neither a dependency nor a middleware of the user's is in
    between: what is left out only takes time, a third of what the loop does for a small request.
    """

    def __init__(self, app: ASGIApp, handlers: Mapping[str, Handler]) -> None:
        self.app = app
        self.handlers = dict(handlers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer it, or leave it to the application."""
        direct = scope["type"] == "http" and scope["method"] == "POST"
        handler = self.handlers.get(scope["path"]) if direct else None
        if handler is None:
            await self.app(scope, receive, send)
            return
        await handler(Request(scope, receive), send)


class Pipelines:
    """ASGI middleware: tells routes of the pipelines that are served, by name."""

    def __init__(self, app: ASGIApp, served: Mapping[str, Ready]) -> None:
        self.app = app
        self.served = served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            scope[SCOPE_KEY] = self.served
        await self.app(scope, receive, send)


class Prefixed:
    """ASGI middleware: the same application at the root and under ``/<name>/``.

    Serve gives the full path with the prefix repeated in ``root_path``; routes here are written
    with full paths, so that one application answers wherever it is put.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], name: str) -> None:
        self.app = app
        self.prefix = f"/{name}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            path = scope["path"]
            scope = {**scope, "root_path": "", "mlkit.path": path}
            if path.startswith(self.prefix + "/"):
                scope["path"] = path[len(self.prefix) :].rstrip("/") or self.prefix
        await self.app(scope, receive, send)
