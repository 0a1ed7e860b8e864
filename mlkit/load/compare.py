"""Several load tests side by side: ``compare(before, after)``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from mlkit.errors import InputError, entry_point
from mlkit.load import analysis
from mlkit.load.analysis import Interval
from mlkit.load.results import LoadResult
from mlkit.load.slo import percentile_of

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas as pd

__all__ = ["Comparison", "Contrast", "compare"]

COLUMNS = ("ok_rate", "p50_ms", "p95_ms", "p99_ms", "requests", "errors", "client_cores", "void")
LATENCIES = ("p50", "p95", "p99")
CONFIDENCE = 0.95
"""Confidence of the intervals of ratios."""

Direction: TypeAlias = Literal["faster", "slower", "undecided"]


class Contrast(NamedTuple):
    """One figure of a result, compared with the same figure of the first result.

    ``ratio`` is its value over that of the first, with its interval at 95% confidence. The verdict
    is ``"faster"`` or ``"slower"`` where the interval excludes 1, else ``"undecided"``: lower
    latency and higher throughput are faster.
    """

    result: str
    figure: str
    first: float
    value: float
    ratio: Interval
    verdict: Direction

    def __str__(self) -> str:
        value, low, high = self.ratio
        known = "" if math.isnan(low) or math.isnan(high) else f" ({low:.2f} to {high:.2f})"
        return f"{self.figure}: {value:.2f}{known}, {self.verdict}"


@dataclass(frozen=True)
class Comparison:
    """Results by name; a table as its repr.

    Attributes:
        results: in the order in which they are shown. The others are compared with the first.
    """

    results: Mapping[str, LoadResult]

    def to_frame(self) -> pd.DataFrame:
        """A row per result: rate in requests per second, latencies in ms."""
        import pandas as pd

        rows = []
        for result in self.results.values():
            summary = result.summary() | {"errors": sum(result.errors.values())}
            summary["void"] = bool(summary["void"])
            rows.append({column: summary[column] for column in COLUMNS})
        return pd.DataFrame(rows, index=pd.Index(self.results, name="result"))

    @property
    def contrasts(self) -> tuple[Contrast, ...]:
        """Throughput, p50, p95 and p99 of every other result, compared with the first.

        The intervals cover the chance within each run, with the dependence between its requests.
        They do not cover a machine that changed between the runs: alternate between them, and use
        `mlkit.load.analysis.ratio`, where a few per cent matter.
        """
        (_, first), *others = self.results.items()
        return tuple(
            contrast for name, result in others for contrast in _contrasts(name, first, result)
        )

    def verdicts(self) -> pd.DataFrame:
        """`contrasts` as a table: a row per result and figure."""
        import pandas as pd

        rows = [
            {
                "result": contrast.result,
                "figure": contrast.figure,
                "first": contrast.first,
                "value": contrast.value,
                "ratio": contrast.ratio.value,
                "low": contrast.ratio.low,
                "high": contrast.ratio.high,
                "verdict": contrast.verdict,
            }
            for contrast in self.contrasts
        ]
        columns = ["first", "value", "ratio", "low", "high", "verdict"]
        return pd.DataFrame(rows, columns=["result", "figure", *columns]).set_index(
            ["result", "figure"]
        )

    def plot(self) -> matplotlib.figure.Figure:
        """Draw throughput as bars and latency from p50 to p99 as ranges, a row per result."""
        from mlkit.views.mpl.compare import plot_comparison

        return plot_comparison(self)

    def __repr__(self) -> str:
        return "\n\n".join(table.to_string() for table in self._tables())

    def _repr_html_(self) -> str:
        tables: list[Any] = self._tables()
        return "\n".join(str(table._repr_html_()) for table in tables)

    def _tables(self) -> list[pd.DataFrame]:
        frame = self.to_frame().round(2)
        return [frame, self.verdicts().round(3)] if len(self.results) > 1 else [frame]


@entry_point
def compare(results: Mapping[str, LoadResult] | LoadResult, *others: LoadResult) -> Comparison:
    """Put results side by side, and compare each with the first: faster, slower or undecided.

    ::

        compare(before, after)
        compare({"fused": a, "per step": b})

    Args:
        results: by display name; or the first result.
        others: further results, where the first is given as such.

    Raises:
        InputError: there is none, or one is not a `LoadResult`.
    """
    if not isinstance(results, Mapping):
        listed = (results, *others)
        names = ("first", "second") if len(listed) == 2 else map(str, range(1, len(listed) + 1))
        results = dict(zip(names, listed, strict=True))
    elif others:
        raise InputError(
            "results are given either by name or one after the other",
            where="compare(...)",
            expected="compare({'before': a, 'after': b}) or compare(a, b)",
        )
    for name, result in results.items():
        if not isinstance(result, LoadResult):
            raise InputError(
                f"{name!r} is no load test's result",
                expected="LoadResult",
                got=f"{result!r:.80}",
            )
    if not results:
        raise InputError("there is nothing to compare", expected="results by name", got="{}")
    return Comparison(dict(results))


def _contrasts(name: str, first: LoadResult, other: LoadResult) -> list[Contrast]:
    valid = not first.void and not other.void
    a, b = (result.throughput(confidence=CONFIDENCE) for result in (first, other))
    contrasts = [_contrast(name, "throughput", a, b, valid=valid)]
    for figure in LATENCIES:
        a, b = (_latency(result, figure) for result in (first, other))
        contrasts.append(_contrast(name, figure, a, b, valid=valid))
    return contrasts


def _contrast(name: str, figure: str, first: Interval, other: Interval, *, valid: bool) -> Contrast:
    ratio = analysis.ratio_of_intervals(other, first)
    verdict: Direction = "undecided"
    if valid and (ratio.low > 1 or ratio.high < 1):
        higher_is_faster = figure == "throughput"
        verdict = "faster" if (ratio.low > 1) == higher_is_faster else "slower"
    return Contrast(name, figure, first.value, other.value, ratio, verdict)


def _latency(result: LoadResult, name: str) -> Interval:
    # Two one-sided bounds make a two-sided interval.
    one_sided = (1 + CONFIDENCE) / 2
    percentile = percentile_of(result.latency_ms, name, confidence=one_sided)
    return Interval(percentile.value_ms, percentile.at_least_ms, percentile.at_most_ms)
