"""Latency histograms that merge: HDR histograms of microseconds, to one per cent.

After Gil Tene's HdrHistogram (http://hdrhistogram.org): what two replicas have counted adds up to
what one would have counted, so that percentiles of the whole are true ones and not means of
percentiles.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

__all__ = ["EDGES_S", "Histogram", "bucket_counts"]

EDGES_S: tuple[float, ...] = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0),
)
"""Upper edges of the buckets that Prometheus is told, in seconds: each at most twice the one
before, up to two seconds."""

_LONGEST_US = 3_600_000_000
_DIGITS = 2


class Histogram:
    """Durations, counted to one per cent; from a microsecond to an hour."""

    __slots__ = ("_counts",)

    def __init__(self, encoded: str | None = None) -> None:
        self._counts: Any = None  # an empty one is asked for often, and costs 20 kB
        if encoded is not None:
            from hdrh.histogram import HdrHistogram

            self._counts = HdrHistogram.decode(encoded)

    @property
    def _made(self) -> Any:
        if self._counts is None:
            from hdrh.histogram import HdrHistogram

            self._counts = HdrHistogram(1, _LONGEST_US, _DIGITS)
        return self._counts

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Histogram:
        """One of these durations."""
        made = cls()
        record = made._made.record_value
        for value in seconds:
            record(min(max(1, int(value * 1e6 + 0.5)), _LONGEST_US))
        return made

    def add(self, other: Histogram) -> None:
        """Count what another one has counted."""
        if other._counts is None:
            return
        mine, theirs = self._made, other._counts
        # What the library's own does, without its checks: all of these are made alike.
        mine.encoder.add(theirs.encoder)
        mine.total_count += theirs.total_count
        mine.max_value = max(mine.max_value, theirs.max_value)
        mine.min_value = min(mine.min_value, theirs.min_value)

    def encode(self) -> str:
        """It as text, in HdrHistogram's own compressed form."""
        return str(self._made.encode().decode())

    @property
    def count(self) -> int:
        """How many durations."""
        return int(self._counts.total_count) if self._counts is not None else 0

    def percentile_s(self, percent: float) -> float:
        """The duration in seconds that so many per cent do not exceed; NaN without any."""
        return self.percentiles_s(percent)[0]

    def percentiles_s(self, *percents: float) -> tuple[float, ...]:
        """Several at once."""
        if not self.count:
            return (float("nan"),) * len(percents)
        import numpy as np

        # As the library has it, which goes over the counts in Python: 30 times slower.
        made = self._counts
        sums = np.cumsum(np.ctypeslib.as_array(made.counts))
        ranks = [max(1, int(percent / 100 * made.total_count + 0.5)) for percent in percents]
        places = np.searchsorted(sums, ranks)
        values = (made.get_value_from_index(int(place)) for place in places)
        return tuple(made.get_highest_equivalent_value(value) / 1e6 for value in values)


def bucket_counts(seconds: Iterable[float]) -> list[int]:
    """How many durations lie at or below each of `EDGES_S` and above the one before, then the rest.

    Exact: they are counted before they are rounded.
    """
    counts = [0] * (len(EDGES_S) + 1)
    for value in seconds:
        counts[bisect_left(EDGES_S, value)] += 1
    return counts
