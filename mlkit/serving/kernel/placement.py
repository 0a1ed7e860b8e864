"""What sits where: replicas of an app on the nodes of its cluster, and what they take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlkit.plan import Plan

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Placement"]


@dataclass(frozen=True)
class Placement:
    """Replicas of an app by node, with the share of the node that each takes.

    Attributes:
        replicas: for each its stage, state, process id, node and resources.
        nodes: for each its id, address and resources.
        taken: of each resource of the cluster, by all apps, as Ray counts it.
    """

    plan: Plan
    replicas: Sequence[Mapping[str, Any]]
    nodes: Sequence[Mapping[str, Any]]
    taken: Mapping[str, float]

    def to_frame(self) -> pd.DataFrame:
        """A row for each replica."""
        import pandas as pd

        nodes = {node["node"]: node for node in self.nodes}
        names = {node["node"]: f"node {i + 1}" for i, node in enumerate(self.nodes)}
        rows = []
        for one in sorted(self.replicas, key=lambda one: (str(one["node"]), one["stage"])):
            node = nodes.get(one["node"], {"resources": {}})
            asked = one["resources"]
            cpus = node["resources"].get("CPU", 0)
            rows.append(
                {
                    "node": names.get(one["node"], "-"),
                    "stage": one["stage"],
                    "pid": one["pid"],
                    "state": one["state"],
                    "num_cpus": asked.get("CPU", 0.0),
                    "num_gpus": asked.get("GPU", 0.0),
                    "share_of_cpus": asked.get("CPU", 0.0) / cpus if cpus else 0.0,
                }
            )
        columns = ["node", "stage", "pid", "state", "num_cpus", "num_gpus", "share_of_cpus"]
        return pd.DataFrame(rows, columns=columns)

    def __str__(self) -> str:
        return self.to_frame().to_string(index=False)

    def __repr__(self) -> str:
        return f"<placement of {self.plan.graph.name}: {len(self.replicas)} replicas>"
