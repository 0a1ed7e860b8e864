"""Interface to Ray and Ray Serve for the session process; `mlkit.serving.port` implements it.

Every method may be cancelled. It then returns only after a call that has started has reached the
cluster, so that it cannot overtake a later one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

__all__ = [
    "ApplicationStatus",
    "ApplicationTarget",
    "Cluster",
    "ReplicaCounts",
    "ReplicaReport",
    "Telemetry",
    "missing",
]


@dataclass(frozen=True, kw_only=True)
class ApplicationTarget:
    """Desired state of a Serve application with one deployment.

    Attributes:
        kind: the class that its replicas run.
        arguments: constructor arguments of a replica.
        version: changes if the replicas must be replaced.
        user_config: configuration that running replicas accept without a restart.
        route_prefix: HTTP path; None for an application that is reached by handles only.
        options: deployment options by Serve's names.
        has_pools: whether calls that name a model prefer the replica that holds it.
    """

    name: str
    deployment: str
    kind: Literal["front", "stage"]
    arguments: tuple[Any, ...] = field(repr=False)
    version: str
    user_config: dict[str, Any]
    route_prefix: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    has_pools: bool = False


@dataclass(frozen=True)
class ApplicationStatus:
    """Status of an application.

    Attributes:
        state: Serve's state, or "NOT_RUNNING".
        message: Serve's message; of a failed deployment, the cause in one line.
        replicas: number of replicas by state.
        failed: whether its replicas fail to start.
    """

    state: str
    message: str = ""
    replicas: Mapping[str, int] = field(default_factory=dict)
    failed: bool = False


@dataclass(frozen=True)
class ReplicaReport:
    """Versions of one replica: those loaded, and those that failed to load, with the error."""

    pid: int
    loaded: tuple[str, ...]
    rejected: Mapping[str, str]


@dataclass(frozen=True)
class ReplicaCounts:
    """Number of replicas of a stage.

    Attributes:
        placed: replicas that are scheduled on a node, ready or not.
        requested: resources of one replica.
        free: unallocated resources of the cluster.
    """

    wanted: int
    ready: int
    placed: int
    requested: Mapping[str, float] = field(default_factory=dict)
    free: Mapping[str, float] = field(default_factory=dict)


def missing(counts: ReplicaCounts) -> str:
    """Describe the resources that pending replicas lack; "" if none."""
    unplaced = counts.wanted - counts.placed
    words = []
    for resource, amount in counts.requested.items():
        lack = unplaced * amount - counts.free.get(resource, 0.0)
        if lack > 1e-6:
            unit = resource if lack == 1 or resource not in ("CPU", "GPU") else f"{resource}s"
            words.append(f"{lack:g} {unit}")
    return " and ".join(words)


class Cluster(Protocol):
    """Ray Serve, as a session uses it."""

    local: bool
    """Whether the session has a Ray of its own, on this machine."""

    async def publish(self, path: Path) -> str:
        """Make a stored file readable by every replica and return its location."""

    async def retract(self, locations: Sequence[str]) -> None:
        """Delete published files."""

    async def apply(self, targets: Sequence[ApplicationTarget]) -> None:
        """Set the desired state, without waiting until it is reached."""

    async def status(self, applications: Sequence[str]) -> dict[str, ApplicationStatus]:
        """Return the status of each application."""

    async def reports(self, target: ApplicationTarget) -> list[ReplicaReport]:
        """Return the versions of each running replica of a target."""

    async def answering_version(self, base_url: str) -> str | None:
        """Return the version that answers an HTTP request; None without an answer."""

    async def counts(
        self, applications: Mapping[str, str], *, beside: bool = False
    ) -> dict[str, ReplicaCounts]:
        """Return the replica counts by stage.

        Args:
            applications: stage of each application.
            beside: whether the old replicas of a rolling update count as wanted.
        """

    async def resources(self) -> Mapping[str, float]:
        """Return the total resources of all nodes, by Ray's names."""

    async def placement(self, applications: Mapping[str, str]) -> dict[str, Any]:
        """Return the placement of replicas, the nodes, and the allocated resources."""

    async def delete(self, applications: Sequence[str]) -> None:
        """Delete applications and wait until they are deleted."""

    async def keep_spares(self) -> None:
        """Keep idle worker processes ready for new replicas, where supported."""


class Telemetry(Protocol):
    """Metrics and scaling decisions of a session's apps; replicas find it by ``name``."""

    name: str

    async def since(self, app: str, number: int, scaling: int) -> tuple[int, list[Any], Any]:
        """Return the last delta's number, the deltas after ``number``, and new decisions."""

    async def traces(self, app: str, slowest: int, id: str) -> list[Any]:
        """Return packed traces: the slowest, or the one with an id."""

    async def peek(self, app: str, step: str, until: float) -> list[dict[str, Any]]:
        """Return samples of a step, and have its replicas take more until then."""

    async def comparisons(self, app: str) -> dict[str, Any]:
        """Return the comparisons with the last shadow version."""

    async def record_scaling(
        self, app: str, decisions: Sequence[Mapping[str, Any]], counts: Sequence[Mapping[str, Any]]
    ) -> None:
        """Add to an app's scaling log."""

    async def forget(self, app: str) -> None:
        """Delete everything of an app."""
