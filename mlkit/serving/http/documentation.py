"""The OpenAPI document of a pipeline, and its Swagger UI."""

from __future__ import annotations

import copy
from importlib import resources
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mlkit.define.border import port
from mlkit.define.graph import Graph
from mlkit.serving.http import problem
from mlkit.serving.http.payload import Payloads
from mlkit.serving.http.userdocs import locate, secure

__all__ = ["add_docs", "error_responses", "openapi_extra", "reference", "schemas"]


def reference(schema: Any) -> dict[str, Any]:
    """Return a schema without its definitions, which are among the document's components."""
    title = schema.get("title")
    if title and schema.get("type") == "object":
        return {"$ref": f"#/components/schemas/{title}"}
    return {keyword: value for keyword, value in schema.items() if keyword != "$defs"}


def schemas(payloads: Payloads, graph: Graph) -> dict[str, Any]:
    """Return the component schemas: request, result, their definitions, and problem documents."""
    request = _request_schema(payloads)
    result = dict(port(graph.returns).schema)
    components = {**request.pop("$defs", {}), **result.pop("$defs", {})}
    components[payloads.model.__name__] = request
    if result.get("title") and result.get("type") == "object":
        components[result["title"]] = result
    return {**components, "Problem": problem.SCHEMA}


def _request_schema(payloads: Payloads) -> dict[str, Any]:
    return payloads.model.model_json_schema(ref_template="#/components/schemas/{model}")


def openapi_extra(payloads: Payloads) -> dict[str, Any]:
    """Return the request bodies by content type, and the query parameters of a raw body."""
    request = _request_schema(payloads)
    binary = {"type": "string", "format": "binary"}
    json_schema = {"$ref": f"#/components/schemas/{payloads.model.__name__}"}
    content: dict[str, Any] = {"application/json": {"schema": json_schema}}
    parameters = []
    if payloads.upload is not None:
        content[payloads.ports[payloads.upload].media_type] = {"schema": binary}
        parameters = [
            {"name": name, "in": "query", "description": "with a raw body", "schema": schema}
            for name, schema in request["properties"].items()
            if name != payloads.upload
        ]
    if payloads.uploads:
        form = {
            "type": "object",
            "properties": request["properties"] | dict.fromkeys(payloads.uploads, binary),
            "required": request.get("required", []),
        }
        content["multipart/form-data"] = {"schema": form}
    return {"requestBody": {"required": True, "content": content}, "parameters": parameters}


_STATUSES = {
    401: "missing or invalid bearer token",
    413: "body or image too large",
    415: "unsupported content type or file format",
    422: "invalid input",
    424: "a URL in the request cannot be fetched",
    500: "a step failed; `failure_id` identifies the traceback",
    503: "too many requests in flight, or not ready yet",
    504: "deadline exceeded",
}


def error_responses() -> dict[int | str, dict[str, Any]]:
    """Return the error responses, by status."""
    content = {problem.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {s: {"description": text, "content": content} for s, text in _STATUSES.items()}


def add_docs(own: FastAPI, app: FastAPI, name: str, *, secured: bool) -> None:
    """Add the documentation of ``app`` to ``own``: OpenAPI document, Swagger UI and its files."""
    files = {
        "swagger-ui-bundle.js": "text/javascript",
        "swagger-ui.css": "text/css",
        "favicon-32x32.png": "image/png",
    }

    @own.get("/openapi.json", include_in_schema=False)
    async def openapi(request: Request) -> Response:
        document = _document(app, secured=secured)
        if app.root_path_in_servers:
            locate(document, request.scope["root_path"])
        return JSONResponse(document)

    @own.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        # Relative URLs: the page is served at the root and under the pipeline's name.
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=name,
            swagger_js_url="swagger/swagger-ui-bundle.js",
            swagger_css_url="swagger/swagger-ui.css",
            swagger_favicon_url="swagger/favicon-32x32.png",
            # Otherwise Swagger UI sends the URL of the document to a public validator.
            swagger_ui_parameters={"validatorUrl": None},
        )

    @own.get("/swagger/{file}", include_in_schema=False)
    async def swagger(file: str) -> Response:
        if file not in files:
            return problem.answer(404, "Not Found")
        data = resources.files("fastapi_swagger.resources").joinpath(file).read_bytes()
        return Response(data, media_type=files[file], headers={"Cache-Control": "max-age=86400"})


def _document(app: FastAPI, *, secured: bool) -> dict[str, Any]:
    # FastAPI caches the document and returns the same object each time.
    document = copy.deepcopy(app.openapi())
    components = document.setdefault("components", {})
    components.setdefault("schemas", {}).update(app.state.mlkit_schemas)
    if secured:
        secure(document)
    return document
