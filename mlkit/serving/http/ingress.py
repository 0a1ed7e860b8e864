"""The HTTP face of a pipeline: a FastAPI application made from its types.

``POST /<name>`` takes JSON, multipart or a raw body and answers with the pipeline's result; beside
it, at the root and under ``/<name>``, are ``/docs``, ``/openapi.json``, ``/healthz``, ``/readyz``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from time import perf_counter
from typing import Any, TypeAlias

import pydantic_core
from fastapi import FastAPI, Request
from fastapi.exception_handlers import (
    http_exception_handler,
    request_validation_exception_handler,
)
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mlkit.define.border import plain, port
from mlkit.define.docstring import words
from mlkit.define.graph import Graph
from mlkit.errors import InputError, MlkitError, Overloaded
from mlkit.execute import Executor
from mlkit.execute.execution import Execution
from mlkit.execute.inputs import signature_of
from mlkit.metrics.prometheus import CONTENT_TYPE
from mlkit.serving.http import problem, stream
from mlkit.serving.http.access import Access, RedeemedCodes
from mlkit.serving.http.documentation import (
    add_docs,
    error_answers,
    query,
    reference,
    request_body,
    schemas,
)
from mlkit.serving.http.observe import HOPS, Observer, given_id, length_of
from mlkit.serving.http.payload import Payloads, from_route
from mlkit.serving.http.userapp import SCOPE_KEY, derived
from mlkit.serving.limits import Limits

__all__ = ["Served", "create_app"]

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that left; nobody reads it."""

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]


