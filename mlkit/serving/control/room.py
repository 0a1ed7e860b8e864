"""Replicas that cannot be scheduled for lack of resources: known in advance, or after a wait."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mlkit.errors import DeployError
from mlkit.plan.machine import Demand, requested, shortfalls
from mlkit.serving.control.cluster import ApplicationTarget, ReplicaCounts, missing

__all__ = ["EVERY_S", "NO_ROOM_S", "Room", "check_room"]

NO_ROOM_S = 10.0
"""Time for which stopping replicas may still hold resources on a local Ray."""
REPORT_AFTER_S = 2.0
EVERY_S = 0.5
"""Interval of checks."""
FIX = "use fewer replicas, request less per replica (num_cpus, num_gpus), or shut down other apps"


def check_room(
    app: str,
    targets: Sequence[ApplicationTarget],
    others: Sequence[ApplicationTarget],
    total: Mapping[str, float],
) -> None:
    """Check that a single-node Ray has room for an app in addition to the others.

    Args:
        app: name of the app.
        targets: the app's deployments.
        others: what other apps run.
        total: resources of all nodes.

    Raises:
        DeployError: the replicas need more than there is, even if all of it were free.
    """
    # A stage starts with at least one replica; others may have scaled to zero.
    demands = [_demand(target, at_least=1) for target in targets]
    demands += [_demand(target, at_least=0) for target in others]
    lacking = list(shortfalls(demands, total))
    if lacking:
        raise DeployError(f"it {' and '.join(lacking)}", where=f"app {app!r}", fix=FIX)


def _demand(target: ApplicationTarget, at_least: int) -> Demand:
    options = target.options
    scaling = options.get("autoscaling_config")
    count = (
        (options.get("num_replicas") or 1) if scaling is None else scaling.get("min_replicas", 1)
    )
    return Demand(
        target.deployment, max(count, at_least), requested(options.get("ray_actor_options") or {})
    )


class Room:
    """Tracks the pending replicas of stages.

    Args:
        patience_s: how long a replica may be pending; `math.inf` on a cluster, which may get more
            nodes.
    """

    def __init__(self, patience_s: float = math.inf) -> None:
        self._patience_s = patience_s
        self._since: dict[str, tuple[int, float]] = {}

    def lacking(self, counts: Mapping[str, ReplicaCounts], now: float) -> str:
        """Describe the missing resources; "" if none, or if replicas are pending only briefly.

        Args:
            counts: replica counts by stage, including the old replicas of a rolling update.
            now: time in seconds.

        Raises:
            DeployError: a replica is pending for longer than ``patience_s``.
        """
        text = ""
        for stage, count in counts.items():
            lack = missing(count)
            if not lack:  # none is pending, or a process is slow to start
                self._since.pop(stage, None)
                continue
            placed, since = self._since.get(stage, (-1, now))
            if placed != count.placed:  # another one was scheduled
                since = now
            self._since[stage] = (count.placed, since)
            if now - since >= self._patience_s:
                each = ", ".join(f"{amount:g} {name}" for name, amount in count.requested.items())
                raise DeployError(
                    f"no resources for {count.wanted - count.placed} of {count.wanted} replicas",
                    where=f"stage {stage!r}",
                    expected=f"{each} for each",
                    got=f"{lack} missing after {now - since:.0f} s",
                    fix=FIX,
                )
            if now - since >= REPORT_AFTER_S:
                text = f"waiting for resources: {lack} missing"
        return text
