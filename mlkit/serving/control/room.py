"""Detection of replicas that cannot be scheduled for lack of resources."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mlkit.errors import DeployError
from mlkit.serving.control.cluster import ReplicaCounts, missing

__all__ = ["EVERY_S", "NO_ROOM_S", "Room"]

NO_ROOM_S = 10.0
"""How long stopping replicas may still hold resources on a local Ray."""
REPORT_AFTER_S = 2.0
EVERY_S = 0.5
"""Interval of checks."""


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
            if not lack:  # none is pending, or a process is only slow to start
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
                    fix="use fewer replicas, request less per replica (num_cpus, num_gpus), or "
                    "shut down other apps",
                )
            if now - since >= REPORT_AFTER_S:
                text = f"waiting for resources: {lack} missing"
        return text
