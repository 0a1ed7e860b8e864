"""The plot of a model's variants: speed and quality, with the Pareto front marked."""

from __future__ import annotations

import math
from typing import Any, cast

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlkit.models import Optimized
from mlkit.models.evidence import Load, Variant, pareto
from mlkit.views.mpl.style import STYLE, subplots
from mlkit.views.optimize import caption
from mlkit.views.palette import GREY, INK, QUIET, SERVED, SERVED_DARK

__all__ = ["plot_optimized"]

ROW_IN, REST_IN = 0.34, 1.2


def plot_optimized(result: Optimized) -> Figure:
    """Plot throughput as bars on the left, and accuracy or agreement on the right.

    At the largest batch size and thread count. Variants that are inferior to no other are blue;
    those that were not measured are listed with the reason.
    """
    load = max(result.loads, key=lambda load: (load.threads, load.batch_size))
    front = pareto(result.variants, load)
    style = {**STYLE, "axes.grid.axis": "x", "axes.spines.left": False}
    with mpl.rc_context(cast("Any", style)):
        height = ROW_IN * len(result.variants) + REST_IN
        figure, (left, right) = subplots(1, 2, height, sharey=True, width_ratios=[1.2, 1])
        colors = [SERVED if v.name in front else GREY for v in result.variants]
        _draw_throughput(left, result.variants, load, colors)
        _draw_quality(right, result.variants, colors)
        names = [f"{v.name}{' ●' * (v.name in front)}" for v in result.variants]
        left.set_yticks(range(len(names)), names)
        left.tick_params(axis="y", length=0, labelcolor=INK, labelsize=9)
        left.set_ylim(len(names) - 0.4, -0.6)
        right.tick_params(axis="y", length=0)
        title = f"items per second, {caption(load)}"
        left.set_title(title, loc="left", fontsize=9, color=QUIET)
    return figure


def _draw_throughput(axes: Axes, variants: list[Variant], load: Load, colors: list[str]) -> None:
    rates = [0.0 if v.failure else v.throughput(load) for v in variants]
    measured = [rate for rate in rates if math.isfinite(rate)]
    axes.set_xlim(0, 1.25 * max([1e-9, *measured]))
    for row, (variant, rate, color) in enumerate(zip(variants, rates, colors, strict=True)):
        if variant.failure:
            reason = variant.failure[:44] + "…" * (len(variant.failure) > 44)
            axes.text(0, row, f" {reason}", va="center", fontsize=7.5, color=QUIET)
        elif math.isfinite(rate):
            axes.barh(row, rate, height=0.55, color=color)
            text = f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
            axes.text(rate, row, f" {text}", va="center", fontsize=9, color=INK)


def _draw_quality(axes: Axes, variants: list[Variant], colors: list[str]) -> None:
    evaluated = any(not math.isnan(v.accuracy.value) for v in variants)
    for row, (variant, color) in enumerate(zip(variants, colors, strict=True)):
        if variant.failure or math.isnan(variant.quality):
            continue
        if not math.isnan(variant.accuracy.low):
            ends = [100 * variant.accuracy.low, 100 * variant.accuracy.high]
            axes.plot(ends, [row, row], color=SERVED_DARK, linewidth=1.2)
        axes.plot([100 * variant.quality], [row], "o", color=color, markersize=6)
    words = "accuracy in %, 95% interval" if evaluated else "agreement with the reference in %"
    axes.set_title(words, loc="left", fontsize=9, color=QUIET)
    axes.margins(x=0.1)
