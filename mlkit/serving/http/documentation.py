"""The OpenAPI document of a pipeline, and its Swagger UI."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Container, Iterator, Mapping
from importlib import resources
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mlkit.define.jsonform import REF_TEMPLATE, documented
from mlkit.serving.http import problem
from mlkit.serving.http.idempotency import PARAMETER as IDEMPOTENCY_KEY
from mlkit.serving.http.payload import Payloads
from mlkit.serving.http.results import Results
from mlkit.serving.http.terms import PARAMETERS
from mlkit.serving.http.userdocs import locate, secure

__all__ = ["Documents", "add_docs"]


class Documents:
    """JSON schemas and responses of pipelines, for the OpenAPI document.

    They are generated together, so that types of one name get names of their own.

    Attributes:
        names: names of the pipelines.
        components: schemas by name.
        problem: reference to the schema of problem documents.
    """

    def __init__(self, pipelines: Mapping[str, tuple[Payloads, Results]]) -> None:
        self.names = tuple(pipelines)
        cores: list[tuple[str, Any, Any]] = []
        for name, (payloads, results) in pipelines.items():
            cores.append((name, "validation", payloads.arguments.schema.core))
            if results.returns.pydantic is not None:
                cores.append((name, "serialization", results.returns.pydantic.core))
            if results.items is not None and results.items.item.pydantic is not None:
                cores.append((_items(name), "serialization", results.items.item.pydantic.core))
        self._schemas, self.components = documented(cores)
        name = _unused("Problem", self.components)
        self.components[name] = problem.SCHEMA
        self.problem: str = _reference(name)["$ref"]
        for name, (payloads, _) in pipelines.items():
            request = self._schemas[name, "validation"]
            if "$ref" not in request:
                title = _unused(payloads.arguments.title, self.components)
                self.components[title] = request
                self._schemas[name, "validation"] = _reference(title)

    def result(self, name: str, results: Results) -> dict[str, Any]:
        """Return the schemas of a pipeline's result by content type."""
        content = dict(results.content)
        if (schema := self._schemas.get((name, "serialization"))) is not None:
            content["application/json"] = {"schema": schema}
        items = self._schemas.get((_items(name), "serialization"))
        if results.items is not None and items is not None:
            content |= results.items.content(items)
        return content

    def request(self, name: str, payloads: Payloads) -> dict[str, Any]:
        """Return request bodies by content type, parameters of a raw body, and headers."""
        reference = self._schemas[name, "validation"]
        request = self.components[reference["$ref"].rpartition("/")[2]]
        files, names = payloads.arguments.files, payloads.arguments.names
        binary = {"type": "string", "format": "binary"}
        content: dict[str, Any] = {"application/json": {"schema": reference}}
        parameters = [*PARAMETERS, IDEMPOTENCY_KEY]
        if payloads.arguments.raw is not None:
            content |= {
                kind: {"schema": binary} for kind in files[payloads.arguments.raw].port.media_types
            }
            parameters += [
                {"name": key, "in": "query", "description": "with a raw body", "schema": schema}
                for key, schema in request["properties"].items()
                if names[key] != payloads.arguments.raw
            ]
        if files:
            uploads = {
                key: {"type": "array", "items": binary} if files[own].many else binary
                for key, own in names.items()
                if own in files
            }
            content["multipart/form-data"] = {
                "schema": {
                    "type": "object",
                    "properties": request["properties"] | uploads,
                    "required": request.get("required", []),
                }
            }
        return {"requestBody": {"required": True, "content": content}, "parameters": parameters}

    def errors(self, payloads: Payloads) -> dict[int | str, dict[str, Any]]:
        """Return the error responses of a pipeline, by status."""
        content = {problem.MEDIA_TYPE: {"schema": {"$ref": self.problem}}}
        fetches = any(not upload.many for upload in payloads.arguments.files.values())
        errors: dict[int | str, dict[str, Any]] = {
            status: {"description": text, "content": content}
            for status, text in _STATUSES.items()
            if status != 424 or fetches
        }
        for status in (429, 502, 503):
            errors[status]["headers"] = {"Retry-After": _RETRY_AFTER}
        return errors


def _items(name: str) -> str:
    return f"{name}/items"


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": REF_TEMPLATE.format(model=name)}


def _unused(name: str, names: Container[str]) -> str:
    """Return a name that is not in use yet."""
    candidates = (name if not i else f"{name}-{i + 1}" for i in itertools.count())
    return next(candidate for candidate in candidates if candidate not in names)


_RETRY_AFTER = {"description": "seconds to wait", "schema": {"type": "integer", "minimum": 1}}

_STATUSES = {
    401: "missing or invalid bearer token",
    403: "the token lacks the scope",
    408: "the body arrives too slowly",
    413: "body or file too large",
    415: "unsupported content type or file format",
    422: "invalid input",
    424: "a URL in the request cannot be fetched",
    429: "too many requests with the token",
    500: "a step failed; `failure_id` identifies the traceback",
    502: "the replica died during the request",
    503: "too many requests in flight, or not ready yet",
    504: "deadline exceeded",
}


def add_docs(own: FastAPI, app: FastAPI, documents: Documents, name: str, *, secured: bool) -> None:
    """Add the documentation of ``app`` to ``own``: OpenAPI document, Swagger UI and its files."""
    files = {
        "swagger-ui-bundle.js": "text/javascript",
        "swagger-ui.css": "text/css",
        "favicon-32x32.png": "image/png",
    }

    @own.get("/openapi.json", include_in_schema=False)
    async def openapi(request: Request) -> Response:
        document = _document(app, documents, secured=secured)
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


def _document(app: FastAPI, documents: Documents, *, secured: bool) -> dict[str, Any]:
    # FastAPI caches the document and returns the same object each time.
    document = copy.deepcopy(app.openapi())
    components = document.setdefault("components", {})
    theirs = components.setdefault("schemas", {})
    renamed = {
        _reference(name)["$ref"]: _reference(_unused(name, {**theirs, **documents.components}))
        for name, schema in documents.components.items()
        if theirs.get(name, schema) != schema  # a schema of the user's routes
    }
    for name in documents.names:
        item = document.get("paths", {}).get(f"/{name}", {})
        item.update(
            _renamed({method: item[method] for method in item if method == "post"}, renamed)
        )
    if documents.problem in renamed:  # also of the user's routes
        for response in _problem_responses(document):
            if response["schema"] == {"$ref": documents.problem}:
                response["schema"] = renamed[documents.problem]
    for name, schema in _renamed(documents.components, renamed).items():
        reference = renamed.get(_reference(name)["$ref"], _reference(name))
        theirs[reference["$ref"].rpartition("/")[2]] = schema
    if secured:
        secure(document)
    return document


def _problem_responses(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for item in document.get("paths", {}).values():
        for operation in item.values():
            responses = operation.get("responses", {}) if isinstance(operation, dict) else {}
            for response in responses.values():
                if problem.MEDIA_TYPE in response.get("content", {}):
                    yield response["content"][problem.MEDIA_TYPE]


def _renamed(node: Any, renamed: Mapping[str, dict[str, Any]]) -> Any:
    """Replace references to schemas."""
    if isinstance(node, list):
        return [_renamed(child, renamed) for child in node]
    if not isinstance(node, dict):
        return node
    return {
        key: renamed[child]["$ref"]
        if key == "$ref" and isinstance(child, str) and child in renamed
        else _renamed(child, renamed)
        for key, child in node.items()
    }
