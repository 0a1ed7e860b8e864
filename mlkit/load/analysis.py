"""Percentiles with confidence bounds, and ratios with confidence intervals.

Everything is computed from raw values: nothing is rounded, interpolated or binned. A failed request
has an infinite latency, so it can only make a percentile worse.
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
    "Ratio",
    "allowed_over",
    "at_most",
    "certifies",
    "needed",
    "percentile",
    "ratio",
]


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


def at_most(values: ArrayLike, share: float, *, confidence: float = 0.99) -> float:
    """Upper confidence bound of the percentile; NaN with too few values.

    The order statistic above which as many values lie as `allowed_over` allows.
    """
    import numpy as np

    ordered = np.sort(np.asarray(values, dtype=np.float64).ravel())
    over = allowed_over(len(ordered), share=share, confidence=confidence)
    return math.nan if over is None else float(ordered[len(ordered) - 1 - over])


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
