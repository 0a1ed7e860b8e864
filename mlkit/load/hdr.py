"""Latencies in the percentile format of HdrHistogram (``.hgrm``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mlkit.metrics.histogram import Histogram

__all__ = ["exact", "of", "write"]

LONGEST_US = 3_600_000_000
DIGITS = 3
US_PER_MS = 1e3


def exact(latency_ms: NDArray[np.float64], timeout_s: float) -> Any:
    """Build an `HdrHistogram` of microseconds from raw latencies, to three significant digits.

    Infinite ones, those of failed requests, count as ``timeout_s``.
    """
    import numpy as np
    from hdrh.histogram import HdrHistogram

    known = np.where(np.isfinite(latency_ms), latency_ms, timeout_s * 1e3)
    values, counts = np.unique((known * US_PER_MS + 0.5).astype(np.int64), return_counts=True)
    histogram = HdrHistogram(1, LONGEST_US, DIGITS)
    for value, count in zip(values.clip(1, LONGEST_US).tolist(), counts.tolist(), strict=True):
        histogram.record_value(value, count)
    return histogram


def of(latency: Histogram, failed: int, timeout_s: float) -> Any:
    """Convert a histogram of latencies; failed requests count as ``timeout_s``."""
    from hdrh.histogram import HdrHistogram

    histogram = HdrHistogram.decode(latency.encode())
    if failed:
        histogram.record_value(min(int(timeout_s * 1e6), LONGEST_US), failed)
    return histogram


def write(path: str | Path, histogram: Any) -> Path:
    """Write the percentiles of a histogram, in milliseconds."""
    path = Path(path)
    with path.open("wb") as file:
        histogram.output_percentile_distribution(file, US_PER_MS)
    return path
