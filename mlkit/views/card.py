"""The card of a deployed app, as text and as HTML: where it is, since when, and how to call it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from mlkit.define.typing import show
from mlkit.serving.kernel.app import App
from mlkit.views.templating import render

__all__ = ["Card", "card_of", "to_html", "to_text"]


@dataclass(frozen=True, kw_only=True)
class Card:
    """Fields of a card. None of them holds the token.

    Attributes:
        running: whether the app is ready for requests; it was shut down otherwise.
        url: address of the pipeline's route.
        routes: method and path of each route: ``POST /tag``.
        steps: names of the steps, in order.
        trial: the version on trial, with its shares; "" if there is none.
        outdated: steps whose cells differ by now; "" if there are none.
        curl: shell command that sends a request; it refers to the token by a file.
        doc: first line of the pipeline's docstring.
        call: Python call with its types: ``app(image: ImageSource) -> ProductTags``.
    """

    name: str
    running: bool
    url: str
    routes: tuple[str, ...]
    steps: tuple[str, ...]
    trial: str
    outdated: str
    since: datetime
    curl: str
    doc: str
    call: str

    @property
    def state(self) -> str:
        """The state as it is displayed, and as the style sheet names it."""
        return "ready" if self.running else "stopped"

    @property
    def details(self) -> Iterator[tuple[str, str]]:
        """Labelled facts."""
        yield "url", self.url
        yield "routes", ", ".join(self.routes)
        yield "steps", ", ".join(self.steps)
        if self.trial:
            yield "on trial", self.trial
        if self.outdated:
            yield "changed", f"{self.outdated}: deploy again to serve what the cells say now"

    @property
    def calls(self) -> Iterator[tuple[str, str]]:
        """Labelled ways to call the app; none once it was shut down."""
        if self.running:
            yield "call", self.call
            yield "curl", self.curl


def card_of(app: App) -> Card:
    """Describe an app."""
    parameters = ", ".join(map(str, app.graph.parameters))
    return Card(
        name=app.name,
        running=not app.closed,
        url=app.url,
        routes=(f"POST /{app.name}", "GET /docs", "GET /try"),
        steps=tuple(node.name for node in app.graph),
        trial=f"{app.trial} of {app.trial.version}" if app.trial else "",
        outdated=", ".join(app.outdated) if not app.closed else "",
        since=datetime.fromtimestamp(app._since).astimezone(),
        curl=app.curl(),
        doc=app.graph.doc.partition("\n")[0],
        call=f"app({parameters}) -> {show(app.graph.returns)}",
    )


def to_text(card: Card) -> str:
    """Render the card as text."""
    facts = [f"  {label:8}  {value}" for label, value in (*card.details, *card.calls)]
    return "\n".join([f"{card.name}: {card.state} since {card.since:%H:%M:%S}", *facts])


def to_html(card: Card) -> str:
    """Render the card as HTML."""
    return render("card.html.j2", card=card)
