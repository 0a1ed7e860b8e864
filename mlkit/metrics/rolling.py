"""Incrementally updated metrics for live views.

`History` computes samples of any interval and part on demand; this module maintains three fixed
windows of the app incrementally, which makes a refresh twice a second cheap.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mlkit.metrics.history import By, Sample, samples_of
from mlkit.metrics.pools import forget_models
from mlkit.metrics.recorder import Delta

__all__ = ["NOW_S", "WINDOWS", "Point", "Rolling"]

WINDOWS: Mapping[int, float] = {60: 1.0, 300: 5.0, 900: 15.0}
"""Length of each window in seconds, and of its points."""

NOW_S = 10
"""Averaging period of current values in seconds."""

LATE_S = 2.5
"""How long an interval stays open: processes push at different times."""

PRESENT_S = 3.0
"""How long after its last delta a process counts as present."""


@dataclass(frozen=True)
class Point:
    """Metrics of the app in one interval; latencies in ms, NaN without responses."""

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
    """An open interval: sums, and the last gauges of each process."""

    sample: Sample
    cpu_s: float = 0.0
    gauges: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    gpus: dict[str, int] = field(default_factory=dict)

    def add(self, part: Sample, process: str) -> None:
        self.sample.merge(part)
        self.cpu_s += part.cpu * part.span_s
        self.gauges[process] = (part.in_flight, part.queued, part.rss)
        if part.gpu is not None:
            self.gpus[process] = part.gpu

    def close(self) -> Sample:
        """The sample, with gauges summed over processes."""
        sample = self.sample
        sample.cpu = self.cpu_s / sample.span_s
        sample.in_flight, sample.queued, sample.rss = (
            sum(values) for values in zip(*self.gauges.values(), strict=True)
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
    """Intervals of one length: open ones, and points of those that are closed."""

    def __init__(self, window_s: float, every_s: float) -> None:
        self.every_s = every_s
        self.points: deque[Point] = deque(maxlen=math.ceil(window_s / every_s) + 1)
        self.open: dict[int, _Bin] = {}

    def add(self, sample: Sample, at: float, process: str) -> None:
        slot = math.floor(at / self.every_s)
        end = (slot + 1) * self.every_s
        if self.points and end <= self.points[-1].at:
            return  # closed already
        if slot not in self.open:
            self.open[slot] = _Bin(Sample(at=end, span_s=self.every_s))
        self.open[slot].add(sample, process)

    def settle(self, newest: float) -> None:
        """Close the intervals that have been open for `LATE_S`."""
        for slot in sorted(self.open):
            if (slot + 1) * self.every_s <= newest - LATE_S:
                self.points.append(self.open.pop(slot).point())


class Rolling:
    """Metrics of an app as shown by `Dashboard` and `App.view`."""

    def __init__(self) -> None:
        self.at: float | None = None
        self.started: float | None = None
        self.requests = 0
        self._windows = {seconds: _Window(seconds, every) for seconds, every in WINDOWS.items()}
        self._recent: deque[tuple[float, str, By, Sample]] = deque()
        self._latest: dict[str, Delta] = {}

    def add(self, deltas: Iterable[Delta]) -> None:
        """Add deltas, in order of arrival."""
        for delta in deltas:
            at, process = delta["at"], delta["process"]
            self.started = at if self.started is None else min(self.started, at)
            self.at = at if self.at is None else max(self.at, at)
            forget_models(self._latest.get(process, {}))
            self._latest[process] = delta
            for by, sample in samples_of(delta):
                self._recent.append((at, process, by, sample))
                if by == "app":
                    self.requests += sample.requests
                    for window in self._windows.values():
                        window.add(sample, at, process)
        if self.at is not None:
            for window in self._windows.values():
                window.settle(self.at)
            while self._recent and self._recent[0][0] <= self.at - NOW_S:
                self._recent.popleft()
            for process, delta in list(self._latest.items()):
                if delta["at"] <= self.at - PRESENT_S:
                    del self._latest[process]

    def points(self, window_s: int) -> list[Point]:
        """Closed intervals of one of `WINDOWS`, the oldest first."""
        return list(self._windows[window_s].points)

    def latest(self) -> list[Delta]:
        """The last delta of each process that is present."""
        return list(self._latest.values())

    def now(self, by: By = "app") -> list[Sample]:
        """One sample per part over the last `NOW_S` seconds."""
        if self.at is None:
            return []
        bins: dict[str, _Bin] = {}
        for _, process, kind, sample in self._recent:
            if kind == by:
                empty = Sample(at=self.at, span_s=self._span_s, of=sample.of)
                bins.setdefault(sample.of, _Bin(empty)).add(sample, process)
        return [bins[name].close() for name in sorted(bins)]

    @property
    def _span_s(self) -> float:
        """Averaging period in seconds; shorter after the start."""
        if self.at is None or self.started is None:
            return float(NOW_S)
        return min(float(NOW_S), max(1.0, self.at - self.started + 0.5))
