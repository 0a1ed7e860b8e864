"""The plot of a load test: rate and latency over time, and the distribution of the latency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from mlkit.load import LoadResult
from mlkit.media.preview import shorten
from mlkit.views.load import amount, per_second, seconds
from mlkit.views.mpl import loadseries
from mlkit.views.mpl.style import (
    DOTS_PER_INCH,
    PERCENTILE_LINES,
    STYLE,
    WIDTH_IN,
    label_right,
    plain_log_ticks,
    set_title,
)
from mlkit.views.palette import ERROR, ERROR_TEXT, GROUND, INK, QUIET, SERVED, TINT

__all__ = ["plot_load"]

SEPARATOR = "   ·   "
MAX_CHARS, MAX_BOLD_CHARS = 108, 92
"""Characters that fit into a line, even if they are wide."""
HEIGHT_IN, ITEMS_IN = 6.9, 2.3
LEFT, RIGHT = 0.088, 0.855
"""Left and right end of the axes, as fractions of the width; labels are to their right."""
PANELS = ((0.765, 0.09), (0.455, 0.255), (0.07, 0.29))
"""Bottom and height of each panel, as fractions of the height; the first two share a time axis."""


def plot_load(result: LoadResult) -> Figure:
    """Plot rate and latency over time, and the distribution of the latency to p99.9.

    Of an app that streams also the distributions of the time to the first item, and between items.
    A void result is stamped as such, with the reasons below the title.
    """
    with mpl.rc_context(cast("Any", STYLE)):
        items_in = ITEMS_IN if result.streams and len(result) else 0.0
        whole = plt.figure(figsize=(WIDTH_IN, HEIGHT_IN + items_in), dpi=DOTS_PER_INCH)
        plt.close(whole)  # the cell's value displays it; the backend must not do so again
        figure: Figure | SubFigure = whole
        if items_in:
            parts = whole.subfigures(2, squeeze=False, height_ratios=[HEIGHT_IN, items_in])
            figure, below = parts[:, 0]
            _draw_items(below.add_axes((LEFT, 0.2, RIGHT - LEFT, 0.66)), result)
        _title(figure, result)
        rate, latency, shape = (
            figure.add_axes((LEFT, bottom, RIGHT - LEFT, height)) for bottom, height in PANELS
        )
        if len(result):
            _draw_rate(rate, result)
            _draw_latency(latency, result)
            _draw_distribution(shape, result)
        else:
            _draw_nothing([rate, latency, shape])
        if result.void:
            _write_across(figure)
    return whole


# ---- header ---------------------------------------------------------------------------------


def _title(figure: Figure | SubFigure, result: LoadResult) -> None:
    figure.text(0.014, 0.977, repr(result.arrivals), size=12.5, weight="bold", va="top")
    figure.text(0.014, 0.944, _subtitle(result), size=9, color=QUIET, va="top")
    words, color, weight = shorten(_conditions(result), MAX_CHARS), QUIET, "normal"
    if result.void:
        words = shorten(f"▲ Void: {'; '.join(result.void)}", MAX_BOLD_CHARS)
        color, weight = ERROR_TEXT, "bold"
    figure.text(0.014, 0.917, words, size=9, va="top", color=color, weight=weight)


def _subtitle(result: LoadResult) -> str:
    failed = len(result) - int(result.ok.sum())
    outcome = f"{failed:,} failed" if failed else "all ok" if len(result) else "none measured"
    parts = [
        result.target,
        seconds(result.duration_s) + (" until interrupted" if result.interrupted else ""),
        f"{len(result):,} requests, {outcome}",
    ]
    return SEPARATOR.join([shorten(parts[0], 60), *parts[1:]])


def _conditions(result: LoadResult) -> str:
    """The SLO, and how the client performed."""
    parts = [f"client took {result.client.cores:.2f} cores"]
    if result.asked_rate is not None and len(result):
        parts.append(f"sent {amount(result.lateness_p99_ms)} late (p99)")
    if result.slo_ms is not None:
        parts.append(f"{result.over_slo or 0:,} requests over {amount(result.slo_ms)}")
    return SEPARATOR.join(parts)


def _write_across(figure: Figure | SubFigure) -> None:
    figure.text(
        (LEFT + RIGHT) / 2,
        0.46,
        "VOID",
        size=120,
        weight="bold",
        color=ERROR,
        alpha=0.22,
        rotation=28,
        ha="center",
        va="center",
        zorder=10,
    )


def _draw_nothing(panels: Sequence[Axes]) -> None:
    for axes in panels:
        axes.set_axis_off()
    panels[1].text(
        0.5, 0.5, "no requests were measured", size=11, color=QUIET, ha="center", va="center"
    )


# ---- over time ------------------------------------------------------------------------------


def _draw_rate(axes: Axes, result: LoadResult) -> None:
    series = loadseries.rates(result)
    axes.stairs(series.answered, series.edges, fill=True, color=SERVED, alpha=0.35, lw=0)
    if series.failed.any():
        top = series.answered + series.failed
        axes.stairs(
            top,
            series.edges,
            baseline=series.answered,
            fill=True,
            facecolor="none",
            edgecolor=ERROR,
            hatch="//////",
            lw=0,
        )
    if series.asked is not None and result.asked_rate is not None:
        axes.stairs(series.asked, series.edges, color=QUIET, lw=0.9, ls=(0, (2, 1.5)))
    axes.stairs(series.answered, series.edges, baseline=None, color=SERVED, lw=1.2)
    axes.set_ylim(0, 1.15 * max(float(series.highest), 1e-9))
    axes.set_xlim(0, result.duration_s)
    set_title(axes, _rate_title(result))
    axes.tick_params(labelbottom=False)
    axes.yaxis.set_major_locator(MaxNLocator(3))
    label_right(axes, [(result.ok_rate, f"throughput\n{per_second(result.ok_rate)}")])


def _rate_title(result: LoadResult) -> str:
    words = "requests per second: throughput (filled)"
    if result.asked_rate is not None:
        words += f", target (dashed, {per_second(result.asked_rate)})"
    return words + (", failed (hatched)" if result.errors else "")


def _draw_latency(axes: Axes, result: LoadResult) -> None:
    points = loadseries.points(result)
    low, high = loadseries.limits_ms(result)
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.set_xlim(0, result.duration_s)
    size = 2.2 if len(points.at_s) > 1000 else 4.0
    axes.plot(points.at_s, points.latency_ms, ".", ms=size, mew=0, color=SERVED, alpha=points.alpha)
    series = loadseries.percentiles_over_time(result)
    for name, values in series.values.items():
        axes.stairs(values, series.edges, baseline=None, **PERCENTILE_LINES[name])
    labels = [
        (result.percentiles[name].value_ms, f"{name}  {amount(result.percentiles[name].value_ms)}")
        for name in PERCENTILE_LINES
    ]
    label_right(axes, [(min(at, high), words) for at, words in labels])
    _mark_failed(axes, result)
    _draw_slo(axes, result, labelled=False)
    set_title(axes, _latency_title(result, list(series.values)))
    axes.set_xlabel("time (s)", labelpad=2)
    axes.xaxis.set_major_formatter("{x:g}")
    plain_log_ticks(axes.yaxis)


def _latency_title(result: LoadResult, drawn: list[str]) -> str:
    since = "send" if result.asked_rate is None else "scheduled send"
    words = f"latency in ms, from the {since}: requests (dots)"
    if drawn:
        words += (
            ", "
            + " and ".join(filter(None, [", ".join(drawn[:-1]), drawn[-1]]))
            + f" (line{'s' * (len(drawn) > 1)})"
        )
    return words + (", failed (×)" if result.errors else "")


def _mark_failed(axes: Axes, result: LoadResult) -> None:
    at = result.columns["intended"][~result.ok]
    if len(at):
        axes.plot(
            at,
            [0.965] * len(at),
            "x",
            transform=axes.get_xaxis_transform(),
            ms=4.5,
            mew=1,
            color=ERROR,
            alpha=0.8,
            zorder=4,
        )


# ---- distribution ---------------------------------------------------------------------------


def _draw_distribution(axes: Axes, result: LoadResult) -> None:
    curve = loadseries.distribution(result)
    low, high = loadseries.limits_ms(result)
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.set_xlim(0, curve.end)
    look: dict[str, Any] = {"color": SERVED, "lw": 1.8, "solid_joinstyle": "round"}
    axes.plot(curve.stretched, curve.latency_ms, drawstyle="steps-pre", **look)
    axes.set_xticks([loadseries.stretch(share) for share in curve.ticks])
    axes.set_xticklabels([f"{100 * share:g}%" for share in curve.ticks])
    axes.grid(axis="x")
    _shade_failed(axes, curve, result)
    _shade_unproven(axes, curve)
    _draw_slo(axes, result, labelled=True)
    _mark_percentiles(axes, result, high)
    set_title(axes, "latency by percentile (ms)")
    axes.set_xlabel("percentile (the tail stretched)", labelpad=2)
    axes.text(
        0.988, 0.03, f"{len(result):,} samples", transform=axes.transAxes, color=QUIET, ha="right"
    )
    plain_log_ticks(axes.yaxis)


def _mark_percentiles(axes: Axes, result: LoadResult, high: float) -> None:
    labels = []
    for name, percentile in result.percentiles.items():
        at = min(percentile.value_ms, high)
        if not math.isinf(percentile.value_ms):
            axes.plot(
                loadseries.stretch(percentile.share),
                at,
                "o",
                ms=6,
                color=SERVED,
                mec=GROUND,
                mew=1.2,
                clip_on=False,
                zorder=5,
            )
        words = f"{name.replace('_', '.')}  {amount(percentile.value_ms)}"
        labels.append((at, words))
    proven = [percentile.certified for percentile in result.percentiles.values()]
    label_right(axes, labels, [INK if certain else QUIET for certain in proven])


def _shade_failed(axes: Axes, curve: loadseries.Distribution, result: LoadResult) -> None:
    if curve.failed_from is None or curve.failed_from >= curve.end:
        return
    axes.axvspan(
        curve.failed_from, curve.end, facecolor="none", edgecolor=(ERROR, 0.5), hatch="///", lw=0
    )
    share = 1 - float(result.ok.mean())
    axes.text(
        (curve.failed_from + curve.end) / 2,
        0.5,
        f"{100 * share:.{0 if share >= 0.1 else 1}f}% failed",
        transform=axes.get_xaxis_transform(),
        ha="center",
        va="center",
        color=ERROR_TEXT,
        weight="bold",
        bbox={"facecolor": GROUND, "edgecolor": "none", "pad": 2},
    )


def _shade_unproven(axes: Axes, curve: loadseries.Distribution) -> None:
    if curve.unproven_from is None or curve.unproven_from >= curve.end:
        return
    axes.axvspan(curve.unproven_from, curve.end, color=TINT, lw=0, zorder=0)
    axes.text(
        0.988,
        0.11,
        "grey: too few requests",
        transform=axes.transAxes,
        ha="right",
        va="bottom",
        color=QUIET,
        size=8,
    )


# ---- items ----------------------------------------------------------------------------------


def _draw_items(axes: Axes, result: LoadResult) -> None:
    """The distributions of the times to the first item (line) and between items (dashed)."""
    labels, drawn = [], []
    series = {"first_item": result.first_item_ms, "between_items": result.between_items_ms}
    for (name, values), style in zip(series.items(), ("-", (0, (4, 1.2))), strict=True):
        stretched, ordered = loadseries.by_share(values)
        if not len(ordered):
            continue
        drawn.append(ordered)
        axes.plot(stretched, ordered, drawstyle="steps-pre", color=SERVED, lw=1.8, ls=style)
        p50, p99 = (amount(result.item_percentiles[name][p].value_ms) for p in ("p50", "p99"))
        labels.append((ordered[-1], f"{name.partition('_')[0]}\np50 {p50}\np99 {p99}"))
    shares = loadseries.TICKS
    axes.set_xlim(0, loadseries.END)
    axes.set_xticks([loadseries.stretch(share) for share in shares])
    axes.set_xticklabels([f"{100 * share:g}%" for share in shares])
    axes.grid(axis="x")
    since = "send" if result.asked_rate is None else "scheduled send"
    set_title(axes, f"ms from the {since} to the first item (line), and between items (dashed)")
    axes.set_xlabel("percentile (the tail stretched)", labelpad=2)
    if not drawn:
        return
    axes.set_yscale("log")
    positive = [values[values > 0] for values in drawn]
    axes.set_ylim(max(min((float(v.min()) for v in positive if len(v)), default=0.1), 0.01) / 1.5)
    label_right(axes, labels)
    plain_log_ticks(axes.yaxis)


# ---- shared ---------------------------------------------------------------------------------


def _draw_slo(axes: Axes, result: LoadResult, *, labelled: bool) -> None:
    if result.slo_ms is None:
        return
    axes.axhline(result.slo_ms, color=INK, lw=1, ls=(0, (4, 2)))
    if labelled:
        # Above the line until the curve crosses it, below the line from there on.
        within = loadseries.stretch(float((result.latency_ms <= result.slo_ms).mean()))
        left = within > 0.45 * axes.get_xlim()[1]
        axes.text(
            0.012 if left else 0.988,
            result.slo_ms,
            f"SLO: p99 under {amount(result.slo_ms)}, {result.slo_verdict}",
            transform=axes.get_yaxis_transform(),
            ha="left" if left else "right",
            va="bottom" if left else "top",
            size=8.5,
        )
