"""What Serve's controller does differently in a session of mlkit."""

from __future__ import annotations

from typing import Any

from mlkit.serving.private import HAPROXY_MANAGER, KEEP_HAPROXY, KEEP_UPDATING, private

__all__ = ["adapt"]


def adapt() -> None:
    """Adapt Serve's controller, which calls this when it starts."""
    _keep_updating_replicas()
    _keep_haproxy()


def _keep_haproxy() -> None:
    """Have HAProxy started again by its manager as soon as it has died.

    Serve would replace the manager after three failed checks, and the new one, a process that has
    to import Ray, starts HAProxy.
    """
    if KEEP_HAPROXY.missing:
        return
    manager: Any = private(HAPROXY_MANAGER)
    check = manager.check_health

    def has_died(haproxy: Any) -> bool:
        return haproxy._proc is not None and not haproxy._is_running()

    async def check_health(self: Any) -> bool:
        if has_died(self._haproxy):
            async with self._reload_lock:
                if has_died(self._haproxy):  # a reload may have exchanged the process
                    await self._haproxy.start()
        return bool(await check(self))

    manager.check_health = check_health


def _keep_updating_replicas() -> None:
    """Route requests to replicas while they are reconfigured.

    Serve takes them out of routing until their `reconfigure` has returned and the controller has
    noticed, so HAProxy reloads twice, and meanwhile the requests of an app with one replica go
    through the slower fallback proxy. Replicas of mlkit go on serving: `reconfigure` only starts
    to load a version, which takes over later.
    """
    if KEEP_UPDATING.missing:
        return
    from ray.serve._private.common import ReplicaState
    from ray.serve._private.deployment_state import DeploymentState

    running_only = DeploymentState.get_running_replica_infos

    def running_or_updating(self: DeploymentState) -> list[Any]:
        also = self._replicas.get([ReplicaState.UPDATING])
        nodes = self._cluster_node_info_cache
        return [*running_only(self), *(each.get_running_replica_info(nodes) for each in also)]

    DeploymentState.get_running_replica_infos = running_or_updating  # type: ignore[method-assign]
