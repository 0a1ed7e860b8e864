"""How well the results of two builds of a model agree, and how sure an accuracy is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlkit.errors import MlkitError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from mlkit.models.model import Array

__all__ = ["Agreement", "Estimate", "check_finite", "compare_results", "estimate"]

MAX_RELATIVE_ERROR = 0.05
MIN_TOP1 = 0.99
NEAR_TIE = 0.02
"""Part of a row's range by which its two best scores differ where either counts as the best."""

Z = 1.959964
"""Of a 95% interval."""

RESAMPLES = 2_000


@dataclass(frozen=True)
class Agreement:
    """How well approximate results agree with exact ones.

    Attributes:
        top1: share of rows whose best class is the same in every output of scores [N, classes], or
            in the exact one a near tie; NaN without such outputs.
        relative_error: largest ratio of the error's norm to the exact norm among the outputs.
        max_difference: largest absolute difference of two numbers.
        finite: whether the approximate results are finite where the exact ones are.
    """

    top1: float
    relative_error: float
    max_difference: float
    finite: bool

    @property
    def fails(self) -> str:
        """Why the results do not agree by the default criterion; empty if they do."""
        if not self.finite:
            return "its results are not finite"
        if not math.isnan(self.top1):
            return "" if self.top1 >= MIN_TOP1 else f"its best class agrees in {self.top1:.1%}"
        if self.relative_error > MAX_RELATIVE_ERROR:
            return f"its results differ by {self.relative_error:.1%}"
        return ""


def compare_results(exact: Sequence[Array], approximate: Sequence[Array]) -> Agreement:
    """Compare flat results of two builds on the same inputs, with items along axis 0."""
    import numpy as np

    rows: Array | None = None
    relative, largest, finite = 0.0, 0.0, True
    for wanted, got in zip(exact, approximate, strict=True):
        a, b = (np.asarray(value, np.float64) for value in (wanted, got))
        known = np.isfinite(a)
        finite = finite and bool(np.isfinite(b[known]).all())
        difference = np.abs(np.where(known & np.isfinite(b), a - b, 0.0))
        norm = float(np.linalg.norm(a[known]))
        error = float(np.linalg.norm(difference))
        relative = max(relative, error / norm if norm else math.inf if error else 0.0)
        largest = max(largest, float(difference.max(initial=0.0)))
        if wanted.dtype.kind == "f" and a.ndim == 2 and a.shape[1] > 1 and len(a):
            same = _same_best(a, b)
            rows = same if rows is None or len(rows) != len(same) else rows & same
    top1 = math.nan if rows is None else float(rows.mean())
    return Agreement(top1, relative, largest, finite)


def _same_best(exact: Array, approximate: Array) -> Array:
    """Whether the best class of each row [N, classes] is the exact one's, or a near tie."""
    import numpy as np

    chosen = np.take_along_axis(exact, approximate.argmax(1)[:, None], 1)[:, 0]
    best = exact.max(1)
    return np.asarray(chosen >= best - NEAR_TIE * (best - exact.min(1)))


def check_finite(results: Sequence[Array], name: str) -> None:
    """Refuse results with NaN or infinities.

    Raises:
        MlkitError: there are some.
    """
    import numpy as np

    for index, array in enumerate(results):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = np.count_nonzero(~np.isfinite(array))
            raise MlkitError(
                f"output {index} of {name} has {bad:,} NaN or infinite of {array.size:,} numbers",
                where="optimize",
                expected="finite numbers",
                fix="check the weights, and the inputs' scale and dtype",
            )


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95% interval; NaN where the interval is unknown."""

    value: float
    low: float = math.nan
    high: float = math.nan


def estimate(scores: ArrayLike | bool | float) -> Estimate:
    """Estimate an accuracy from the scores of single items, or take it from one number.

    Booleans get Wilson's interval (Wilson, 1927; it holds near 0 and 1 and for few items), numbers
    a percentile bootstrap.
    """
    import numpy as np

    values = np.asarray(scores)
    if values.ndim == 0:
        return Estimate(float(values))
    if values.ndim != 1 or not len(values):
        raise MlkitError(
            "evaluate= must return one number, or one per item",
            where="optimize",
            expected="a float, or an array [N] of booleans or numbers",
            got=f"shape {list(values.shape)}",
        )
    n, mean = len(values), float(values.mean())
    if values.dtype.kind == "b":
        centre = (mean + Z**2 / (2 * n)) / (1 + Z**2 / n)
        half = Z / (1 + Z**2 / n) * math.sqrt(mean * (1 - mean) / n + Z**2 / (4 * n**2))
        return Estimate(mean, centre - half, centre + half)
    means = values[np.random.default_rng(0).integers(0, n, (RESAMPLES, n))].mean(1)
    return Estimate(mean, *map(float, np.quantile(means, [0.025, 0.975])))
