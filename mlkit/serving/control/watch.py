"""Watching how many replicas there are, should be, and cannot be placed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from mlkit.autoscale import Count, Decision

__all__ = ["Found", "Watch", "missing"]

logger = logging.getLogger(__name__)

EVERY_S = 0.5
BLOCKED_AFTER_S = 1.5
"""A replica is placed in less than this when there is room for it."""
ASKED_FOR_S = 5.0
"""As long after somebody asked, apps are watched that do not scale by themselves."""


@dataclass(frozen=True)
class Found:
    """What Serve and Ray say of one stage.

    Attributes:
        placed: replicas that have a place, ready or not.
        asked: what Ray sets aside for one replica.
        free: what nobody has taken in the whole cluster.
    """

    wanted: int
    ready: int
    placed: int
    asked: Mapping[str, float] = field(default_factory=dict)
    free: Mapping[str, float] = field(default_factory=dict)


Read: TypeAlias = Callable[[Mapping[str, str]], Mapping[str, Found]]
Tell: TypeAlias = Callable[[str, Sequence[Decision], Sequence[Count]], None]


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
        settled: Callable[[], None] = lambda: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._apps = apps
        self._read = read
        self._tell = tell
        self._settled = settled
        self._now = now
        self._stages: dict[tuple[str, str], _Stage] = {}
        self._asked_at = -1e9
        self._wake = threading.Event()
        self._stop = False

    def start(self) -> None:
        """Look again and again, on a thread."""
        threading.Thread(target=self._run, name="mlkit-watch", daemon=True).start()

    def asked(self) -> None:
        """Somebody wants to know: look also at apps that do not scale by themselves."""
        self._asked_at = self._now()

    def stop(self) -> None:
        """End it."""
        self._stop = True
        self._wake.set()

    def wanted(self, app: str, stage: str) -> int:
        """Replicas wanted of a stage when it was seen last."""
        seen = self._stages.get((app, stage))
        return 0 if seen is None else max(0, seen.wanted)

    def look(self) -> None:
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
            for name, found in self._read(stages).items():
                starting |= found.ready < found.wanted
                self._see(app, name, found, now, decisions, counts)
            if decisions or counts:
                self._tell(app, decisions, counts)
        if scaling and not starting:
            self._settled()

    def _see(
        self,
        app: str,
        name: str,
        found: Found,
        now: float,
        decisions: list[Decision],
        counts: list[Count],
    ) -> None:
        stage = self._stages.setdefault((app, name), _Stage())
        starting = max(0, found.wanted - found.ready)
        if (found.wanted, found.ready, starting) != (stage.wanted, stage.ready, stage.starting):
            counts.append(Count(now, name, found.wanted, found.ready, starting))
        if found.ready < found.wanted:
            if stage.behind_since is None:
                stage.behind_since, stage.before = now, found.ready
            self._see_blocked(stage, name, found, now, decisions)
        else:
            if stage.behind_since is not None and found.ready > stage.before:
                after_s = now - stage.behind_since
                decisions.append(
                    Decision(
                        now,
                        name,
                        "ready",
                        found.ready,
                        found.wanted,
                        f"{found.ready} ready, {after_s:.1f} s after more were wanted",
                    )
                )
            stage.behind_since, stage.blocked = None, ""
        stage.wanted, stage.ready, stage.starting = found.wanted, found.ready, starting

    def _see_blocked(
        self, stage: _Stage, name: str, found: Found, now: float, decisions: list[Decision]
    ) -> None:
        since = stage.behind_since if stage.behind_since is not None else now
        if found.placed >= found.wanted or now - since < BLOCKED_AFTER_S:
            return
        lacking = missing(found)
        if lacking and lacking != stage.blocked:
            why = f"wanted {found.wanted}, {lacking} missing"
            decisions.append(Decision(now, name, "blocked", found.ready, found.wanted, why))
            stage.blocked = lacking

    def _run(self) -> None:
        told = False
        while not self._stop:
            self._wake.wait(EVERY_S)
            try:
                self.look()
                told = False
            except Exception:
                if not told and not self._stop:
                    logger.warning("the replicas could not be looked at", exc_info=True)
                told = True


def missing(found: Found) -> str:
    """What the replicas that have no place lack, in words; "" for nothing."""
    unplaced = found.wanted - found.placed
    words = []
    for resource, amount in found.asked.items():
        lack = unplaced * amount - found.free.get(resource, 0.0)
        if lack > 1e-6:
            unit = resource if lack == 1 or resource not in ("CPU", "GPU") else f"{resource}s"
            words.append(f"{lack:g} {unit}")
    return " and ".join(words)
