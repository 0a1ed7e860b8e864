"""``GET /try``: a page with a form for a pipeline's arguments, which shows the answers.

The page sends requests to ``POST /try``, which is the pipeline's own route, except that results,
items and values of steps are rendered as a notebook does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute

from mlkit.define.arguments import Arguments
from mlkit.define.border import Port
from mlkit.define.exact import Exact
from mlkit.define.graph import Graph
from mlkit.define.port import json_text
from mlkit.media.preview import preview
from mlkit.serving.http.form import FormField, fields_of
from mlkit.serving.http.results import Results
from mlkit.serving.http.stream import LINES, Events, ItemEvents

__all__ = ["PATH", "RenderedResults", "TryPage", "add_playground", "declares_playground"]

PATH = "/try"


@dataclass(frozen=True)
class TryPage:
    """The page.

    Attributes:
        graph: the pipeline's graph.
        fields: the fields of its form.
        secured: whether other clients need a bearer token.
    """

    graph: Graph
    fields: tuple[FormField, ...]
    secured: bool

    @classmethod
    def of(cls, graph: Graph, arguments: Arguments, *, secured: bool) -> TryPage:
        """Describe the page of a pipeline."""
        return cls(graph, fields_of(arguments), secured)

    def _repr_html_(self) -> str:
        from mlkit.views.playground import to_html

        return to_html(self)

    def view(self) -> tuple[str, str]:
        """Return the whole page, and its ``Content-Security-Policy``."""
        from mlkit.views.playground import policy

        return self._repr_html_(), policy()


def declares_playground(routes: Sequence[BaseRoute], name: str) -> bool:
    """Whether the routes of a user's application have the page's path, with any method."""
    paths = {route.path for route in iter_route_contexts(routes)}
    return bool(paths & {PATH, f"/{name}{PATH}"})


def add_playground(
    own: FastAPI, page: Callable[[], TryPage], respond: Callable[[Request], Response]
) -> None:
    """Add the page and its route for requests.

    Args:
        own: application to add them to.
        page: returns the page; called for each reader.
        respond: returns the response to a request to the pipeline, with `RenderedResults`.
    """

    @own.get(PATH, include_in_schema=False)
    async def show() -> Response:
        html, policy = page().view()
        headers = {
            "Content-Security-Policy": policy,
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",  # the address may have had a code
            "X-Content-Type-Options": "nosniff",
        }
        return HTMLResponse(html, headers=headers)

    @own.post(PATH, include_in_schema=False)
    async def send(request: Request) -> Response:
        return respond(request)


@dataclass(frozen=True)
class _Answer:
    """A result or an item, as the page shows it."""

    value: Any

    def _repr_html_(self) -> str:
        from mlkit.views.value import to_html

        return to_html(self.value)


def _encoded(port: Port, value: Any) -> bytes:
    """A value as HTML, and as the JSON that other clients get."""
    shown: dict[str, Any] = {"html": _Answer(value)._repr_html_()}
    if port.to_bytes is None or port.packed_type or port.url:
        shown["json"] = port.to_text(value).decode()
    return json_text(shown)


class RenderedResults(Results):
    """Encodes results of a pipeline for its page, always as a stream of lines."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.events = _RenderedEvents(graph)
        if graph.streams:
            self.items = _RenderedItems(graph, Exact(graph))

    def preferred(self, accept: str) -> str:
        """Return the content type of lines."""
        return LINES


class _RenderedEvents(Events):
    def _encode(self, value: Any) -> Response:
        return Response(_encoded(self._result, value))

    def _step(self, name: str, value: Any, seconds: float) -> bytes:
        shown = preview(value)
        pictures = list(shown.thumbnails)
        at_ms = round(1e3 * seconds, 3)
        return json_text({"step": name, "at_ms": at_ms, "text": shown.text, "pictures": pictures})


class _RenderedItems(ItemEvents):
    def __init__(self, graph: Graph, exact: Exact) -> None:
        super().__init__(graph, exact)
        self._encoders[LINES] = partial(_encoded, self.item)
