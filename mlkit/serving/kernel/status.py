"""What is said of an app: its state, and what its replicas printed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from mlkit.define.typing import show
from mlkit.serving.replica.output import LogLine
from mlkit.views.card import Card

if TYPE_CHECKING:
    from mlkit.serving.kernel.app import App

__all__ = ["AppStatus", "Logs", "card_of"]


@dataclass(frozen=True)
class AppStatus:
    """State of an app at one moment.

    Attributes:
        state: "RUNNING", "DEPLOYING", "DEPLOY_FAILED", "UNHEALTHY", "DELETING" as Serve has it, or
            "NOT_RUNNING".
        replicas: how many in which state, all stages together.
        message: Serve's own words, where it has any.
        stages: how many replicas of each stage in which state.
    """

    state: str
    replicas: dict[str, int]
    message: str
    stages: dict[str, dict[str, int]]

    @property
    def ready(self) -> bool:
        """Whether it answers requests."""
        return self.state == "RUNNING"


class Logs(list[LogLine]):
    """Lines that replicas printed; its text is one a line."""

    def __str__(self) -> str:
        return "\n".join(map(str, self))

    def __repr__(self) -> str:
        return str(self) or "nothing printed yet"


def card_of(app: App, since: float) -> Card:
    """What an app shows of itself in a cell; it was deployed at ``since``."""
    parameters = ", ".join(
        f"{p.name}: {show(p.type)}" + ("" if p.required else f" = {p.default!r}")
        for p in app.graph.parameters
    )
    return Card(
        name=app.name,
        state="stopped" if app.closed else "ready",
        url=app.url,
        routes=(f"POST /{app.name}", "GET /docs"),
        doc=app.graph.doc.partition("\n")[0],
        call=f"app({parameters}) -> {show(app.graph.returns)}",
        curl="" if app.closed else app.curl(),
        steps=tuple(node.name for node in app.graph),
        since=datetime.fromtimestamp(since).astimezone(),
    )
