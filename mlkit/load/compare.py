"""Several load tests side by side: ``compare({"fused": a, "per step": b})``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlkit.errors import InputError, entry_point
from mlkit.load.results import LoadResult

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas as pd

__all__ = ["Comparison", "compare"]

COLUMNS = ("ok_rate", "p50_ms", "p95_ms", "p99_ms", "requests", "errors", "client_cores", "void")


@dataclass(frozen=True)
class Comparison:
    """Results by name; a table as its repr.

    Attributes:
        results: in the order in which they are shown.
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

    def plot(self) -> matplotlib.figure.Figure:
        """Draw throughput as bars and latency from p50 to p99 as ranges, a row per result."""
        from mlkit.views.mpl.compare import plot_comparison

        return plot_comparison(self)

    def __repr__(self) -> str:
        return self.to_frame().round(2).to_string()

    def _repr_html_(self) -> str:
        return str(self.to_frame().round(2)._repr_html_())  # type: ignore[operator]


@entry_point
def compare(results: Mapping[str, LoadResult]) -> Comparison:
    """Put results side by side.

    Args:
        results: by display name.

    Raises:
        InputError: there is none, or one is not a `LoadResult`.
    """
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
