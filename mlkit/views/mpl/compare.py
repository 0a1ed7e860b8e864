"""The plot of several load tests side by side."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, cast

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mlkit.load.compare import Comparison
from mlkit.media.preview import shorten
from mlkit.views.load import amount, per_second
from mlkit.views.mpl.style import PERCENTILE_LINES, STYLE, subplots
from mlkit.views.palette import ERROR, INK, QUIET, SERVED

__all__ = ["plot_comparison"]

ROW_IN, REST_IN = 0.42, 1.1
TEXT_SHARE = 0.48
"""Share of the axes' width reserved for latencies as text."""

TICK_SHARE = 0.26
"""Share of the remaining width that a tick label takes."""

DECADE_TICKS = ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,))
"""Positions of ticks in a decade, from dense to sparse."""


def plot_comparison(comparison: Comparison) -> Figure:
    """Plot throughput as bars on the left; on the right p50, p95 and p99 on a log axis."""
    frame = comparison.to_frame()
    rows = range(len(frame))
    style = {**STYLE, "axes.grid.axis": "x", "axes.spines.left": False}
    with mpl.rc_context(cast("Any", style)):
        figure, (left, right) = subplots(1, 2, ROW_IN * len(frame) + REST_IN, sharey=True)
        left.barh(rows, frame["ok_rate"], height=0.5, color=SERVED)
        for row, (rate, errors) in enumerate(zip(frame["ok_rate"], frame["errors"], strict=True)):
            left.text(rate, row, f" {per_second(rate)}", va="center", fontsize=9, color=INK)
            if errors:
                at = left.text(0, row + 0.36, f"▲ {errors:,} errors", fontsize=8, color=ERROR)
                at.set_va("center")
        left.set_xlim(0, max([1e-9, *frame["ok_rate"]]) * 1.25)
        left.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        left.xaxis.set_major_formatter("{x:,g}")
        left.set_yticks(rows, [shorten(str(name), 26) for name in frame.index])
        left.tick_params(axis="y", length=0, labelcolor=INK, labelsize=9)
        left.set_ylim(len(frame) - 0.4, -0.6)
        left.set_title("throughput per second", loc="left", fontsize=9, color=QUIET)
        _latencies(right, frame)
    return figure


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from low to high, denser the fewer decades they span."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for parts, step in (*((parts, 1) for parts in DECADE_TICKS), ((1,), 2), ((1,), 4)):
        ticks = [part * 10.0**decade for decade in decades[::step] for part in parts]
        within = [tick for tick in ticks if low <= tick <= high]
        apart = [math.log(b / a) for a, b in pairwise(within)]
        if min(apart, default=math.inf) >= TICK_SHARE * math.log(high / low):
            break
    return within


def _latencies(axes: Axes, frame: Any) -> None:
    names = [f"{name}_ms" for name in PERCENTILE_LINES]
    drawn = [v for v in frame[names].to_numpy().ravel() if math.isfinite(v) and v > 0]
    axes.set_xscale("log")
    if drawn:
        low, high = min(drawn) / 1.3, max(drawn) * 1.3
        # The right end is reserved for text.
        axes.set_xlim(low, low * (high / low) ** (1 / (1 - TEXT_SHARE)))
        ticks = _ticks(low, high)
        axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
        axes.minorticks_off()
    for row, (_, result) in enumerate(frame.iterrows()):
        ends = [v for v in (result["p50_ms"], result["p99_ms"]) if math.isfinite(v)]
        axes.plot(ends, [row] * len(ends), color=SERVED, linewidth=1.2)
        for name, look in PERCENTILE_LINES.items():
            axes.plot([result[f"{name}_ms"]], [row], "o", color=look["color"], markersize=6)
        text = f"{amount(result['p50_ms'])} to {amount(result['p99_ms'])}" if ends else "no answer"
        axes.text(
            1.0,
            row,
            text,
            transform=axes.get_yaxis_transform(),
            ha="right",
            va="center",
            fontsize=9,
            color=INK,
        )
    axes.tick_params(axis="y", length=0)
    axes.set_title("latency: p50, p95, p99 in ms", loc="left", fontsize=9, color=QUIET)
