"""The HTTP face of a pipeline: a FastAPI application made from its types.

``POST /<name>`` takes JSON, multipart or a raw body and answers with the pipeline's result; beside
it, at the root and under ``/<name>``, are ``/docs``, ``/openapi.json``, ``/healthz``, ``/readyz``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from importlib import resources
from time import perf_counter
from typing import Any

import pydantic_core
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mlkit.define.border import plain, port
from mlkit.define.graph import Graph
from mlkit.errors import InputError, MlkitError, Overloaded
from mlkit.execute import Executor
from mlkit.serving import problem
from mlkit.serving.access import Access
from mlkit.serving.client import packed_type
from mlkit.serving.limits import Limits
from mlkit.serving.payload import Invalid, Payloads

__all__ = ["Served", "create_app"]


@dataclass
class Served:
    """A pipeline that is ready to be asked: its executor, and the failures of its steps."""

    executor: Executor
    limits: Limits = field(default_factory=Limits)
    failures: problem.Failures = field(default_factory=problem.Failures)

    @property
    def graph(self) -> Graph:
        """Return what is served."""
        return self.executor.program.graph

    async def __call__(self, arguments: dict[str, Any]) -> Any:
        """Run one request.

        Raises:
            Overloaded: too many are going on.
            StepError: a step raised.
            DeadlineExceeded: it took longer than ``request_timeout_s``.
        """
        if self.executor.in_flight >= self.limits.max_ongoing_requests:
            raise Overloaded("too many requests are going on", fix="try again in a second")
        deadline = perf_counter() + self.limits.request_timeout_s
        defaults = {p.name: p.default for p in self.graph.parameters if not p.required}
        execution = await self.executor.run({**defaults, **arguments}, deadline=deadline)
        if execution.error is not None:
            raise execution.error
        return execution.output


def create_app(
    graph: Graph,
    served: Callable[[], Served | None],
    limits: Limits,
    token: str | None,
    version: str = "",
) -> ASGIApp:
    """The ASGI application of a pipeline.

    Args:
        graph: the pipeline's.
        limits: the body's is used here, the others by `Served`.
        served: gives the pipeline once it is ready, None before.
        token: what callers send as ``Authorization: Bearer``; None asks for none.
        version: what ``/readyz`` tells, so that one can see which version answers.
    """
    payloads = Payloads(graph, limits.max_body_bytes)
    app = FastAPI(
        title=graph.name,
        description=graph.doc,
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        openapi_tags=None,
    )
    _add_pipeline(app, graph, payloads, served)
    _add_health(app, served, version)
    _add_docs(app, graph.name, secured=token is not None)
    _add_problems(app)
    return Prefixed(Access(app, token, graph.name), graph.name)


def _add_pipeline(
    app: FastAPI, graph: Graph, payloads: Payloads, served: Callable[[], Served | None]
) -> None:
    encode, media_type, schema = _encoder(graph)
    packed = packed_type(port(graph.returns))
    content = {media_type: {"schema": schema}}
    if packed:
        content[packed] = {"schema": {"type": "string", "format": "binary"}}

    async def handle(request: Request) -> Response:
        pipeline = served()
        if pipeline is None:
            return problem.answer(503, "not ready yet", headers={"Retry-After": "1"})
        try:
            result = await pipeline(await payloads.read(request))
            if packed and request.headers.get("accept") == packed:
                return Response(_pack(graph, result), media_type=packed)
            return Response(encode(result), media_type=media_type)
        except Invalid as error:
            return problem.answer(422, str(error), pipeline=graph.name, errors=error.errors)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            return problem.of_error(error, graph.name, pipeline.failures)

    app.post(
        f"/{graph.name}",
        summary=graph.doc.partition("\n")[0] or graph.name,
        description=graph.doc,
        response_class=Response,
        responses={
            200: {"description": "the result", "content": content},
            **_error_answers(),
        },
        openapi_extra={"requestBody": _request_body(payloads), "parameters": _query(payloads)},
        operation_id=graph.name,
    )(handle)
    app.state.schemas = _schemas(payloads, graph)


def _encoder(graph: Graph) -> tuple[Callable[[Any], bytes], str, dict[str, Any]]:
    """Result to body, the body's content type and its schema."""
    from pydantic import TypeAdapter

    found = port(graph.returns)
    if not found.converts:
        adapter: TypeAdapter[Any] = TypeAdapter(graph.returns)

        def dump(value: Any) -> bytes:
            return adapter.dump_json(value, fallback=plain, warnings=False)

        return dump, "application/json", _reference(found.schema)
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


