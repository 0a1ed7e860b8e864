"""Counts and placement of replicas, from the details of Serve and Ray."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlkit.plan.machine import requested
from mlkit.serving.control.cluster import ReplicaCounts

__all__ = ["counts", "counts_of", "placement", "resources"]


def resources() -> dict[str, float]:
    """Return the total resources of all nodes, by Ray's names."""
    import ray

    state: Any = ray
    return dict(state.cluster_resources())


def placement(applications: Mapping[str, str]) -> dict[str, Any]:
    """Return the nodes of replicas, and the allocated resources.

    Args:
        applications: name of the stage of each application.
    """
    import ray

    state: Any = ray
    details = _serve_details()
    replicas = [
        {
            "stage": stage,
            "replica": replica["replica_id"],
            "state": replica["state"],
            "pid": replica.get("pid"),
            "node": replica.get("node_id"),
            "resources": _asked(deployment),
        }
        for name, stage in applications.items()
        for deployment in _deployments(details, name)
        for replica in deployment["replicas"]
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
    """Return the number of wanted, ready and placed replicas of each stage.

    Args:
        applications: name of the stage of each application.
        beside: whether old replicas that serve during a rolling update count as wanted.
    """
    import ray

    state: Any = ray
    return counts_of(_serve_details(), state.cluster_resources, applications, beside=beside)


def _serve_details() -> Mapping[str, Any]:
    """Return Serve's details of all replicas; empty if its private client is missing."""
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
    """Compute the counts from Serve's details; calls `total` only if replicas are not placed.

    Free resources are those that no other replica reserves. Ray's own count would mislead: a
    replica that is starting has resources, but no node yet in Serve's details.
    """
    result = {}
    for name, stage in applications.items():
        for deployment in _deployments(details, name):
            replicas, asked = _held(deployment), _asked(deployment)
            ready = sum(replica["state"] == "RUNNING" for replica in replicas)
            placed = sum(bool(replica.get("node_id")) for replica in replicas)
            wanted = len(replicas) if beside else deployment["target_num_replicas"]
            free: dict[str, float] = {}
            if placed < wanted:
                reserved, cluster = _reserved(details), total()
                unplaced = len(replicas) - placed
                free = {
                    resource: cluster.get(resource, 0.0) - reserved[resource] + unplaced * amount
                    for resource, amount in asked.items()
                }
            result[stage] = ReplicaCounts(wanted, ready, placed, asked, free)
    return result


def _reserved(details: Mapping[str, Any]) -> dict[str, float]:
    """Sum the resources that all replicas reserve."""
    reserved: dict[str, float] = defaultdict(float)
    for name in details["applications"]:
        for deployment in _deployments(details, name):
            for resource, amount in _asked(deployment).items():
                reserved[resource] += amount * len(_held(deployment))
    return reserved


def _held(deployment: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return [r for r in deployment["replicas"] if r["state"] not in ("STOPPING", "STOPPED")]


def _deployments(details: Mapping[str, Any], application: str) -> list[dict[str, Any]]:
    status = details["applications"].get(application)
    return list(status["deployments"].values()) if status else []


def _asked(deployment: Mapping[str, Any]) -> dict[str, float]:
    return requested(deployment["deployment_config"].get("ray_actor_options") or {})


def _internal(resource: str) -> bool:
    return resource.startswith("node:") or resource == "object_store_memory"
