"""What ``/openapi.json`` and ``/docs`` say of a pipeline: its own words, schemas and errors."""

from __future__ import annotations

import copy
from importlib import resources
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import JSONResponse, Response

from mlkit.define.border import port
from mlkit.define.graph import Graph
from mlkit.serving.http import problem
from mlkit.serving.http.payload import Payloads

__all__ = ["add_docs", "error_answers", "query", "reference", "request_body", "schemas"]


def reference(schema: Any) -> dict[str, Any]:
    """The schema, its definitions left to the document's components."""
    kept = {k: v for k, v in schema.items() if k != "$defs"}
    title = kept.get("title")
    if title and kept.get("type") == "object":
        return {"$ref": f"#/components/schemas/{title}"}
    return kept


def schemas(payloads: Payloads, graph: Graph) -> dict[str, Any]:
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


def request_body(payloads: Payloads) -> dict[str, Any]:
    """The bodies that are taken, by content type."""
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


def query(payloads: Payloads) -> list[dict[str, Any]]:
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


def error_answers() -> dict[int | str, dict[str, Any]]:
    """What may come instead of a result, by status."""
    content = {problem.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {s: {"description": words, "content": content} for s, words in _STATUSES.items()}


def add_docs(own: FastAPI, app: FastAPI, name: str, *, secured: bool) -> None:
    """Add to ``own`` what documents ``app``: its document, and the page with all of its files."""
    files = {
        "swagger-ui-bundle.js": "text/javascript",
        "swagger-ui.css": "text/css",
        "favicon-32x32.png": "image/png",
    }

    @own.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return JSONResponse(_document(app, secured=secured))

    @own.get("/docs", include_in_schema=False)
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

    @own.get("/swagger/{file}", include_in_schema=False)
    async def swagger(file: str) -> Response:
        if file not in files:
            return problem.answer(404, "Not Found")
        data = resources.files("fastapi_swagger.resources").joinpath(file).read_bytes()
        return Response(data, media_type=files[file], headers={"Cache-Control": "max-age=86400"})


def _document(app: FastAPI, *, secured: bool) -> dict[str, Any]:
    # FastAPI keeps what it made and gives it to whoever asks.
    document = copy.deepcopy(app.openapi())
    components = document.setdefault("components", {})
    components.setdefault("schemas", {}).update(app.state.schemas)
    if secured:
        components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"bearer": []}]
    return document
