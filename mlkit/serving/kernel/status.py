"""What is said of an app: its state, and what its replicas printed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from mlkit.serving.replica.output import LogLine

__all__ = ["AppStatus", "Logs", "Snapshot"]


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


class Snapshot(Protocol):
    """What `App.view` returns; it displays itself in a cell."""

    @property
    def html(self) -> str:
        """Standalone HTML without scripts."""

    @property
    def svg(self) -> str:
        """The charts as one SVG."""
