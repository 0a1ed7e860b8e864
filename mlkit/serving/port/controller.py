"""What Serve's controller does differently in a session of mlkit."""

from __future__ import annotations

from typing import Any

__all__ = ["adapt"]


def adapt() -> None:
    """Adapt Serve's controller, which calls this when it starts."""
    _keep_updating_replicas()
    _keep_haproxy()


def _keep_haproxy() -> None:
    """Have HAProxy started again as soon as it has died; see `HAProxyManager`."""
    try:
        from ray.serve._private import controller

        from mlkit.serving.port.proxies import HAProxyManager
    except ImportError:
        return  # see `mlkit.serving.private`
    if hasattr(controller, "HAProxyManager"):
        controller.HAProxyManager = HAProxyManager


def _keep_updating_replicas() -> None:
    """Route requests to replicas while they are reconfigured.

    Serve takes them out of routing until their `reconfigure` has returned and the controller has
    noticed, so HAProxy reloads twice, and meanwhile the requests of an app with one replica go
    through the slower fallback proxy. Replicas of mlkit go on serving: `reconfigure` only starts
    to load a version, which takes over later.
    """
    try:
        from ray.serve._private.common import ReplicaState
        from ray.serve._private.deployment_state import DeploymentState

        updating = ReplicaState.UPDATING
        running_only = DeploymentState.get_running_replica_infos
    except (ImportError, AttributeError):
        return  # see `mlkit.serving.private`

    def running_or_updating(self: DeploymentState) -> list[Any]:
        also = self._replicas.get([updating])
        nodes = self._cluster_node_info_cache
        return [*running_only(self), *(each.get_running_replica_info(nodes) for each in also)]

    DeploymentState.get_running_replica_infos = running_or_updating  # type: ignore[method-assign]
