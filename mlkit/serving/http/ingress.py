"""The ASGI application of a pipeline, generated from its types.

``POST /<name>`` accepts JSON, multipart or a raw body and returns the pipeline's result. At the
root and under ``/<name>`` are ``/docs``, ``/openapi.json``, ``/try``, ``/healthz`` and ``/readyz``.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from fastapi import FastAPI, Request
from fastapi.routing import iter_route_contexts
from fastapi.utils import is_body_allowed_for_status_code
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Match, Mount, Route, compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlkit.define.docstring import words
from mlkit.define.exact import PROCESS_KEY
from mlkit.define.graph import Graph
from mlkit.errors import MlkitError
from mlkit.metrics.context import context_of, entered
from mlkit.metrics.prometheus import CONTENT_TYPE, OPENMETRICS
from mlkit.serving.http import problem
from mlkit.serving.http.access import Access, RedeemedCodes
from mlkit.serving.http.dependency import FAULT_KEY, SCOPE_KEY
from mlkit.serving.http.documentation import Documents, add_docs
from mlkit.serving.http.handlers import Handlers
from mlkit.serving.http.holders import Holders
from mlkit.serving.http.idempotency import Idempotency
from mlkit.serving.http.inference import add_inference
from mlkit.serving.http.jobs import Jobs
from mlkit.serving.http.lifecycle import Ready, Served
from mlkit.serving.http.mcp import add_tools
from mlkit.serving.http.pace import paced
from mlkit.serving.http.payload import Payloads
from mlkit.serving.http.playground import (
    RenderedResults,
    TryPage,
    add_playground,
    declares_playground,
)
from mlkit.serving.http.results import Results
from mlkit.serving.http.terms import Terms
from mlkit.serving.http.tools import Tool
from mlkit.serving.http.userapp import check_paths, declares, derived
from mlkit.serving.http.userdocs import complete
from mlkit.serving.limits import Limits

__all__ = ["create_app"]

Handler: TypeAlias = Callable[[Request, Send], Awaitable[None]]

OPENAPI = "/openapi.json"


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
    metrics: Callable[[bool], Awaitable[bytes]] | None = None,
    traced: bool = False,
    holders: Holders | None = None,
    jobs: Jobs | None = None,
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
        fastapi: application to add routes to. Those of pipelines come before its own, which take
            precedence over all others, except for applications mounted at its root.
        others: further pipelines by name.
        guarded: whether requests are authenticated; see `Access`.
        codes: one-time codes for the documentation that were already used.
        metrics: returns the body of ``GET /metrics``, as OpenMetrics or not; without it, there is
            no such route.
        traced: whether requests begin a trace, unless their clients have.
        holders: the named tokens, in addition to ``token``.
        jobs: runs jobs; without it, there are no routes for them.

    Raises:
        DeployError: the application declares the path of a pipeline itself.
    """
    if fastapi is None:
        description = words(graph.doc).description
        app = FastAPI(title=graph.name, description=description, version="1", openapi_url=None)
    else:
        app = derived(fastapi)
        check_paths(app, [graph.name, *(others or ())])
        if app.max_body_size is None:  # the user's routes
            app.max_body_size = limits.max_body_bytes
    declared = list(_patterns(app.routes, f"/{graph.name}"))
    own_handlers = Handlers(app, graph.name, served)
    respond = None if fastapi is None else own_handlers
    pipelines: dict[str, tuple[Graph, Ready]] = {graph.name: (graph, served)}
    for name, other in (others or {}).items():
        pipelines[name] = (other.graph, lambda other=other: other)  # type: ignore[misc]
    codings = {
        name: (Payloads(each, limits.max_body_bytes, exact_key), Results(each))
        for name, (each, _) in pipelines.items()
    }
    documents = Documents(codings)
    theirs, app.router.routes = app.router.routes, []  # a pipeline is called whatever they match
    handlers = {
        f"/{name}": _add_pipeline(app, each, *codings[name], documents, ready, respond, limits)
        for name, (each, ready) in pipelines.items()
    }
    own = FastAPI(openapi_url=None)  # routes other than the pipelines' and the user's
    _add_health(own, served, version)
    add_docs(own, app, documents, graph.name, secured=token is not None)
    # Dependencies of the whole application, such as authentication, would not run on these.
    guards = bool(app.router.dependencies)
    if not guards and not declares_playground(theirs, graph.name):
        payloads, _ = codings[graph.name]
        page = partial(TryPage.of, graph, payloads.arguments, secured=token is not None)
        attempt = _handler(served, payloads, RenderedResults(graph), None)
        add_playground(own, page, partial(_Exchange, attempt))
    if not guards:
        _add_protocols(own, theirs, graph.name, pipelines, codings, version)
    _add_jobs(own, None if guards else jobs, theirs, graph.name)
    # Beside a pipeline at /jobs, /tag/jobs is not that pipeline.
    jobs_at = f"/{graph.name}/jobs"
    declared += _patterns(own.routes, jobs_at, exact=True) if "jobs" in pipelines else ()
    if fastapi is not None:
        _add_document_at(own, fastapi.openapi_url)
    everything = [route for route in theirs if isinstance(route, Mount) and not route.path]
    app.router.routes += [route for route in theirs if route not in everything]
    app.router.routes += own.routes
    known = len(app.router.routes)
    if metrics is not None:
        _add_metrics(app, metrics, documents)
    observed = app.router.routes[known:]
    app.router.routes += everything  # such as `mount("/", StaticFiles(...))`
    own_handlers.install(app)
    paths = [*handlers, *(route.path for route in own.routes if isinstance(route, Route))]
    app.openapi = complete(  # type: ignore[method-assign]
        app, paths, documents.problem if own_handlers.validates else None
    )
    cors = [layer for layer in app.user_middleware if _is_cors(layer)]
    app.user_middleware = [layer for layer in app.user_middleware if layer not in cors]
    outer: ASGIApp = Direct(app, handlers) if fastapi is None else app
    origins: list[CORSMiddleware] = []
    if guarded:
        codes = codes or RedeemedCodes()
        outer = Access(
            outer,
            own,
            app.router.routes,
            token,
            graph.name,
            codes,
            origins=origins,
            holders=holders,
            observed=observed,
        )
    for layer in reversed(cors):
        # Around the authentication: a preflight has no token, and a page may read any error.
        crossing: Any = layer.cls(outer, *layer.args, **layer.kwargs)
        origins.append(crossing)
        outer = crossing
    ready_by_name = {name: ready for name, (_, ready) in pipelines.items()}
    context = {SCOPE_KEY: ready_by_name, FAULT_KEY: own_handlers.respond}
    prefixed = Prefixed(outer, graph.name, context, app.routes, declared, app.root_path)
    return Identified(prefixed, traced=traced)


