"""The plot of a stage's scaling: rate, replicas, latency and decisions on one time axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mlkit.autoscale import Count, Decision, Scaling
from mlkit.errors import InputError
from mlkit.metrics import Sample
from mlkit.views.measure import spread
from mlkit.views.mpl.style import PERCENTILE_LINES, STYLE, plain_log_ticks, subplots
from mlkit.views.palette import ERROR, INK, QUIET, READY, SERVED
from mlkit.views.scaling import busiest_stage, counts_of, step_series

__all__ = ["plot_scaling"]

MAX_LISTED = 8
LOG_RATIO = 8.0
"""Ratio of the highest to the lowest latency from which on the axis is logarithmic."""
DRAWN = ("scaled", "blocked", "failed")


def plot_scaling(scaling: Scaling, stage: str | None, last_s: float | None) -> Figure:
    """Plot scaling; see `mlkit.autoscale.Scaling.plot`."""
    deltas = scaling.history.deltas if scaling.history is not None else ()
    stages = list(dict.fromkeys([*scaling.stages, *(delta["stage"] for delta in deltas)]))
    stage = stage or busiest_stage(scaling) or next(iter(stages), None)
    if stage is None or (stages and stage not in stages):
        raise InputError(
            "nothing to plot yet" if stage is None else f"no stage {stage!r}",
            expected=f"one of {', '.join(stages)}" if stages else None,
            fix="send some requests first",
        )
    start, end = _span(scaling, last_s)
    app = scaling.history.samples(last_s=end - start, now=end) if scaling.history else []
    parts = scaling.history.samples(by="stage", last_s=end - start, now=end) if app else []
    own = [sample for sample in parts if sample.of == stage]
    decisions = [
        d
        for d in scaling.decisions
        if d.stage == stage and d.kind in DRAWN and start <= d.at <= end
    ]
    listed = decisions[-MAX_LISTED:]
    with mpl.rc_context(cast("Any", STYLE)):
        text_in = 0.19 * max(1, len(listed))
        ratios = {"height_ratios": [1, 1.1, 1.2]}
        figure, axes = subplots(3, 1, 4.8 + text_in, sharex=True, gridspec_kw=ratios)
        _draw_rate(axes[0], app, start)
        since, processes = (own[0].at, own[-1].processes) if own else (end, 0)
        _draw_replicas(axes[1], counts_of(scaling, stage, since, processes), start, end)
        _draw_latency(axes[2], own, start, stage)
        for ax in axes:
            for decision in decisions:
                ax.axvline(decision.at - start, color=QUIET, linewidth=0.7, linestyle=":", zorder=1)
        _number(axes[0], listed, start)
        axes[2].set_xlim(0, (end - start) * 1.08)
        axes[2].set_xlabel("seconds")
        title = f"{stage}: {'scaling' if decisions else 'replicas'}"
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, weight="bold", color=INK)
        _write(figure, listed)
    return figure


def _span(scaling: Scaling, last_s: float | None) -> tuple[float, float]:
    times = [count.at for count in scaling.counts] + [d.at for d in scaling.decisions]
    at = scaling.history.at if scaling.history is not None else None
    end = max([*times, *([at] if at is not None else [])])
    first = min([*times, *(d["at"] for d in (scaling.history.deltas if scaling.history else ()))])
    return (first if last_s is None else max(first, end - last_s)), end


def _draw_rate(ax: Axes, samples: Sequence[Sample], start: float) -> None:
    times = [sample.at - start for sample in samples]
    rates = [sample.rate for sample in samples]
    ax.fill_between(times, rates, step="pre", color=SERVED, alpha=0.18, linewidth=0)
    ax.step(times, rates, where="pre", color=SERVED, linewidth=1.2)
    lost = [(sample.errors + sample.rejected) / sample.span_s for sample in samples]
    if any(lost):
        ax.step(times, lost, where="pre", color=ERROR, linewidth=1.2)
    ax.set_ylim(0, max([*rates, 1.0]) * 1.25)
    ax.set_title("throughput (requests per second)", loc="left", fontsize=9, pad=14)
    if rates:
        _label(ax, times[-1], rates[-1], f"{rates[-1]:.0f}/s", SERVED)


def _draw_replicas(ax: Axes, counts: Sequence[Count], start: float, end: float) -> None:
    times, wanted, ready = step_series(counts, start, end)
    shifted = [at - start for at in times]
    ax.fill_between(shifted, ready, step="post", color=READY, alpha=0.3, linewidth=0)
    ax.step(shifted, ready, where="post", color=READY, linewidth=1.2)
    ax.step(shifted, wanted, where="post", color=INK, linewidth=0.9, linestyle="--")
    ax.set_ylim(0, max([*wanted, *ready, 1]) + 0.7)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
    ax.set_title("replicas: ready (filled), wanted (dashed)", loc="left", fontsize=9)
    if ready:
        _label(ax, shifted[-1], ready[-1], f"{ready[-1]} ready", READY)


def _draw_latency(ax: Axes, samples: Sequence[Sample], start: float, stage: str) -> None:
    last: list[tuple[str, float, float]] = []
    for name, look in PERCENTILE_LINES.items():
        percentile = int(name[1:])
        points = [
            (sample.at - start, 1e3 * sample.held.percentiles_s(percentile)[0])
            for sample in samples
            if sample.requests
        ]
        if not points:
            continue
        times, values = zip(*points, strict=True)
        ax.plot(times, values, **look)
        last.append((name, times[-1], values[-1]))
    ax.set_title(f"latency of {stage} in ms: p50, p95, p99", loc="left", fontsize=9)
    high = max((1e3 * s.held.percentiles_s(99)[0] for s in samples if s.requests), default=1.0)
    low = min((1e3 * s.held.percentiles_s(50)[0] for s in samples if s.requests), default=1.0)
    if high / max(low, 1e-3) > LOG_RATIO:
        ax.set_yscale("log")
        plain_log_ticks(ax.yaxis, 4)
    else:
        ax.set_ylim(0, high * 1.2)
    end = max((at for _, at, _ in last), default=0.0)
    where = [_height(ax, value) for _, _, value in last]
    for (name, _, value), y in zip(last, spread(where, gap=0.13, low=0.05, high=1.0), strict=True):
        ax.annotate(
            f"{name} {value:.0f} ms",
            (end, y),
            (5, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=PERCENTILE_LINES[name]["color"],
        )


def _height(ax: Axes, value: float) -> float:
    """Position of a value, as a fraction of the panel's height."""
    y: float = ax.transAxes.inverted().transform(ax.transData.transform((0, value)))[1]
    return y


def _label(ax: Axes, x: float, y: float, words: str, colour: str) -> None:
    ax.annotate(
        words, (x, y), (5, 0), textcoords="offset points", va="center", fontsize=8, color=colour
    )


def _number(ax: Axes, listed: Sequence[Decision], start: float) -> None:
    for number, decision in enumerate(listed, 1):
        ax.annotate(
            str(number),
            (decision.at - start, 1.0),
            (0, 1),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=7,
            color=QUIET,
        )


def _write(figure: Figure, listed: Sequence[Decision]) -> None:
    """List the decisions below the panels."""
    lines = [f"{number}  {decision}" for number, decision in enumerate(listed, 1)]
    figure.supxlabel(
        "\n".join(lines) or "no scaling decisions", x=0.01, ha="left", fontsize=8, color=INK
    )
