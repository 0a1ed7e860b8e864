"""What Serve's controller does differently in a session of mlkit."""

from __future__ import annotations

import time
from importlib import import_module
from typing import Any

from mlkit.serving.private import (
    HAPROXY_MANAGER,
    KEEP_HAPROXY,
    KEEP_PACE,
    KEEP_UPDATING,
    private,
)

__all__ = ["adapt"]

FAST_S = 0.03
FAST_FOR_S = 20.0


class Pace:
    """Interval of the control loop: short while replicas start, as each state takes an iteration.

    What has not started for `FAST_FOR_S`, as if the machine is full, is looked at as usual.
    """

    def __init__(self, usual_s: float) -> None:
        self.usual_s = usual_s
        self._since: float | None = None

    def interval_s(self, *, starting: bool, now: float) -> float:
        """Seconds until the next iteration.

        Args:
            starting: whether replicas are expected to start.
            now: time in seconds.
        """
        if not starting:
            self._since = None
        elif self._since is None:
            self._since = now
        recent = self._since is not None and now - self._since < FAST_FOR_S
        return min(FAST_S, self.usual_s) if recent else self.usual_s


def adapt() -> None:
    """Adapt Serve's controller, which calls this when it starts."""
    _keep_updating_replicas()
    _keep_haproxy()
    _keep_pace()


def _keep_pace() -> None:
    """Run the control loop at the `Pace` of what it does.

    The loop takes a share of a core even if nothing changes, so its usual interval is long.
    """
    if KEEP_PACE.missing:
        return
    from ray.serve._private.common import DeploymentStatus
    from ray.serve._private.deployment_state import DeploymentStateManager

    controller: Any = import_module("ray.serve._private.controller")
    starting = {DeploymentStatus.UPDATING, DeploymentStatus.UPSCALING}
    pace = Pace(controller.CONTROL_LOOP_INTERVAL_S)
    update = DeploymentStateManager.update

    def paced(self: DeploymentStateManager, *args: Any, **kwargs: Any) -> bool:
        recovering = update(self, *args, **kwargs)
        states = {each.curr_status_info.status for each in self._deployment_states.values()}
        controller.CONTROL_LOOP_INTERVAL_S = pace.interval_s(
            starting=not states.isdisjoint(starting), now=time.monotonic()
        )
        return recovering

    DeploymentStateManager.update = paced  # type: ignore[method-assign]


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
