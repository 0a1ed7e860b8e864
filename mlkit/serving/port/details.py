"""What Serve and Ray say of replicas: how many there are, and where they sit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlkit.serving.control.cluster import ReplicaCounts

__all__ = ["counts", "counts_of", "placement"]


def placement(applications: Mapping[str, str]) -> dict[str, Any]:
    """Where replicas sit and what is taken of each node, as Ray has it.

    Args:
        applications: name of the stage of each application.
    """
    import ray

    state: Any = ray
    details = _serve_details()
    replicas = [
        {
            "stage": stage,
            "replica": one["replica_id"],
            "state": one["state"],
            "pid": one.get("pid"),
            "node": one.get("node_id"),
            "resources": _asked(deployment),
        }
        for name, stage in applications.items()
        for deployment in _deployments(details, name)
        for one in deployment["replicas"]
    ]
    total, free = state.cluster_resources(), state.available_resources()
    nodes = [
        {"node": n["NodeID"], "address": n["NodeManagerAddress"], "resources": n["Resources"]}
        for n in state.nodes()
        if n["Alive"]
    ]
    used = {k: round(v - free.get(k, 0.0), 4) for k, v in total.items() if not _internal(k)}
    taken = {k: v for k, v in used.items() if v or k == "CPU"}
    return {"replicas": replicas, "nodes": nodes, "taken": taken}


def counts(applications: Mapping[str, str], beside: bool = False) -> dict[str, ReplicaCounts]:
    """How many replicas of each stage there are, should be, and have a place.

    Args:
        applications: name of the stage of each application.
        beside: whether old replicas that serve until the new ones are ready count as wanted.
    """
    import ray

    state: Any = ray
    return counts_of(_serve_details(), state.cluster_resources, applications, beside=beside)


def _serve_details() -> Mapping[str, Any]:
    """What the controller knows of each replica; nothing where Serve does not let it be asked."""
    try:
        from ray.serve.context import _get_global_client
    except ImportError:
        return {"applications": {}}
    client: Any = _get_global_client()
    details: Mapping[str, Any] = client.get_serve_details()
    return details


def counts_of(
    details: Mapping[str, Any],
    total: Callable[[], Mapping[str, float]],
    applications: Mapping[str, str],
    *,
    beside: bool,
) -> dict[str, ReplicaCounts]:
    """The same from Serve's details and what the cluster has; that is asked for where it counts.

    What is free is what all other replicas leave, with or without a place: Ray's own count of it
    does not tell, since a replica whose process is slow to start holds its share already and has
    no place yet by Serve's word.
    """
    found = {}
    for name, stage in applications.items():
        for deployment in _deployments(details, name):
            replicas, asked = _held(deployment), _asked(deployment)
            ready = sum(one["state"] == "RUNNING" for one in replicas)
            placed = sum(bool(one.get("node_id")) for one in replicas)
            wanted = len(replicas) if beside else deployment["target_num_replicas"]
            free: dict[str, float] = {}
            if placed < wanted:
                taken, has = _taken(details), total()
                mine = len(replicas) - placed
                free = {
                    resource: has.get(resource, 0.0) - taken[resource] + mine * amount
                    for resource, amount in asked.items()
                }
            found[stage] = ReplicaCounts(wanted, ready, placed, asked, free)
    return found


def _taken(details: Mapping[str, Any]) -> dict[str, float]:
    """What all replicas were promised."""
    taken: dict[str, float] = defaultdict(float)
    for name in details["applications"]:
        for deployment in _deployments(details, name):
            for resource, amount in _asked(deployment).items():
                taken[resource] += amount * len(_held(deployment))
    return taken


def _held(deployment: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return [r for r in deployment["replicas"] if r["state"] not in ("STOPPING", "STOPPED")]


def _deployments(details: Mapping[str, Any], application: str) -> list[dict[str, Any]]:
    found = details["applications"].get(application)
    return list(found["deployments"].values()) if found else []


def _asked(deployment: Mapping[str, Any]) -> dict[str, float]:
    options = deployment["deployment_config"].get("ray_actor_options") or {}
    named = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
    asked = {named[k]: float(v) for k, v in options.items() if k in named and v}
    return asked | {k: float(v) for k, v in (options.get("resources") or {}).items()}


def _internal(resource: str) -> bool:
    return resource.startswith("node:") or resource == "object_store_memory"