def _is_cors(layer: Middleware) -> bool:
    return isinstance(layer.cls, type) and issubclass(layer.cls, CORSMiddleware)


def _add_pipeline(
    app: FastAPI,
    graph: Graph,
    payloads: Payloads,
    results: Results,
    documents: Documents,
    served: Ready,
    handlers: Handlers | None,
    limits: Limits,
) -> Handler:
    doc = words(graph.doc)
    handle = _handler(served, payloads, results, handlers, Idempotency(limits))

    async def route(request: Request, response: Response) -> Response:
        return _Exchange(handle, request, response)

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


def _handler(
    served: Ready,
    payloads: Payloads,
    results: Results,
    handlers: Handlers | None,
    idempotency: Idempotency | None = None,
) -> Handler:
    """Return a function that responds to a request to a pipeline."""

    async def handle(request: Request, send: Send) -> None:
        pipeline = served()
        if pipeline is None:
            response = problem.answer(503, "not ready yet", headers={"Retry-After": "1"})
            await response(request.scope, request.receive, send)
            return
        respond = None if handlers is None else partial(handlers, request)

        key = None if idempotency is None else idempotency.key(request)
        if idempotency is None or key is None:
            await pipeline.answer(request, send, payloads, results, respond)
            return

        async def answer(send: Send, begun: Terms | None) -> None:
            await pipeline.answer(request, send, payloads, results, respond, begun)

        try:
            await idempotency.answer(key, request, send, answer)
        except (ClientDisconnect, HTTPException, MlkitError) as error:  # before it began
            await pipeline.refuse(request, send, error, respond)

    return handle


class _Exchange(Response):
    """Response that handles the request while it is sent.

    The request is therefore in flight until sending ends, or fails.

    Args:
        handle: responds to the request.
        request: the request.
        extra: what dependencies of the application add: headers, cookies and a status.
    """

    def __init__(self, handle: Handler, request: Request, extra: Response | None = None) -> None:
        super().__init__()
        self._handle = handle
        self._request = request
        self._extra = extra

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._request._receive = paced(self._request.receive)
        extra = self._extra
        # FastAPI adds them to responses that it makes itself.
        if extra is not None and (extra.raw_headers or extra.status_code):
            send = partial(_send_with, extra, send)
        await self._handle(self._request, send)
        if self.background is not None:  # set by a dependency of the application
            await self.background()


async def _send_with(extra: Response, send: Send, message: Message) -> None:
    """Send a message of a response, with the headers and status of another if it succeeds."""
    if message["type"] == "http.response.start" and message["status"] < 400:
        added = [h for h in extra.raw_headers if h[0] not in (b"content-length", b"content-type")]
        message = {**message, "headers": [*message.get("headers", ()), *added]}
        # The response has a body, which statuses such as 204 forbid.
        if extra.status_code and is_body_allowed_for_status_code(extra.status_code):
            message["status"] = extra.status_code
    await send(message)


def _add_jobs(own: FastAPI, jobs: Jobs | None, theirs: Sequence[BaseRoute], name: str) -> None:
    if jobs is not None and not declares(theirs, *_at("/jobs", name)):
        jobs.add_to(own)


