"""What the plots of a load test show, as plain arrays: binned, stretched and spread out.

Kept apart from the drawing, so that it can be tested without looking at a picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlkit.load import LoadResult, analysis
from mlkit.load.steered import Steered

__all__ = [
    "Distribution",
    "OverTime",
    "Points",
    "Rates",
    "distribution",
    "limits_ms",
    "percentiles_over_time",
    "points",
    "rates",
    "spread",
    "stretch",
]

LEAST_IN_BIN = {"p50": 10, "p95": 40, "p99": 100}
"""With fewer requests in a bin, its percentile is little more than its slowest request."""
LAST_SHARE = 0.999
TICKS = (0.0, 0.5, 0.9, 0.95, 0.99, 0.999)
MOST_POINTS = 20_000


class Rates(NamedTuple):
    """Requests per second in bins of time; ``asked`` is None for a closed loop."""

    edges: NDArray[np.float64]
    answered: NDArray[np.float64]
    failed: NDArray[np.float64]
    asked: NDArray[np.float64] | None

    @property
    def highest(self) -> float:
        """The highest value of any."""
        asked = 0.0 if self.asked is None else float(self.asked.max(initial=0.0))
        return max(asked, float((self.answered + self.failed).max(initial=0.0)))


class Points(NamedTuple):
    """Every answered request (thinned beyond 20,000), and how opaque a dot may be."""

    at_s: NDArray[np.float64]
    latency_ms: NDArray[np.float64]
    alpha: float


class OverTime(NamedTuple):
    """Percentiles of the requests scheduled within each bin; only those with enough of them."""

    edges: NDArray[np.float64]
    values: dict[str, NDArray[np.float64]]


class Distribution(NamedTuple):
    """The latency against the stretched share of requests, as steps that end at each point.

    ``failed_from`` and ``unproven_from`` are stretched shares, or None; ``end`` closes the axis.
    """

    stretched: NDArray[np.float64]
    latency_ms: NDArray[np.float64]
    ticks: tuple[float, ...]
    end: float
    failed_from: float | None
    unproven_from: float | None


def rates(result: LoadResult) -> Rates:
    """Answers and failures by when they came, and the schedule, per second."""
    count = min(60, max(8, len(result) // 25))
    edges = np.linspace(0, result.duration_s, count + 1)
    per_second = count / result.duration_s
    finished = result.columns["finished"]

    def rate(times: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.histogram(times[~np.isnan(times)], edges)[0] * per_second

    asked = None
    if result.asked_rate is not None:
        steered = isinstance(result.arrivals, Steered)
        times = result.columns["intended"] if steered else result.arrivals.times(result.duration_s)
        asked = rate(times)
    return Rates(edges, rate(finished[result.ok]), rate(finished[~result.ok]), asked)


def points(result: LoadResult) -> Points:
    """The answered requests as dots at their scheduled time."""
    every = max(1, math.ceil(len(result) / MOST_POINTS))
    at = result.columns["intended"][result.ok][::every]
    alpha = min(0.7, max(0.12, 350 / max(1, len(at))))
    return Points(at, result.latency_ms[result.ok][::every], alpha)


def percentiles_over_time(result: LoadResult) -> OverTime:
    """p50, p95 and p99 in bins of time that hold enough requests for them."""
    count = min(40, max(4, len(result) // 120))
    edges = np.linspace(0, result.duration_s, count + 1)
    bins = np.clip(np.digitize(result.columns["intended"], edges) - 1, 0, count - 1)
    members = [result.latency_ms[bins == number] for number in range(count)]
    sizes = np.array([len(member) for member in members])
    values = {}
    for name, least in LEAST_IN_BIN.items():
        if np.median(sizes) >= least:
            share = result.percentiles[name].share
            found = np.array([analysis.percentile(member, share) for member in members])
            if np.isfinite(found).any():
                values[name] = np.where(np.isfinite(found), found, math.nan)
    return OverTime(edges, values)


def limits_ms(result: LoadResult) -> tuple[float, float]:
    """The ends of the latency axes in ms: both show the same range."""
    answered = result.latency_ms[np.isfinite(result.latency_ms)]
    if not len(answered):
        return 1.0, max(1000.0, 2 * (result.slo_ms or 0.0))
    high = max(float(answered.max()), result.slo_ms or 0.0)
    low = float(np.quantile(answered, 0.001))
    return max(low / 1.3, 1e-3), max(high * 1.5, low * 8)


def distribution(result: LoadResult) -> Distribution:
    """The sorted latencies up to p99.9, each at the share of requests that are no slower."""
    count = len(result)
    ordered = np.sort(result.latency_ms)
    # Each value holds for the shares up to its own: the steps are the nearest-rank percentiles.
    shares = np.arange(count + 1) / count
    end = stretch(LAST_SHARE) + 0.08
    drawn = int(np.isfinite(ordered).sum()) + 1
    failed = 1 - float(result.ok.mean())
    return Distribution(
        stretched=np.minimum(-np.log10(np.maximum(1 - shares, 1e-12)), end)[:drawn],
        latency_ms=np.concatenate([ordered[:1], ordered])[:drawn],
        ticks=TICKS,
        end=end,
        failed_from=stretch(1 - failed) if failed else None,
        # The share p that so many requests just prove something about: p ** count = 0.01.
        unproven_from=stretch(0.01 ** (1 / count)),
    )


def stretch(share: float) -> float:
    """A share of requests on the axis: each further nine takes as much room as the last."""
    return -math.log10(max(1 - share, 1e-12))


def spread(wanted: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Positions near the wanted ones, in the same order, at least ``gap`` apart, within limits."""
    order = sorted(range(len(wanted)), key=lambda k: wanted[k])
    placed = [0.0] * len(wanted)
    floor = low
    for number in order:
        placed[number] = max(wanted[number], floor)
        floor = placed[number] + gap
    ceiling = high
    for number in reversed(order):
        placed[number] = min(placed[number], ceiling)
        ceiling = placed[number] - gap
    return placed
