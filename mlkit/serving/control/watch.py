"""Observation of replica counts, for the scaling log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from mlkit.autoscale import Count, Decision
from mlkit.serving.control.cluster import ReplicaCounts, missing

__all__ = ["Watch"]

logger = logging.getLogger(__name__)

EVERY_S = 0.5
BLOCKED_AFTER_S = 1.5
"""Maximum time for scheduling a replica when resources are free."""
REQUESTED_FOR_S = 5.0
"""Time after a request for metrics during which apps without autoscaling are observed."""

Read: TypeAlias = Callable[[Mapping[str, str]], Awaitable[Mapping[str, ReplicaCounts]]]
Record: TypeAlias = Callable[[str, list[Decision], list[Count]], Awaitable[None]]


@dataclass
class _Stage:
    """A stage when last observed, and since when it has been scaling up."""

    name: str
    counts: tuple[int, int, int] = (-1, -1, -1)
    behind_since: float | None = None
    ready_before: int = 0
    blocked: str = ""

    def decisions(self, replicas: ReplicaCounts, now: float) -> Iterator[Decision]:
        """Yield a decision when all wanted replicas are ready, or when some are blocked."""
        ready, wanted = replicas.ready, replicas.wanted
        if ready >= wanted:
            if self.behind_since is not None and ready > self.ready_before:
                why = f"{ready} ready, {now - self.behind_since:.1f} s after the target was raised"
                yield Decision(now, self.name, "ready", ready, wanted, why)
            self.behind_since, self.blocked = None, ""
            return
        if self.behind_since is None:
            self.behind_since, self.ready_before = now, ready
        lacking = missing(replicas) if now - self.behind_since >= BLOCKED_AFTER_S else ""
        if lacking and lacking != self.blocked:
            why = f"wanted {wanted}, {lacking} missing"
            yield Decision(now, self.name, "blocked", ready, wanted, why)
            self.blocked = lacking


class Watch:
    """Observes the replicas of all apps and records changes.

    Args:
        apps: returns by app whether it is autoscaled, and the stage of each application.
        read: returns the replica counts by stage for such a mapping of stages.
        record: receives an app, its decisions and its counts.
        settled: called if there are autoscaled apps and no replica is starting.
        now: clock in seconds since the epoch.
    """

    def __init__(
        self,
        apps: Callable[[], Mapping[str, tuple[bool, Mapping[str, str]]]],
        read: Read,
        record: Record,
        settled: Callable[[], Awaitable[None]],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._apps = apps
        self._read = read
        self._record = record
        self._settled = settled
        self._now = now
        self._stages: dict[tuple[str, str], _Stage] = {}
        self._requested_at = -1e9

    def request(self) -> None:
        """Observe apps without autoscaling too, for some seconds."""
        self._requested_at = self._now()

    def wanted(self, app: str, stage: str) -> int:
        """Return the number of replicas wanted of a stage when last observed."""
        known = self._stages.get((app, stage))
        return 0 if known is None else max(0, known.counts[0])

    async def look(self) -> None:
        """Observe all apps once."""
        requested = self._now() - self._requested_at < REQUESTED_FOR_S
        any_autoscaled = any_starting = False
        apps = self._apps()
        # One that is deployed again begins anew.
        self._stages = {key: stage for key, stage in self._stages.items() if key[0] in apps}
        for app, (autoscaled, stages) in apps.items():
            if not (requested or autoscaled):
                continue
            decisions: list[Decision] = []
            counts: list[Count] = []
            now = self._now()
            any_autoscaled |= autoscaled
            for name, replicas in (await self._read(stages)).items():
                stage = self._stages.setdefault((app, name), _Stage(name))
                starting = max(0, replicas.wanted - replicas.ready)
                any_starting |= starting > 0
                current = replicas.wanted, replicas.ready, starting
                if current != stage.counts:
                    counts.append(Count(now, name, *current))
                decisions += stage.decisions(replicas, now)
                stage.counts = current
            if decisions or counts:
                await self._record(app, decisions, counts)
        if any_autoscaled and not any_starting:
            await self._settled()

    async def run(self) -> None:
        """Observe all apps periodically until cancelled."""
        failed = False
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.look()
                failed = False
            except Exception:
                if not failed:
                    logger.warning("cannot observe the replicas", exc_info=True)
                failed = True