def _add_protocols(
    own: FastAPI,
    theirs: Sequence[BaseRoute],
    name: str,
    pipelines: Mapping[str, tuple[Graph, Ready]],
    codings: Mapping[str, tuple[Payloads, Results]],
    version: str,
) -> None:
    """Add the routes of other protocols, unless the user's application has such routes."""
    if not declares(theirs, "/v2"):
        models = {key: (*codings[key], ready) for key, (_, ready) in pipelines.items()}
        add_inference(own, models, version, _Exchange)
    if not declares(theirs, *_at("/mcp", name)):
        tools = {key: Tool(each, *codings[key], ready) for key, (each, ready) in pipelines.items()}
        add_tools(own, name, tools, version, _Exchange)


def _at(path: str, name: str) -> tuple[str, str]:
    """Where a route is: at the root of the app, and under its name."""
    return path, f"/{name}{path}"


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


def _add_document_at(own: FastAPI, path: str | None) -> None:
    """Serve the OpenAPI document also where the user's application does."""
    if path is None or path == OPENAPI:
        return
    for route in list(own.routes):
        if isinstance(route, Route) and route.path == OPENAPI:
            own.add_api_route(path, route.endpoint, include_in_schema=False)


def _add_metrics(
    app: FastAPI, metrics: Callable[[bool], Awaitable[bytes]], documents: Documents
) -> None:
    content = {problem.MEDIA_TYPE: {"schema": {"$ref": documents.problem}}}

    @app.get(
        "/metrics",
        summary="Metrics of all replicas, in Prometheus's text format, or as OpenMetrics",
        tags=["health"],
        response_class=Response,
        responses={
            200: {"description": "metrics", "content": {"text/plain": {}, OPENMETRICS: {}}},
            401: {"description": "missing or invalid bearer token", "content": content},
            403: {"description": "the token lacks the scope", "content": content},
            429: {"description": "too many requests with the token", "content": content},
            503: {"description": "temporarily unavailable", "content": content},
        },
    )
    async def scrape(request: Request) -> Response:
        openmetrics = "application/openmetrics-text" in request.headers.get("accept", "")
        try:
            text = await metrics(openmetrics)
            return Response(text, media_type=OPENMETRICS if openmetrics else CONTENT_TYPE)
        except Exception:  # the actor that aggregates them is restarting
            return problem.answer(503, "no metrics yet", headers={"Retry-After": "1"})


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
        await handler(Request(scope, paced(receive)), send)


class Identified:
    """ASGI middleware: has code know the request that it runs for; see `mlkit.metrics.context`."""

    def __init__(self, app: ASGIApp, *, traced: bool) -> None:
        self.app = app
        self.traced = traced

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, in its context."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with entered(context_of(scope["headers"], traced=self.traced)):
            await self.app(scope, receive, send)


class Prefixed:
    """ASGI middleware: serves an application at the root and under ``/<name>/``.

    Serve passes the full path; if that is where the app is served, with ``/<name>`` as
    ``root_path``. The routes of pipelines are declared with full paths.

    Args:
        app: the application.
        name: name of the pipeline.
        context: further entries of the scope.
        routes: the routes of the application.
        declared: paths of the user's routes that are under ``/<name>/`` themselves.
        root_path: path of the application behind a proxy.
    """

    def __init__(
        self,
        app: ASGIApp,
        name: str,
        context: Mapping[str, Any],
        routes: Sequence[BaseRoute],
        declared: Sequence[re.Pattern[str]] = (),
        root_path: str = "",
    ) -> None:
        self.app = app
        self.context = context
        self.prefix = f"/{name}"
        self.routes = routes
        self.declared = declared
        self.root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Rewrite the path."""
        if scope["type"] in ("http", "websocket"):
            path, above = scope["path"], scope.get("root_path", "")
            scope = {**scope, **self.context, "root_path": self.root_path, "mlkit.path": path}
            if path.startswith(self.prefix + "/"):
                scope = self._rewritten(scope, above)
        await self.app(scope, receive, send)

    def _rewritten(self, scope: Scope, above: str) -> Scope:
        """Drop the prefix, unless a route of the user's has it."""
        path = scope["path"]
        if any(pattern.match(path) for pattern in self.declared):
            return scope
        rest = path[len(self.prefix) :].rstrip("/")
        if not rest:
            return {**scope, "path": self.prefix}
        if above == self.prefix and not self.root_path:
            return {**scope, "root_path": above}  # URLs of the application have the prefix
        rewritten = {**scope, "path": rest}
        # A route such as /{kind}/list has the full path as well.
        return scope if self._matches(scope) and not self._matches(rewritten) else rewritten

    def _matches(self, scope: Scope) -> bool:
        # FastAPI modifies the scope while matching.
        return any(route.matches(dict(scope))[0] is not Match.NONE for route in self.routes)


def _patterns(
    routes: Sequence[BaseRoute], prefix: str, *, exact: bool = False
) -> Iterator[re.Pattern[str]]:
    """The paths of routes that are declared under a prefix."""
    for route in iter_route_contexts(routes):
        path = route.path or ""
        if isinstance(route.original_route, Mount):
            path += "/{path:path}"
        if path.startswith(prefix + "/") or (exact and path == prefix):
            yield compile_path(path)[0]
