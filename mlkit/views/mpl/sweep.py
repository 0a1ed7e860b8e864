"""The plot of a sweep: throughput and latency against the value of a knob."""

from __future__ import annotations

import math
from typing import Any, cast

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mlkit.errors import InputError
from mlkit.load.sweep import Sweep
from mlkit.views.load import amount, per_second
from mlkit.views.mpl.style import PERCENTILE_LINES, STYLE, plain_log_ticks, set_title, subplots
from mlkit.views.palette import ERROR, INK, SERVED

__all__ = ["plot_sweep"]


def plot_sweep(sweep: Sweep) -> Figure:
    """Plot throughput above, and p50, p95 and p99 below, at evenly spaced values."""
    frame = sweep.to_frame() if sweep.results else None
    if frame is None:
        raise InputError("nothing was measured", where=f"sweep of {sweep.knob}")
    at = range(len(frame))
    with mpl.rc_context(cast("Any", STYLE)):
        figure, (above, below) = subplots(2, 1, 4.2, sharex=True, height_ratios=[1, 1.3])
        above.plot(at, frame["ok_rate"], color=SERVED, lw=2, marker="o", ms=5)
        for x, rate, errors in zip(at, frame["ok_rate"], frame["errors"], strict=True):
            _write(above, x, rate, per_second(rate), INK)
            if errors:
                above.text(x, 0, f"▲ {errors:,} errors", size=8, color=ERROR, ha="center")
        above.set_ylim(0, 1.3 * max([*frame["ok_rate"], 1e-9]))
        above.yaxis.set_major_locator(MaxNLocator(4))
        set_title(above, "throughput (requests per second)")
        _draw_latency(below, frame)
        below.set_xticks(at, [str(value) for value in frame.index])
        below.set_xlim(-0.35, len(frame) - 0.65)
        below.set_xlabel(sweep.knob)
    return figure


def _draw_latency(axes: Axes, frame: Any) -> None:
    names = [f"{name}_ms" for name in PERCENTILE_LINES]
    drawn = [v for v in frame[names].to_numpy().ravel() if math.isfinite(v) and v > 0]
    axes.set_yscale("log")
    if drawn:
        axes.set_ylim(min(drawn) / 1.5, max(drawn) * 1.8)
    for name, look in PERCENTILE_LINES.items():
        axes.plot(range(len(frame)), frame[f"{name}_ms"], marker="o", ms=4, **look)
    for x, value in enumerate(frame["p99_ms"]):
        if math.isfinite(value):
            _write(axes, x, value, amount(value), INK)
    set_title(axes, "latency in ms: p50, p95 and, written out, p99")
    plain_log_ticks(axes.yaxis)


def _write(axes: Axes, x: float, y: float, words: str, color: str) -> None:
    axes.annotate(
        words, (x, y), (0, 7), textcoords="offset points", ha="center", size=8.5, color=color
    )
