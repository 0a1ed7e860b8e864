"""The OpenAPI document of a user's application with pipelines in it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fastapi import FastAPI

from mlkit.serving.http import problem

__all__ = ["complete", "locate", "secure"]

METHODS = frozenset({"get", "put", "post", "delete", "options", "head", "patch", "trace"})
OWN_HEADER = "X-Mlkit-Token"


def complete(app: FastAPI, paths: Sequence[str], reference: str | None) -> Callable[[], Any]:
    """Return a replacement of ``app.openapi``, which may be a function of the user's.

    Args:
        app: the application.
        paths: paths of mlkit's own routes, which a function of the user's does not know.
        reference: of the schema of problem documents, if mlkit responds to invalid requests.
    """
    build = app.openapi

    def openapi() -> dict[str, Any]:
        document = copy.deepcopy(build())
        missing = [path for path in paths if path not in document.setdefault("paths", {})]
        if missing:
            whole = FastAPI.openapi(app)
            document["paths"] |= {p: whole["paths"][p] for p in missing if p in whole["paths"]}
        if reference is not None:
            _declare_problems(document, reference)
        return document

    return openapi


def _declare_problems(document: dict[str, Any], problems: str) -> None:
    """Declare the problem documents that are sent instead of FastAPI's validation errors."""
    reference = {"$ref": "#/components/schemas/HTTPValidationError"}
    content = {problem.MEDIA_TYPE: {"schema": {"$ref": problems}}}
    for operation in _operations(document):
        response = operation.get("responses", {}).get("422", {})
        if response.get("content", {}).get("application/json", {}).get("schema") == reference:
            response["content"] = content
    schemas = document.get("components", {}).get("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        if f'"#/components/schemas/{name}"' not in json.dumps(document):
            schemas.pop(name, None)


def locate(document: dict[str, Any], root_path: str) -> None:
    """Name the path that the application is served at, as FastAPI does."""
    servers = document.get("servers", [])
    if root_path and root_path not in [server.get("url") for server in servers]:
        document["servers"] = [{"url": root_path}, *servers]


def secure(document: dict[str, Any]) -> None:
    """Declare the bearer token, in addition to what the user's routes require themselves."""
    schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes["bearer"] = {"type": "http", "scheme": "bearer"}
    document["security"] = [{"bearer": []}]
    for operation in _operations(document):
        if own := operation.get("security"):  # which may read Authorization
            schemes[OWN_HEADER] = {"type": "apiKey", "in": "header", "name": OWN_HEADER}
            operation["security"] = [{**requirement, OWN_HEADER: []} for requirement in own]


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for item in document.get("paths", {}).values():
        yield from (operation for method, operation in item.items() if method in METHODS)
