"""The card of a deployed app: what it is, where it is, whether it answers, and how to call it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

from mlkit.views import render

__all__ = ["Card", "State", "to_html", "to_text"]

State: TypeAlias = Literal["starting", "ready", "stopped", "failed"]

_SIGNS = {"starting": "◐", "ready": "●", "stopped": "○", "failed": "▲"}


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a card says. It holds no secret: the token is not among its fields.

    Attributes:
        name: the pipeline's.
        url: where it is served, with its path; "" while that is not known.
        routes: method and path each: ``POST /tag``.
        steps: their names, in order.
        replicas: how many answer now.
        wanted: how many there should be; None where that is not known.
        since: when it got into its state.
        facts: further lines, each a fact: ``version 3``, ``2 stages``.
        curl: a command that calls it, with the token as a variable of the shell.
        doc: what the pipeline is for; the first line is shown.
        call: how it is called from Python: ``app("shoe.jpg", title="...")``.
        message: where it stands while it starts, or why it failed.
    """

    name: str
    state: State
    url: str = ""
    routes: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    replicas: int = 0
    wanted: int | None = None
    since: datetime | None = None
    facts: tuple[str, ...] = ()
    curl: str = ""
    doc: str = ""
    call: str = ""
    message: str = ""


def to_text(card: Card) -> str:
    """The card in words."""
    lines = [f"{card.name}: {card.state}{_since(card)}"]
    lines += [f"  {line}" for line in card.message.splitlines()]
    lines += [f"  {name:8}  {value}" for name, value in _details(card)]
    if card.state == "ready":
        lines += [f"  {name:8}  {value}" for name, value in _calls(card)]
    return "\n".join(lines)


def to_html(card: Card) -> str:
    """The card as HTML."""
    return render(
        "card.html.j2",
        card=card,
        sign=_SIGNS[card.state],
        since=_since(card),
        doc=card.doc.strip().split("\n")[0],
        details=list(_details(card)),
        calls=list(_calls(card)) if card.state == "ready" else [],
    )


def _since(card: Card) -> str:
    return f" since {card.since:%H:%M:%S}" if card.since else ""


def _details(card: Card) -> Iterator[tuple[str, str]]:
    if card.url:
        yield "url", card.url
    if card.routes:
        yield "routes", ", ".join(card.routes)
    if card.steps:
        yield "steps", ", ".join(card.steps)
    if card.state in ("starting", "ready") and (card.replicas or card.wanted is not None):
        yield "replicas", _replicas(card)
    if card.facts:
        yield "facts", "; ".join(card.facts)


def _replicas(card: Card) -> str:
    if card.wanted is None or card.wanted == card.replicas:
        return f"{card.replicas} ready"
    return f"{card.replicas} of {card.wanted} ready"


def _calls(card: Card) -> Iterator[tuple[str, str]]:
    if card.call:
        yield "call", card.call
    if card.curl:
        yield "curl", card.curl
