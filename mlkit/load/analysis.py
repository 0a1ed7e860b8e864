"""Percentiles with confidence bounds, and ratios with confidence intervals.

Everything is computed from raw values: nothing is rounded, interpolated or binned. A failed request
has an infinite latency, so it can only make a percentile worse.

Latencies of neighbouring requests depend on each other, because they wait in the same queue.
`inflation` estimates how many requests carry as much evidence as one independent request, and the
bounds `at_least` and `at_most` take it into account.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

from mlkit.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Interval",
    "Ratio",
    "allowed_over",
    "at_least",
    "at_most",
    "certifies",
    "inflation",
    "least_over",
    "mean_interval",
    "needed",
    "percentile",
    "ratio",
    "ratio_of_intervals",
]

WINDOW = 5.0
"""Lags per autocorrelation time that `inflation` sums; Sokal recommends 4 to 6."""
THRESHOLDS = (1.0, 3.0, 10.0)
"""Multiples of the share above a percentile, at which `inflation` looks for dependence."""


def percentile(values: ArrayLike, share: float) -> float:
    """A percentile by nearest rank: the smallest value that ``share`` of the values do not exceed.

    Type 1 of Hyndman and Fan (1996), which is always a measured value. NaN for no values.

    Args:
        values: any number of values in any unit; infinities are allowed.
        share: between 0 and 1, e.g. 0.99 for p99.
    """
    import numpy as np

    ordered = np.sort(np.asarray(values, dtype=np.float64).ravel())
    return float(ordered[_rank(share, len(ordered)) - 1]) if len(ordered) else math.nan


def _rank(share: float, count: int) -> int:
    # 0.29 * 100 is 28.999999999999996: without the allowance, ranks would be off by one.
    return max(1, math.ceil(share * count - 1e-9))


def certifies(count: int, over: int, *, share: float = 0.99, confidence: float = 0.99) -> bool:
    """Whether ``over`` of ``count`` requests over a limit prove that the percentile is under it.

    The exact binomial test: if the percentile were over the limit, each request would be over it
    with a probability of at least ``1 - share``; so few over it must then be less likely than
    ``1 - confidence``. Requests are assumed to be independent.
    """
    allowed = allowed_over(count, share=share, confidence=confidence)
    return allowed is not None and over <= allowed


def allowed_over(count: int, *, share: float = 0.99, confidence: float = 0.99) -> int | None:
    """Maximum number of ``count`` requests over a limit that proves the percentile is under it.

    None for too few requests, of which even none over it would prove nothing.
    """
    fits = int((_binomial_cdf(count, 1 - share) <= 1 - confidence).sum())
    return fits - 1 if fits else None


def needed(over: int, *, share: float = 0.99, confidence: float = 0.99) -> int:
    """Minimum number of requests of which ``over`` may be over the limit."""
    low, high = over, max(2 * over, 1)
    while not certifies(high, over, share=share, confidence=confidence):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if certifies(middle, over, share=share, confidence=confidence):
            high = middle
        else:
            low = middle
    return high


def least_over(count: int, *, share: float = 0.99, confidence: float = 0.99) -> int | None:
    """Minimum number of ``count`` requests over a limit that proves the percentile is over it.

    The counterpart of `allowed_over`. None if even all of them would prove nothing.
    """
    # P(X >= k) = 1 - P(X <= k - 1) is below 1 - confidence from this k on.
    k = 1 + int((_binomial_cdf(count, 1 - share) < confidence + 1e-12).sum())
    return k if k <= count else None


def at_most(
    values: ArrayLike, share: float, *, confidence: float = 0.99, inflation: float = 1.0
) -> float:
    """Upper confidence bound of the percentile; NaN with too few values.

    The order statistic above which as many values lie as `allowed_over` allows.

    Args:
        values: the measured values.
        share: of the percentile, e.g. 0.99.
        confidence: of the bound.
        inflation: from the function of that name; 1 for independent values.
    """
    import numpy as np

    ordered = np.sort(np.asarray(values, dtype=np.float64).ravel())
    over = allowed_over(int(len(ordered) / inflation), share=share, confidence=confidence)
    return math.nan if over is None else float(ordered[len(ordered) - 1 - int(over * inflation)])


def at_least(
    values: ArrayLike, share: float, *, confidence: float = 0.99, inflation: float = 1.0
) -> float:
    """Lower confidence bound of the percentile; NaN with too few values. See `at_most`."""
    import numpy as np

    ordered = np.sort(np.asarray(values, dtype=np.float64).ravel())
    over = least_over(int(len(ordered) / inflation), share=share, confidence=confidence)
    if over is None or math.ceil(over * inflation) > len(ordered):
        return math.nan
    return float(ordered[len(ordered) - math.ceil(over * inflation)])


def inflation(values: ArrayLike, share: float) -> float:
    """How many consecutive values carry as much evidence on a percentile as one independent value.

    The integrated autocorrelation time of the indicator of a value above the percentile, by which
    the variance of their number exceeds that of independent values; at least 1. The sum of
    autocorrelations ends at five times itself (Sokal, "Monte Carlo Methods in Statistical
    Mechanics", 1997, section 3). Few values are above a high percentile, so thresholds below it are
    looked at too, and the largest estimate is returned.

    Args:
        values: in the order in which they were measured; infinities are allowed.
        share: of the percentile, e.g. 0.99.
    """
    import numpy as np

    series = np.asarray(values, dtype=np.float64).ravel()
    if len(series) < 2:
        return 1.0
    shares = {max(1 - factor * (1 - share), min(share, 0.5)) for factor in THRESHOLDS}
    limits = {percentile(series, s) for s in shares}
    return max(_autocorrelation_time(_above(series, limit)) for limit in limits)


def _above(series: NDArray[np.float64], limit: float) -> NDArray[np.bool_]:
    # Where many requests failed, the limit is infinite like their latencies. Otherwise, equal
    # latencies differ by the rounding of their times, which is no dependence.
    return series >= limit if math.isinf(limit) else series > limit * (1 + 1e-9)


def _autocorrelation_time(indicator: NDArray[np.bool_]) -> float:
    """Integrated autocorrelation time, from 1 to the number of values."""
    import numpy as np

    count = len(indicator)
    centred = indicator - indicator.mean()
    if not centred.any():
        return 1.0
    spectrum = np.fft.rfft(centred, 1 << (2 * count - 1).bit_length())
    covariance = np.fft.irfft(np.abs(spectrum) ** 2)[:count]
    times = 2 * np.cumsum(covariance / covariance[0]) - 1
    within = np.flatnonzero(np.arange(count) >= WINDOW * times)
    return float(np.clip(times[within[0]], 1.0, count)) if len(within) else float(count)


def _binomial_cdf(count: int, probability: float) -> NDArray[np.float64]:
    """P(X <= k) for k = 0 to ``count``, from logarithms so that large counts do not underflow."""
    import numpy as np

    k = np.arange(1, count + 1)
    odds = math.log(probability) - math.log1p(-probability)
    growth = np.log(count - k + 1) - np.log(k) + odds
    log_mass = count * math.log1p(-probability) + np.concatenate([[0.0], np.cumsum(growth)])
    return np.cumsum(np.exp(log_mass))


class Ratio(NamedTuple):
    """A ratio of two interleaved measurements, with its confidence interval."""

    value: float
    low: float
    high: float
    blocks: int
    confidence: float

    def __str__(self) -> str:
        return (
            f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f}, "
            f"{self.confidence:.0%} confidence, {self.blocks} pairs of blocks)"
        )


def ratio(
    a: Sequence[float],
    b: Sequence[float],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Ratio:
    """Mean of ``a`` over mean of ``b``, measured interleaved (a[0], b[0], a[1], b[1], ...).

    A paired bootstrap: slow drift affects both and cancels. With few blocks a plain bootstrap
    interval is too narrow; its quantiles are widened as Hesterberg describes ("What Teachers Should
    Know About the Bootstrap", 2015, section 3.3).

    Args:
        a: one value per block, in the order measured; at least five.
        b: as many values, each measured right after its partner in ``a``.
        confidence: of the interval, e.g. 0.95.
        resamples: number of bootstrap samples.
        seed: of the resampling.

    Raises:
        LoadError: fewer than five blocks, or not equally many.
    """
    import numpy as np

    if len(a) != len(b) or len(a) < 5:
        raise LoadError(
            "a ratio needs interleaved blocks",
            where="ratio(a, b)",
            expected="at least five of each, equally many",
            got=f"{len(a)} and {len(b)}",
        )
    pairs = np.array([a, b], dtype=np.float64)
    picks = np.random.default_rng(seed).integers(0, len(a), size=(resamples, len(a)))
    means = pairs[:, picks].mean(axis=2)
    tail = _widened_tail(len(a), confidence)
    low, high = np.quantile(means[0] / means[1], [tail, 1 - tail])
    value = float(pairs[0].mean() / pairs[1].mean())
    return Ratio(value, float(low), float(high), len(a), confidence)


class Interval(NamedTuple):
    """An estimate with its confidence interval; an unknown end is NaN."""

    value: float
    low: float
    high: float


def mean_interval(batches: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Mean of batch means, with the interval of Student's t; NaN ends for fewer than five.

    The method of batch means: batches much longer than the dependence within a series have means
    that are nearly independent.
    """
    import numpy as np

    means = np.asarray(batches, dtype=np.float64).ravel()
    value = float(means.mean()) if len(means) else math.nan
    if len(means) < 5:
        return Interval(value, math.nan, math.nan)
    spread = float(means.std(ddof=1)) / math.sqrt(len(means))
    margin = spread * _student_quantile((1 + confidence) / 2, len(means) - 1)
    return Interval(value, value - margin, value + margin)


def ratio_of_intervals(a: Interval, b: Interval) -> Interval:
    """``a / b`` of two independent estimates, with an interval of the same confidence.

    Recovers the variances from both intervals, on a log scale: the MOVER of Zou and Donner,
    "Construction of confidence limits about effect measures" (2008). An end is NaN if it needs one
    that is unknown, zero or infinite.
    """
    value = a.value / b.value if b.value and math.isfinite(b.value) else math.nan
    below = math.hypot(_log_ratio(a.value, a.low), _log_ratio(b.high, b.value))
    above = math.hypot(_log_ratio(a.high, a.value), _log_ratio(b.value, b.low))
    return Interval(value, value * math.exp(-below), value * math.exp(above))


def _log_ratio(a: float, b: float) -> float:
    usable = 0 < a < math.inf and 0 < b < math.inf  # false for NaN as well
    return math.log(a / b) if usable else math.nan


def _widened_tail(count: int, confidence: float) -> float:
    normal = NormalDist()
    quantile = _student_quantile((1 + confidence) / 2, count - 1)
    return normal.cdf(-math.sqrt(count / (count - 1)) * quantile)


def _student_quantile(share: float, freedom: int) -> float:
    """Quantile of Student's t (Abramowitz and Stegun 26.7.5); within 1% from 4 degrees up."""
    z = NormalDist().inv_cdf(share)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return math.fsum(term / freedom**power for power, term in enumerate(terms))
