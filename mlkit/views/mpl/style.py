"""The style of all figures: light, and legible in print and in grey."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from mlkit.views.measure import spread
from mlkit.views.palette import GROUND, INK, LINE, QUIET, SERVED, SERVED_DARK, SERVED_LIGHT

__all__ = [
    "DOTS_PER_INCH",
    "PERCENTILE_LINES",
    "STYLE",
    "WIDTH_IN",
    "label_right",
    "plain_log_ticks",
    "set_title",
    "subplots",
]

DOTS_PER_INCH = 100
WIDTH_IN = 7.2
PERCENTILE_LINES: dict[str, dict[str, Any]] = {
    "p50": {"color": SERVED_LIGHT, "linewidth": 1.3},
    "p95": {"color": SERVED, "linewidth": 1.6},
    "p99": {"color": SERVED_DARK, "linewidth": 2.0},
}
STYLE: dict[str, Any] = {
    "figure.facecolor": GROUND,
    "axes.facecolor": GROUND,
    "axes.edgecolor": LINE,
    "axes.labelcolor": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": LINE,
    "grid.alpha": 0.55,
    "grid.linewidth": 0.7,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": QUIET,
    "ytick.labelcolor": QUIET,
    "xtick.minor.visible": False,
    "ytick.minor.visible": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "hatch.linewidth": 0.8,
}
"""For `matplotlib.rc_context`."""


def subplots(rows: int, columns: int, height_in: float, **options: Any) -> tuple[Figure, Any]:
    """Create a figure of the usual width, with its axes; see `matplotlib.pyplot.subplots`."""
    size = (WIDTH_IN, height_in)
    figure, axes = plt.subplots(
        rows, columns, figsize=size, dpi=DOTS_PER_INCH, layout="constrained", **options
    )
    plt.close(figure)  # the cell's value displays it; the backend must not do so again
    return figure, axes


def plain_log_ticks(axis: Axis, most: int = 12) -> None:
    """Put ticks at 1, 2 and 5 of each decade as plain numbers; only at 1 over many decades."""
    low, high = axis.get_view_interval()
    subs = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=most))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def set_title(axes: Axes, words: str) -> None:
    """Write a quiet title above the left end of the axes."""
    axes.set_title(words, loc="left", size=9, color=QUIET, pad=5)


def label_right(
    axes: Axes, labels: Sequence[tuple[float, str]], inks: Sequence[str] | None = None
) -> None:
    """Write labels to the right of the axes at the heights of their values, without overlaps."""
    height = axes.get_window_extent().height
    lines = max(words.count("\n") + 1 for _, words in labels)
    wanted = [_share_of_height(axes, value) * height for value, _ in labels]
    placed = spread(wanted, gap=17 * lines - 3.5, low=5 * lines, high=height - 5 * lines)
    inks = inks or [INK] * len(labels)
    for at, (_, words), ink in zip(placed, labels, inks, strict=True):
        axes.text(
            1.015, at / height, words, transform=axes.transAxes, va="center", size=9, color=ink
        )


def _share_of_height(axes: Axes, value: float) -> float:
    _, at = axes.transData.transform((0, value))
    _, share = axes.transAxes.inverted().transform((0, at))
    return min(1.0, max(0.0, float(share)))
