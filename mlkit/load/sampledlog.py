"""A log of bounded size: figures of all requests by interval, and the rows of a sample."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Callable
from typing import Any

from mlkit.load.log import NEVER, SAMPLES_PER_KIND, Log, LogReport, Response
from mlkit.metrics.histogram import Histogram

__all__ = ["SampledLog"]


class SampledLog:
    """Counts requests in intervals, and keeps the rows of a uniform sample of them.

    A request counts in the interval in which it is answered; those of the warm-up are not counted.
    The sample is drawn by Vitter's algorithm R: at any time each logged request is in it with the
    same probability.

    Args:
        keep: number of rows.
        interval_s: length of an interval in seconds.
        seed: of the sample.
        on_interval: gets the figures of each interval, as plain data, when it is over.
    """

    def __init__(
        self,
        keep: int,
        interval_s: float,
        seed: int,
        on_interval: Callable[[dict[str, Any]], None],
    ) -> None:
        self.opened = self.failed = 0
        self._keep, self._interval_s, self._on_interval = keep, interval_s, on_interval
        self._draw = random.Random(seed)
        self._sent: dict[int, tuple[float, float]] = {}
        self._kept, self._slots = Log(), array("q")
        self._samples: dict[str, list[tuple[int, str]]] = {}
        self._counted = 0
        self._start_s = 0.0
        self._reset()

    def open(self, intended: float, sent: float) -> int:
        """Log a request that is sent, and return its slot."""
        slot, self.opened = self.opened, self.opened + 1
        self._sent[slot] = intended, sent
        return slot

    def fail(self, slot: int, error: str, detail: str = "") -> None:
        """Log a request that was not sent."""
        at = self._sent[slot][1]
        self.close(slot, Response(NEVER, at, error=error, detail=detail), 0.0)

    def close(self, slot: int, response: Response, zero: float) -> None:
        """Count a response, and keep its row if it is drawn."""
        intended, sent = self._sent.pop(slot)
        if response.error is not None:
            self._note_failure(slot, response.error, response.detail)
        if intended < 0:
            return
        finished = response.finished - zero
        while finished >= self._start_s + self._interval_s:
            self._end_interval(self._start_s + self._interval_s)
        self._count(response, finished - intended, sent - intended)
        row = self._row(slot, intended, sent)
        if row is not None:
            self._kept.close(row, response, zero)

    def end(self, now: float) -> None:
        """End the last interval, at ``now`` seconds from the start."""
        if now > self._start_s:
            self._end_interval(now)

    def report(self) -> LogReport:
        """Return the sampled rows, in no order."""
        report = self._kept.report()
        facts = report.facts | {"samples": self._samples}
        return LogReport(facts, [self._slots.tobytes(), *report.rows[1:]])

    def _note_failure(self, slot: int, error: str, detail: str) -> None:
        self.failed += 1
        samples = self._samples.setdefault(error, [])
        if len(samples) < SAMPLES_PER_KIND:
            samples.append((slot, detail))

    def _count(self, response: Response, latency_s: float, late_s: float) -> None:
        if response.error is None:
            self._latency.record(latency_s)
        else:
            self._errors[response.error] += 1
        if response.error != "unsent":
            self._lateness.record(late_s)

    def _row(self, slot: int, intended: float, sent: float) -> int | None:
        """The row for a request; None if it is not drawn."""
        self._counted += 1
        if len(self._slots) < self._keep:
            self._slots.append(slot)
            return self._kept.open(intended, sent)
        row = self._draw.randrange(self._counted)
        if row >= self._keep:
            return None
        self._slots[row] = slot
        self._kept.reopen(row, intended, sent)
        return row

    def _end_interval(self, end_s: float) -> None:
        if self._latency.count or self._errors:
            self._on_interval(
                {
                    "start_s": self._start_s,
                    "end_s": end_s,
                    "errors": dict(self._errors),
                    "latency": self._latency.encode(),
                    "lateness": self._lateness.encode(),
                }
            )
        self._start_s = end_s
        self._reset()

    def _reset(self) -> None:
        self._latency, self._lateness = Histogram(), Histogram()
        self._errors: Counter[str] = Counter()
