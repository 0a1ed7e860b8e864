"""The last minutes of an app, kept up to date delta by delta: what a live view shows.

`History` computes any interval of any part from what came; this computes three fixed ones of the
whole app as it comes, so that looking twice a second costs next to nothing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mlkit.metrics.history import By, Sample, samples_of
from mlkit.metrics.recorder import Delta

__all__ = ["NOW_S", "WINDOWS", "Point", "Rolling"]

WINDOWS: Mapping[int, float] = {60: 1.0, 300: 5.0, 900: 15.0}
"""Seconds that can be looked at, and how many of them make a point."""

NOW_S = 10
"""Seconds that "now" is an average over."""

LATE_S = 2.5
"""Processes hand on what they counted at different times: an interval is open as long as this."""


@dataclass(frozen=True)
class Point:
    """One interval of the whole app; latencies in ms, NaN where nothing was answered."""

    at: float
    rate: float
    errors: float
    rejected: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    in_flight: int
    queued: int
    cpu: float
    rss: int
    requests: int


@dataclass
class _Bin:
    """An interval that is still added to: sums, and the last gauges of each process."""

    sample: Sample
    cpu_s: float = 0.0
    gauges: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    gpus: dict[str, int] = field(default_factory=dict)

    def add(self, one: Sample, process: str) -> None:
        self.sample.merge(one)
        self.cpu_s += one.cpu * one.span_s
        self.gauges[process] = (one.in_flight, one.queued, one.rss)
        if one.gpu is not None:
            self.gpus[process] = one.gpu

    def close(self) -> Sample:
        """It with the gauges of all processes together."""
        sample = self.sample
        sample.cpu = self.cpu_s / sample.span_s
        sample.in_flight, sample.queued, sample.rss = (
            sum(found) for found in zip(*self.gauges.values(), strict=True)
        )
        sample.gpu = sum(self.gpus.values()) if self.gpus else None
        sample.processes = len(self.gauges)
        return sample

    def point(self) -> Point:
        sample = self.close()
        p50, p95, p99 = sample.held.percentiles_s(50, 95, 99)
        return Point(
            sample.at,
            sample.rate,
            sample.errors / sample.span_s,
            sample.rejected / sample.span_s,
            1e3 * p50,
            1e3 * p95,
            1e3 * p99,
            sample.in_flight,
            sample.queued,
            sample.cpu,
            sample.rss,
            sample.requests,
        )


class _Window:
    """Intervals of one length: the last ones open, the others as points."""

    def __init__(self, window_s: float, every_s: float) -> None:
        self.every_s = every_s
        self.points: deque[Point] = deque(maxlen=math.ceil(window_s / every_s) + 1)
        self.open: dict[int, _Bin] = {}

    def add(self, one: Sample, at: float, process: str) -> None:
        slot = math.floor(at / self.every_s)
        end = (slot + 1) * self.every_s
        if self.points and end <= self.points[-1].at:
            return  # it was closed long ago
        made = self.open.get(slot)
        if made is None:
            made = self.open[slot] = _Bin(Sample(at=end, span_s=self.every_s))
        made.add(one, process)

    def settle(self, newest: float) -> None:
        """Close what nobody will add to any more."""
        for slot in sorted(self.open):
            if (slot + 1) * self.every_s <= newest - LATE_S:
                self.points.append(self.open.pop(slot).point())


class Rolling:
    """What `Dashboard` and `App.view` show of an app."""

    def __init__(self) -> None:
        self.at: float | None = None
        self.started: float | None = None
        self.requests = 0
        self._windows = {seconds: _Window(seconds, every) for seconds, every in WINDOWS.items()}
        self._recent: deque[tuple[float, str, By, Sample]] = deque()

    def add(self, deltas: Iterable[Delta]) -> None:
        """Take up deltas, in the order in which they came."""
        for delta in deltas:
            at, process = delta["at"], delta["process"]
            self.started = at if self.started is None else min(self.started, at)
            self.at = at if self.at is None else max(self.at, at)
            for by, one in samples_of(delta):
                self._recent.append((at, process, by, one))
                if by == "app":
                    self.requests += one.requests
                    for window in self._windows.values():
                        window.add(one, at, process)
        if self.at is not None:
            for window in self._windows.values():
                window.settle(self.at)
            while self._recent and self._recent[0][0] <= self.at - NOW_S:
                self._recent.popleft()

    def points(self, window_s: int) -> list[Point]:
        """Intervals of one of `WINDOWS`, the oldest first; the last one is whole."""
        return list(self._windows[window_s].points)

    def now(self, by: By = "app") -> list[Sample]:
        """A sample of each part over the last seconds."""
        if self.at is None:
            return []
        found: dict[str, _Bin] = {}
        for _, process, kind, one in self._recent:
            if kind == by:
                made = found.setdefault(
                    one.of, _Bin(Sample(at=self.at, span_s=self._span_s, of=one.of))
                )
                made.add(one, process)
        return [found[name].close() for name in sorted(found)]

    @property
    def _span_s(self) -> float:
        """Seconds that "now" covers: fewer right after the start."""
        if self.at is None or self.started is None:
            return float(NOW_S)
        return min(float(NOW_S), max(1.0, self.at - self.started + 0.5))
