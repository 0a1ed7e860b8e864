"""Watching how many replicas there are, should be, and cannot be placed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from mlkit.autoscale import Count, Decision
from mlkit.serving.control.cluster import ReplicaCounts, missing

__all__ = ["Watch"]

logger = logging.getLogger(__name__)

EVERY_S = 0.5
BLOCKED_AFTER_S = 1.5
"""A replica is placed in less than this when there is room for it."""
ASKED_FOR_S = 5.0
"""As long after somebody asked, apps are watched that do not scale by themselves."""


Read: TypeAlias = Callable[[Mapping[str, str]], Awaitable[Mapping[str, ReplicaCounts]]]
Tell: TypeAlias = Callable[[str, list[Decision], list[Count]], Awaitable[None]]


@dataclass
class _Stage:
    wanted: int = -1
    ready: int = -1
    starting: int = -1
    behind_since: float | None = None
    before: int = 0
    blocked: str = ""


class Watch:
    """Looks at the replicas of all apps and puts down what changed.

    Args:
        apps: gives, by app, the stage that each of its applications on Serve is.
        read: gives, for such a dict, what there is of each stage.
        tell: is given an app, decisions and counts.
        settled: called when there are apps that scale by themselves, and nothing is starting.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        apps: Callable[[], Mapping[str, tuple[bool, Mapping[str, str]]]],
        read: Read,
        tell: Tell,
        settled: Callable[[], Awaitable[None]],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._apps = apps
        self._read = read
        self._tell = tell
        self._settled = settled
        self._now = now
        self._stages: dict[tuple[str, str], _Stage] = {}
        self._asked_at = -1e9

    def asked(self) -> None:
        """Somebody wants to know: look also at apps that do not scale by themselves."""
        self._asked_at = self._now()

    def wanted(self, app: str, stage: str) -> int:
        """Replicas wanted of a stage when it was seen last."""
        seen = self._stages.get((app, stage))
        return 0 if seen is None else max(0, seen.wanted)

    async def look(self) -> None:
        """Look once at whatever is worth looking at."""
        asked = self._now() - self._asked_at < ASKED_FOR_S
        scaling = starting = False
        for app, (scales, stages) in self._apps().items():
            if not (asked or scales):
                continue
            decisions: list[Decision] = []
            counts: list[Count] = []
            now = self._now()
            scaling |= scales
            for name, replicas in (await self._read(stages)).items():
                starting |= replicas.ready < replicas.wanted
                self._see(app, name, replicas, now, decisions, counts)
            if decisions or counts:
                await self._tell(app, decisions, counts)
        if scaling and not starting:
            await self._settled()

    def _see(
        self,
        app: str,
        name: str,
        replicas: ReplicaCounts,
        now: float,
        decisions: list[Decision],
        counts: list[Count],
    ) -> None:
        stage = self._stages.setdefault((app, name), _Stage())
        starting = max(0, replicas.wanted - replicas.ready)
        if (replicas.wanted, replicas.ready, starting) != (
            stage.wanted,
            stage.ready,
            stage.starting,
        ):
            counts.append(Count(now, name, replicas.wanted, replicas.ready, starting))
        if replicas.ready < replicas.wanted:
            if stage.behind_since is None:
                stage.behind_since, stage.before = now, replicas.ready
            self._see_blocked(stage, name, replicas, now, decisions)
        else:
            if stage.behind_since is not None and replicas.ready > stage.before:
                after_s = now - stage.behind_since
                decisions.append(
                    Decision(
                        now,
                        name,
                        "ready",
                        replicas.ready,
                        replicas.wanted,
                        f"{replicas.ready} ready, {after_s:.1f} s after more were wanted",
                    )
                )
            stage.behind_since, stage.blocked = None, ""
        stage.wanted, stage.ready, stage.starting = replicas.wanted, replicas.ready, starting

    def _see_blocked(
        self,
        stage: _Stage,
        name: str,
        replicas: ReplicaCounts,
        now: float,
        decisions: list[Decision],
    ) -> None:
        since = stage.behind_since if stage.behind_since is not None else now
        if replicas.placed >= replicas.wanted or now - since < BLOCKED_AFTER_S:
            return
        lacking = missing(replicas)
        if lacking and lacking != stage.blocked:
            why = f"wanted {replicas.wanted}, {lacking} missing"
            decisions.append(Decision(now, name, "blocked", replicas.ready, replicas.wanted, why))
            stage.blocked = lacking

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        told = False
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.look()
                told = False
            except Exception:
                if not told:
                    logger.warning("the replicas could not be looked at", exc_info=True)
                told = True
