"""Whether there is room for the replicas that a deployment waits for."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from mlkit.errors import DeployError
from mlkit.serving.control.watch import Found, missing

__all__ = ["NO_ROOM_S", "Room"]

NO_ROOM_S = 10.0
"""As long what is being shut down may still hold its place, on a Ray of one's own."""
SAID_AFTER_S = 2.0
EVERY_S = 0.5


class Room:
    """Watches the replicas of some stages that have no place yet.

    Args:
        read: gives what there is of each stage: `mlkit.serving.port.details.counts`, ``beside``.
        patience_s: how long one may be without a place before it is an error. A cluster may get
            more nodes: there it is `math.inf`.
        now: seconds on any clock.
    """

    def __init__(
        self,
        read: Callable[[], Mapping[str, Found]],
        patience_s: float = math.inf,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._patience_s = patience_s
        self._now = now
        self._looked_at = -math.inf
        self._since: dict[str, tuple[int, float]] = {}
        self._words = ""

    def lacking(self) -> str:
        """What there is no room for, in words; "" where all have a place, or it is early to say.

        Raises:
            DeployError: it has lasted longer than the patience.
        """
        now = self._now()
        if now - self._looked_at < EVERY_S:
            return self._words
        self._looked_at, self._words = now, ""
        for stage, found in self._read().items():
            lack = missing(found)
            if not lack:  # all have a place, or a process is only slow to start
                self._since.pop(stage, None)
                continue
            placed, since = self._since.get(stage, (-1, now))
            if placed != found.placed:  # one more has found its place
                since = now
            self._since[stage] = (found.placed, since)
            if now - since >= self._patience_s:
                raise DeployError(
                    f"there is no room for {found.wanted - found.placed} of its {found.wanted} "
                    "replicas",
                    where=f"stage {stage!r}",
                    expected=_asked(found),
                    got=f"{lack} missing after {now - since:.0f} s",
                    fix="fewer replicas, less for each of them (num_cpus, num_gpus), or shut down "
                    "what runs beside it",
                )
            if now - since >= SAID_AFTER_S:
                self._words = f"no room yet: {lack} missing"
        return self._words


def _asked(found: Found) -> str:
    each = ", ".join(f"{amount:g} {name}" for name, amount in found.asked.items())
    return f"{each or 'nothing'} for each"
