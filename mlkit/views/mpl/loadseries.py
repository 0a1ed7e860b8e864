"""Data of the plots of a load test, as plain arrays that can be tested without rendering."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlkit.load import LoadResult, analysis

__all__ = [
    "END",
    "TICKS",
    "Distribution",
    "OverTime",
    "Points",
    "Rates",
    "by_share",
    "distribution",
    "limits_ms",
    "percentiles_over_time",
    "points",
    "rates",
    "stretch",
]

MIN_PER_BIN = {"p50": 10, "p95": 40, "p99": 100}
"""Minimum requests in a bin; with fewer, a percentile is little more than the slowest request."""
LAST_SHARE = 0.999
END = -math.log10(1 - LAST_SHARE) + 0.08
"""Where the axis of stretched shares ends."""
TICKS = (0.0, 0.5, 0.9, 0.95, 0.99, 0.999)
MAX_POINTS = 20_000


class Rates(NamedTuple):
    """Requests per second in bins of time; ``asked`` is None for a closed loop."""

    edges: NDArray[np.float64]
    answered: NDArray[np.float64]
    failed: NDArray[np.float64]
    asked: NDArray[np.float64] | None

    @property
    def highest(self) -> float:
        """The highest value."""
        asked = 0.0 if self.asked is None else float(self.asked.max(initial=0.0))
        return max(asked, float((self.answered + self.failed).max(initial=0.0)))


class Points(NamedTuple):
    """Answered requests, thinned beyond 20,000, and the opacity of their dots."""

    at_s: NDArray[np.float64]
    latency_ms: NDArray[np.float64]
    alpha: float


class OverTime(NamedTuple):
    """Percentiles of the requests scheduled within each bin, if there are enough of them."""

    edges: NDArray[np.float64]
    values: dict[str, NDArray[np.float64]]


class Distribution(NamedTuple):
    """Latency over the stretched share of requests, as steps that end at each point.

    ``failed_from`` and ``unproven_from`` are stretched shares, or None; ``end`` closes the axis.
    """

    stretched: NDArray[np.float64]
    latency_ms: NDArray[np.float64]
    ticks: tuple[float, ...]
    end: float
    failed_from: float | None
    unproven_from: float | None


def rates(result: LoadResult) -> Rates:
    """Rates of responses and failures by time of arrival, and of the schedule."""
    count = min(60, max(8, len(result) // 25))
    edges = np.linspace(0, result.duration_s, count + 1)
    per_second = count / result.duration_s
    finished = result.columns["finished"]

    def rate(times: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.histogram(times[~np.isnan(times)], edges)[0] * per_second

    asked = None if result.schedule_s is None else rate(result.schedule_s)
    return Rates(edges, rate(finished[result.ok]), rate(finished[~result.ok]), asked)


def points(result: LoadResult) -> Points:
    """Answered requests at their scheduled time."""
    every = max(1, math.ceil(len(result) / MAX_POINTS))
    at = result.columns["intended"][result.ok][::every]
    alpha = min(0.7, max(0.12, 350 / max(1, len(at))))
    return Points(at, result.latency_ms[result.ok][::every], alpha)


def percentiles_over_time(result: LoadResult) -> OverTime:
    """p50, p95 and p99 over time, where bins have enough requests."""
    count = min(40, max(4, len(result) // 120))
    edges = np.linspace(0, result.duration_s, count + 1)
    bins = np.clip(np.digitize(result.columns["intended"], edges) - 1, 0, count - 1)
    members = [result.latency_ms[bins == number] for number in range(count)]
    sizes = np.array([len(member) for member in members])
    values = {}
    for name, least in MIN_PER_BIN.items():
        if np.median(sizes) >= least:
            share = result.percentiles[name].share
            latencies = np.array([analysis.percentile(member, share) for member in members])
            if np.isfinite(latencies).any():
                values[name] = np.where(np.isfinite(latencies), latencies, math.nan)
    return OverTime(edges, values)


def limits_ms(result: LoadResult) -> tuple[float, float]:
    """Range of the latency axes in ms; both panels use the same."""
    answered = result.latency_ms[np.isfinite(result.latency_ms)]
    if not len(answered):
        return 1.0, max(1000.0, 2 * (result.slo_ms or 0.0))
    high = max(float(answered.max()), result.slo_ms or 0.0)
    low = float(np.quantile(answered, 0.001))
    return max(low / 1.3, 1e-3), max(high * 1.5, low * 8)


def distribution(result: LoadResult) -> Distribution:
    """Sorted latencies up to p99.9 over the share of requests that are no slower."""
    count = len(result)
    stretched, latency_ms = by_share(result.latency_ms)
    failed = 1 - float(result.ok.mean())
    return Distribution(
        stretched=stretched,
        latency_ms=latency_ms,
        ticks=TICKS,
        end=END,
        failed_from=stretch(1 - failed) if failed else None,
        # The highest share p that ``count`` requests can certify: p ** count = 0.01.
        unproven_from=stretch(0.01 ** (1 / count)),
    )


def by_share(values_ms: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sorted finite values over the stretched share of values that are no larger, up to p99.9."""
    ordered = np.sort(values_ms)
    # Each value holds for shares up to its own: the steps are nearest-rank percentiles.
    shares = np.arange(len(ordered) + 1) / max(len(ordered), 1)
    drawn = int(np.isfinite(ordered).sum()) + 1
    stretched = np.minimum(-np.log10(np.maximum(1 - shares, 1e-12)), END)
    return stretched[:drawn], np.concatenate([ordered[:1], ordered])[:drawn]


def stretch(share: float) -> float:
    """Map a share of requests to the axis: every further nine takes the same space."""
    return -math.log10(max(1 - share, 1e-12))
