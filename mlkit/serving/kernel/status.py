"""Status, placement and output of an app's replicas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mlkit.plan import Plan
from mlkit.serving.control.cluster import ApplicationStatus
from mlkit.serving.replica.output import LogLine

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["AppStatus", "Logs", "Placement", "Snapshot"]

_SEVERITY = {"RUNNING": 0, "DEPLOYING": 1, "DELETING": 2, "UNHEALTHY": 3, "DEPLOY_FAILED": 4}


@dataclass(frozen=True)
class AppStatus:
    """Status of an app.

    Attributes:
        state: Serve's state of the worst stage ("RUNNING", "DEPLOYING", "DELETING", "UNHEALTHY",
            "DEPLOY_FAILED"), or "NOT_RUNNING".
        replicas: number of replicas by state, of all stages.
        message: Serve's message, if any.
        stages: number of replicas by state, for each stage.
    """

    state: str
    replicas: dict[str, int]
    message: str
    stages: dict[str, dict[str, int]]

    @classmethod
    def of(cls, stages: dict[str, ApplicationStatus]) -> AppStatus:
        """Summarize the status of an app's stages."""
        if not stages:
            return cls("NOT_RUNNING", {}, "", {})
        worst = max(stages.values(), key=lambda status: _SEVERITY.get(status.state, 1))
        replicas: Counter[str] = Counter()
        for status in stages.values():
            replicas.update(status.replicas)
        by_stage = {name: dict(status.replicas) for name, status in stages.items()}
        return cls(worst.state, dict(replicas), worst.message, by_stage)

    @property
    def ready(self) -> bool:
        """Whether it serves requests."""
        return self.state == "RUNNING"


@dataclass(frozen=True)
class Placement:
    """Replicas of an app by node.

    Attributes:
        plan: the app's plan.
        replicas: stage, state, process id, node and resources of each replica.
        nodes: id, address and resources of each node.
        taken: allocated resources of the cluster, by all apps.
    """

    plan: Plan
    replicas: Sequence[Mapping[str, Any]]
    nodes: Sequence[Mapping[str, Any]]
    taken: Mapping[str, float]

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each replica, with its share of the node's CPUs."""
        import pandas as pd

        cpus = {node["node"]: node["resources"].get("CPU", 0) for node in self.nodes}
        names = {node["node"]: f"node {i + 1}" for i, node in enumerate(self.nodes)}
        columns = ["node", "stage", "pid", "state", "num_cpus", "num_gpus", "share_of_cpus"]
        rows = []
        for replica in sorted(self.replicas, key=lambda r: (str(r["node"]), r["stage"])):
            node, requested = replica["node"], replica["resources"]
            num_cpus = requested.get("CPU", 0.0)
            share = num_cpus / cpus[node] if cpus.get(node) else 0.0
            known = (replica[name] for name in ("stage", "pid", "state"))
            rows.append((names.get(node, "-"), *known, num_cpus, requested.get("GPU", 0.0), share))
        return pd.DataFrame(rows, columns=columns)

    def __str__(self) -> str:
        return self.to_frame().to_string(index=False)

    def __repr__(self) -> str:
        return f"<placement of {self.plan.graph.name}: {len(self.replicas)} replicas>"


class Logs(list[LogLine]):
    """Lines that replicas printed; ``str()`` joins them."""

    def __str__(self) -> str:
        return "\n".join(map(str, self))

    def __repr__(self) -> str:
        return str(self) or "no output yet"


class Snapshot(Protocol):
    """Result of `App.view`; displays itself in a cell."""

    @property
    def html(self) -> str:
        """Standalone HTML without scripts."""

    @property
    def svg(self) -> str:
        """The charts as one SVG."""
