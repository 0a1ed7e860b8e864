"""Mergeable latency histograms: HDR histograms of microseconds, accurate to one percent.

After Gil Tene's HdrHistogram (http://hdrhistogram.org): the sum of the histograms of two replicas
is the one that a single replica would have recorded, so that percentiles of the whole are true
percentiles and not means of percentiles.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

__all__ = ["EDGES_S", "Histogram", "bucket_counts", "bucket_of"]

EDGES_S: tuple[float, ...] = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0),
)
"""Upper bounds of the Prometheus buckets in seconds: each at most twice the one before, up to two
seconds."""

_LONGEST_US = 3_600_000_000
_DIGITS = 2


class Histogram:
    """Durations from a microsecond to an hour, accurate to one percent."""

    __slots__ = ("_counts",)

    def __init__(self, encoded: str | None = None) -> None:
        self._counts: Any = None  # allocated on demand: 20 kB, and many stay empty
        if encoded is not None:
            from hdrh.histogram import HdrHistogram

            self._counts = HdrHistogram.decode(encoded)

    @property
    def _hdr(self) -> Any:
        if self._counts is None:
            from hdrh.histogram import HdrHistogram

            self._counts = HdrHistogram(1, _LONGEST_US, _DIGITS)
        return self._counts

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Histogram:
        """Build the histogram of durations."""
        histogram = cls()
        record = histogram._hdr.record_value
        for value in seconds:
            record(min(max(1, int(value * 1e6 + 0.5)), _LONGEST_US))
        return histogram

    def record(self, seconds: float) -> None:
        """Count a duration."""
        self._hdr.record_value(min(max(1, int(seconds * 1e6 + 0.5)), _LONGEST_US))

    def add(self, other: Histogram) -> None:
        """Add the counts of another histogram."""
        if other._counts is None:
            return
        own, added = self._hdr, other._counts
        # As the library's `add`, without its checks: all histograms have the same configuration.
        own.encoder.add(added.encoder)
        own.total_count += added.total_count
        own.max_value = max(own.max_value, added.max_value)
        own.min_value = min(own.min_value, added.min_value)

    def encode(self) -> str:
        """Encode as text, in HdrHistogram's compressed format."""
        return str(self._hdr.encode().decode())

    @property
    def count(self) -> int:
        """Number of durations."""
        return int(self._counts.total_count) if self._counts is not None else 0

    def percentile_s(self, percent: float) -> float:
        """A percentile in seconds; NaN without durations."""
        return self.percentiles_s(percent)[0]

    def percentiles_s(self, *percents: float) -> tuple[float, ...]:
        """Several percentiles in seconds, in one pass."""
        if not self.count:
            return (float("nan"),) * len(percents)
        import numpy as np

        # The library's own method, a Python loop over the counts, is 30 times slower.
        hdr = self._counts
        sums = np.cumsum(np.ctypeslib.as_array(hdr.counts))
        ranks = [max(1, int(percent / 100 * hdr.total_count + 0.5)) for percent in percents]
        places = np.searchsorted(sums, ranks)
        values = (hdr.get_value_from_index(int(place)) for place in places)
        return tuple(hdr.get_highest_equivalent_value(value) / 1e6 for value in values)


def bucket_counts(seconds: Iterable[float]) -> list[int]:
    """Count durations per bucket: those up to each of `EDGES_S`, then those above the last.

    Exact: durations are counted before they are rounded.
    """
    counts = [0] * (len(EDGES_S) + 1)
    for value in seconds:
        counts[bucket_of(value)] += 1
    return counts


def bucket_of(seconds: float) -> int:
    """Return the place of a duration's bucket: of the first of `EDGES_S` that is not below it."""
    return bisect_left(EDGES_S, seconds)