def _reference(schema: Any) -> dict[str, Any]:
    """The schema, its definitions left to the document's components."""
    kept = {k: v for k, v in schema.items() if k != "$defs"}
    title = kept.get("title")
    if title and kept.get("type") == "object":
        return {"$ref": f"#/components/schemas/{title}"}
    return kept


def _schemas(payloads: Payloads, graph: Graph) -> dict[str, Any]:
    """Component schemas: the request, the result, and what they are made of."""
    template = "#/components/schemas/{model}"
    request = payloads.model.model_json_schema(ref_template=template)
    result = dict(port(graph.returns).schema)
    found = {**request.pop("$defs", {}), **result.pop("$defs", {})}
    found[payloads.model.__name__] = request
    if result.get("title") and result.get("type") == "object":
        found[result["title"]] = result
    found["Problem"] = problem.SCHEMA
    return found


def _request_body(payloads: Payloads) -> dict[str, Any]:
    reference = {"$ref": f"#/components/schemas/{payloads.model.__name__}"}
    content: dict[str, Any] = {"application/json": {"schema": reference}}
    if payloads.upload is not None:
        kind = payloads.ports[payloads.upload].media_type
        content[kind] = {"schema": {"type": "string", "format": "binary"}}
    if payloads.uploads:
        content["multipart/form-data"] = {"schema": _form_schema(payloads)}
    return {"required": True, "content": content}


def _form_schema(payloads: Payloads) -> dict[str, Any]:
    request = payloads.model.model_json_schema(ref_template="#/components/schemas/{model}")
    properties = {
        name: {"type": "string", "format": "binary"} if name in payloads.uploads else schema
        for name, schema in request["properties"].items()
    }
    return {"type": "object", "properties": properties, "required": request.get("required", [])}


def _query(payloads: Payloads) -> list[dict[str, Any]]:
    """Fields that go with a raw body are query parameters."""
    if payloads.upload is None:
        return []
    request = payloads.model.model_json_schema(ref_template="#/components/schemas/{model}")
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": "with a raw body",
            "schema": schema,
        }
        for name, schema in request["properties"].items()
        if name != payloads.upload
    ]


_STATUSES = {
    401: "no or a wrong bearer token",
    413: "the body, or what it holds, is too large",
    415: "a kind of content that is not handled",
    422: "the input does not validate, or a step refuses it",
    424: "the URL that was given could not be fetched",
    500: "a step failed; `failure_id` names the traceback",
    503: "too many requests are going on, or not ready yet",
    504: "the request took too long",
}


def _error_answers() -> dict[int | str, dict[str, Any]]:
    content = {problem.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {s: {"description": words, "content": content} for s, words in _STATUSES.items()}


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


def _add_docs(app: FastAPI, name: str, *, secured: bool) -> None:
    files = {
        "swagger-ui-bundle.js": "text/javascript",
        "swagger-ui.css": "text/css",
        "favicon-32x32.png": "image/png",
    }

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return JSONResponse(_document(app, secured=secured))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        # Relative addresses: the page is at the root and under the pipeline's name.
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=name,
            swagger_js_url="swagger/swagger-ui-bundle.js",
            swagger_css_url="swagger/swagger-ui.css",
            swagger_favicon_url="swagger/favicon-32x32.png",
            # Without this, Swagger UI sends the document's address to a validator of its own.
            swagger_ui_parameters={"validatorUrl": None},
        )

    @app.get("/swagger/{file}", include_in_schema=False)
    async def swagger(file: str) -> Response:
        if file not in files:
            raise HTTPException(404)
        data = resources.files("fastapi_swagger.resources").joinpath(file).read_bytes()
        return Response(data, media_type=files[file], headers={"Cache-Control": "max-age=86400"})


def _document(app: FastAPI, *, secured: bool) -> dict[str, Any]:
    document = app.openapi()
    components = document.setdefault("components", {})
    components.setdefault("schemas", {}).update(app.state.schemas)
    if secured:
        components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"bearer": []}]
    return document


def _add_problems(app: FastAPI) -> None:
    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        headers = dict(error.headers) if error.headers else None
        return problem.answer(error.status_code, str(error.detail), headers=headers)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        errors = problem.errors_of(error.errors(), "request")
        return problem.answer(422, errors[0]["msg"] if errors else "invalid", errors=errors)

    async def fault(request: Request, error: Exception) -> Response:
        status = error.status if isinstance(error, MlkitError) else 500
        return problem.answer(status, str(error) if isinstance(error, InputError) else "a fault")

    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, fault)


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