@dataclass
class Served:
    """A pipeline that is ready to be asked: its executor, and the failures of its steps."""

    executor: Executor
    limits: Limits = field(default_factory=Limits)
    failures: problem.Failures = field(default_factory=problem.Failures)
    observer: Observer = field(default_factory=lambda: Observer(None))

    @property
    def graph(self) -> Graph:
        """Return what is served."""
        return self.executor.program.graph

    async def __call__(
        self,
        arguments: Mapping[str, Any],
        on_node: Callable[[str, Any], None] | None = None,
    ) -> Any:
        """Run one request.

        Args:
            arguments: by name; those that are missing have their default.
            on_node: called with the name and value of each node that has finished.

        Raises:
            Overloaded: too many are going on.
            StepError: a step raised.
            DeadlineExceeded: it took longer than ``request_timeout_s``.
        """
        came, execution = perf_counter(), None
        try:
            execution = await self.run(arguments, on_node)
            if execution.error is not None:
                raise execution.error
        except Exception as error:
            status = error.status if isinstance(error, MlkitError) else 500
            self.observer.answered(execution, came, None, status=status)
            raise
        self.observer.answered(execution, came, None)
        return execution.output

    async def run(
        self,
        arguments: Mapping[str, Any],
        on_node: Callable[[str, Any], None] | None = None,
    ) -> Execution:
        """Run one request, whatever it ends with, and count nothing; see `__call__`.

        Raises:
            Overloaded: too many are going on.
        """
        if self.executor.in_flight >= self.limits.max_ongoing_requests:
            raise Overloaded("too many requests are going on", fix="try again in a second")
        HOPS.set([])
        deadline = perf_counter() + self.limits.request_timeout_s
        return await self.executor.run(
            {**self._defaults, **arguments}, deadline=deadline, on_node=on_node
        )

    @cached_property
    def _defaults(self) -> dict[str, Any]:
        return {p.name: p.default for p in self.graph.parameters if not p.required}

    async def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments as a route gives them, to what the pipeline takes; no text is a path.

        Raises:
            InputError: they do not fit.
        """
        try:
            given = signature_of(self.graph).bind(*args, **kwargs).arguments
        except TypeError as error:
            raise InputError(f"{error}", where=f"pipeline {self.graph.name!r}") from None
        types = {p.name: p.type for p in self.graph.parameters}
        return {name: await from_route(port(types[name]), v) for name, v in given.items()}


def create_app(
    graph: Graph,
    served: Callable[[], Served | None],
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
        limits: the body's is used here, the others by `Served`.
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
    app.state.schemas = {}
    found = {graph.name: (graph, served)}
    for name, other in (others or {}).items():
        found[name] = (other.graph, lambda other=other: other)  # type: ignore[misc]
    handlers = {
        f"/{name}": _add_pipeline(app, one, Payloads(one, limits.max_body_bytes), give)
        for name, (one, give) in found.items()
    }
    own = FastAPI(openapi_url=None)  # what answers beside the pipelines and the user's routes
    _add_health(own, served, version)
    add_docs(own, app, graph.name, secured=token is not None)
    app.router.routes += own.routes
    _add_metrics(app, graph.name, metrics)
    _add_problems(app, graph.name, served)
    given: ASGIApp = Pipelines(app, {name: give for name, (_, give) in found.items()})
    if fastapi is None:
        given = Direct(given, handlers)
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


def _add_pipeline(
    app: FastAPI, graph: Graph, payloads: Payloads, served: Callable[[], Served | None]
) -> Handler:
    encode, media_type, schema = _encoder(graph)
    said = words(graph.doc)
    packed = port(graph.returns).packed_type
    content: dict[str, Any] = {media_type: {"schema": schema}}
    if packed:
        content[packed] = {"schema": {"type": "string", "format": "binary"}}
    content |= {kind: {"schema": {"type": "string"}} for kind in stream.MEDIA_TYPES}
    events = stream.Events(graph)

    async def handle(request: Request) -> Response:
        pipeline = served()
        if pipeline is None:
            return problem.answer(503, "not ready yet", headers={"Retry-After": "1"})
        came, execution, headers = perf_counter(), None, request.headers
        try:
            arguments = await payloads.read(request)
            accept = headers.get("accept", "")
            if accept in stream.MEDIA_TYPES:
                return events.answer(accept, pipeline, arguments)
            execution = await pipeline.run(arguments)
            if execution.error is not None:
                raise execution.error
            if packed and accept == packed:
                response = Response(_pack(graph, execution.output), media_type=packed)
            else:
                response = Response(encode(execution.output), media_type=media_type)
        except ClientDisconnect:  # it left while its body was read: no failure of the pipeline's
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        except Exception as error:
            response = problem.of_error(error, graph.name, pipeline.failures)
        pipeline.observer.answered(
            execution, came, response, received=length_of(headers), id=given_id(headers)
        )
        return response

    app.post(
        f"/{graph.name}",
        summary=said.summary or graph.name,
        description=said.description,
        response_class=Response,
        responses={
            200: {"description": said.returns or "the result", "content": content},
            **error_answers(),
        },
        openapi_extra={"requestBody": request_body(payloads), "parameters": query(payloads)},
        operation_id=graph.name,
    )(handle)
    app.state.schemas |= schemas(payloads, graph)
    return handle


def _encoder(graph: Graph) -> tuple[Callable[[Any], bytes], str, dict[str, Any]]:
    """Result to body, the body's content type and its schema."""
    from pydantic import TypeAdapter

    found = port(graph.returns)
    if not found.converts:
        adapter: TypeAdapter[Any] = TypeAdapter(graph.returns)

        def dump(value: Any) -> bytes:
            return adapter.dump_json(value, fallback=plain, warnings=False)

        return dump, "application/json", reference(found.schema)
    if found.to_bytes is not None and found.schema.get("type") == "string":
        to_bytes = found.to_bytes
        media_type = "image/png" if found.media_type == "image/*" else "application/octet-stream"
        return lambda value: to_bytes(value)[0], media_type, {"type": "string", "format": "binary"}
    to_json = found.to_json
    return (
        # JSON has no NaN; null is what pydantic makes of one.
        lambda value: pydantic_core.to_json(to_json(value), fallback=plain, inf_nan_mode="null"),
        "application/json",
        dict(found.schema),
    )


def _pack(graph: Graph, result: Any) -> bytes:
    to_bytes = port(graph.returns).to_bytes
    assert to_bytes is not None
    return to_bytes(result)[0]


def _add_health(app: FastAPI, served: Callable[[], Served | None], version: str) -> None:
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


def _add_problems(app: FastAPI, pipeline: str, served: Callable[[], Served | None]) -> None:
    """Answer errors with problem documents, but for those that the application answers itself."""

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        headers = dict(error.headers) if error.headers else None
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
    for kind, handler in {**own, MlkitError: fault, Exception: fault}.items():
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
        response = await handler(Request(scope, receive))
        await response(scope, receive, send)


class Pipelines:
    """ASGI middleware: gives routes the pipelines that are served, by name."""

    def __init__(self, app: ASGIApp, served: Mapping[str, Callable[[], Served | None]]) -> None:
        self.app = app
        self.served = served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            ready = {name: one for name, give in self.served.items() if (one := give())}
            scope[SCOPE_KEY] = ready
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
