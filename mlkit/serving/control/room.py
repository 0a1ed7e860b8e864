"""Whether there is room for the replicas that a deployment waits for."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mlkit.errors import DeployError
from mlkit.serving.control.cluster import ReplicaCounts, missing

__all__ = ["EVERY_S", "NO_ROOM_S", "Room"]

NO_ROOM_S = 10.0
"""As long what is being shut down may still hold its place, on a Ray of one's own."""
SAID_AFTER_S = 2.0
EVERY_S = 0.5
"""How often it is worth looking."""


class Room:
    """Follows the replicas of some stages that have no place yet.

    Args:
        patience_s: how long one may be without a place before it is an error. A cluster may get
            more nodes: there it is `math.inf`.
    """

    def __init__(self, patience_s: float = math.inf) -> None:
        self._patience_s = patience_s
        self._since: dict[str, tuple[int, float]] = {}

    def lacking(self, counts: Mapping[str, ReplicaCounts], now: float) -> str:
        """What there is no room for, in words; "" where all have a place, or it is early to say.

        Args:
            counts: of each stage, old replicas beside the new ones included.
            now: seconds on any clock.

        Raises:
            DeployError: it has lasted longer than the patience.
        """
        words = ""
        for stage, count in counts.items():
            lack = missing(count)
            if not lack:  # all have a place, or a process is only slow to start
                self._since.pop(stage, None)
                continue
            placed, since = self._since.get(stage, (-1, now))
            if placed != count.placed:  # one more has a place
                since = now
            self._since[stage] = (count.placed, since)
            if now - since >= self._patience_s:
                raise DeployError(
                    f"there is no room for {count.wanted - count.placed} of its {count.wanted} "
                    "replicas",
                    where=f"stage {stage!r}",
                    expected=_requested(count),
                    got=f"{lack} missing after {now - since:.0f} s",
                    fix="fewer replicas, less for each of them (num_cpus, num_gpus), or shut down "
                    "what runs beside it",
                )
            if now - since >= SAID_AFTER_S:
                words = f"no room yet: {lack} missing"
        return words


def _requested(count: ReplicaCounts) -> str:
    each = ", ".join(f"{amount:g} {name}" for name, amount in count.requested.items())
    return f"{each or 'nothing'} for each"
