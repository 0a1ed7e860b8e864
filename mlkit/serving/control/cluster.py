"""What the session process needs of Ray and Ray Serve, as an interface.

`mlkit.serving.port` implements it; tests use a fake. Every method may be cancelled: it returns
only when what it had begun has reached the cluster, so that a later call is never overtaken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

__all__ = [
    "ApplicationStatus",
    "Cluster",
    "ReplicaCounts",
    "ReplicaReport",
    "Target",
    "Telemetry",
    "missing",
]


@dataclass(frozen=True, kw_only=True)
class Target:
    """An application with one deployment, as Serve should have it.

    Attributes:
        name: of the application.
        deployment: name of its deployment.
        kind: what its replicas run.
        arguments: what each replica is started with.
        route_prefix: path that leads to it; None for one that only handles reach.
        version: changes when its replicas have to be replaced.
        user_config: what a running replica is told when it changes.
        options: Serve's deployment options by Serve's names.
    """

    name: str
    deployment: str
    kind: Literal["front", "stage"]
    arguments: tuple[Any, ...] = field(repr=False)
    version: str
    user_config: dict[str, Any]
    route_prefix: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ApplicationStatus:
    """What Serve says of one application.

    Attributes:
        state: as Serve has it, or "NOT_RUNNING".
        message: Serve's own words; of a failed deployment the last line of why.
        replicas: how many in which state.
        failed: whether its replicas do not start.
    """

    state: str
    message: str = ""
    replicas: Mapping[str, int] = field(default_factory=dict)
    failed: bool = False


@dataclass(frozen=True)
class ReplicaReport:
    """What one replica says of its versions.

    Attributes:
        loaded: versions that it answers.
        rejected: versions that it could not load, with why.
    """

    pid: int
    loaded: tuple[str, ...]
    rejected: Mapping[str, str]


@dataclass(frozen=True)
class ReplicaCounts:
    """How many replicas a stage has.

    Attributes:
        placed: replicas that have a place, ready or not.
        requested: what Ray sets aside for one replica.
        free: what nobody has taken in the whole cluster.
    """

    wanted: int
    ready: int
    placed: int
    requested: Mapping[str, float] = field(default_factory=dict)
    free: Mapping[str, float] = field(default_factory=dict)


def missing(counts: ReplicaCounts) -> str:
    """What the replicas that have no place lack, in words; "" for nothing."""
    unplaced = counts.wanted - counts.placed
    words = []
    for resource, amount in counts.requested.items():
        lack = unplaced * amount - counts.free.get(resource, 0.0)
        if lack > 1e-6:
            unit = resource if lack == 1 or resource not in ("CPU", "GPU") else f"{resource}s"
            words.append(f"{lack:g} {unit}")
    return " and ".join(words)


class Cluster(Protocol):
    """Ray Serve, as far as a session uses it."""

    local: bool
    """Whether Ray is the session's own, on this machine."""

    async def publish(self, path: Path) -> str:
        """Make a file of the session's store readable for every replica; its location."""

    async def retract(self, locations: Sequence[str]) -> None:
        """Forget what was published and is no longer needed."""

    async def apply(self, targets: Sequence[Target]) -> None:
        """Tell Serve what there should be; returns before it is so."""

    async def status(self, applications: Sequence[str]) -> dict[str, ApplicationStatus]:
        """What Serve says of each application."""

    async def reports(self, target: Target) -> list[ReplicaReport]:
        """What each running replica of a target says."""

    async def answering_version(self, base_url: str) -> str | None:
        """The version that answers HTTP at this moment; None where nothing does."""

    async def counts(
        self, applications: Mapping[str, str], *, beside: bool = False
    ) -> dict[str, ReplicaCounts]:
        """Counts by stage.

        Args:
            applications: name of the stage of each application.
            beside: whether old replicas that serve until new ones are ready count as wanted.
        """

    async def placement(self, applications: Mapping[str, str]) -> dict[str, Any]:
        """Where replicas sit, and what is taken of each node."""

    async def delete(self, applications: Sequence[str]) -> None:
        """Remove applications; returns when they are gone."""

    async def keep_spares(self) -> None:
        """Have idle processes ready for the next replicas, where that can be done."""


class Telemetry(Protocol):
    """What the replicas of a session counted, and what was decided of them."""

    name: str
    """By which replicas find it."""

    async def since(self, app: str, number: int, scaling: int) -> tuple[int, list[Any], Any]:
        """The last number, deltas after a number, and decisions after another."""

    async def traces(self, app: str, slowest: int, id: str) -> list[Any]:
        """Packed traces: the slowest, or the one of an id."""

    async def peek(self, app: str, step: str, until: float) -> list[dict[str, Any]]:
        """Samples of a step; its replicas take more until then."""

    async def record_scaling(
        self, app: str, decisions: Sequence[Mapping[str, Any]], counts: Sequence[Mapping[str, Any]]
    ) -> None:
        """Add to the log of an app's scaling."""

    async def forget(self, app: str) -> None:
        """Drop everything of an app."""
