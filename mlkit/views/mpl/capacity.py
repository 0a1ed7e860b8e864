"""The plot of a capacity: latency and goodput against the offered rate."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from mlkit.load import LoadResult
from mlkit.load.analysis import percentile
from mlkit.load.capacity import Capacity
from mlkit.load.slo import SHARES
from mlkit.media.preview import shorten
from mlkit.views.capacity import headline, remark
from mlkit.views.load import amount, per_second
from mlkit.views.mpl.style import (
    DOTS_PER_INCH,
    PERCENTILE_LINES,
    STYLE,
    WIDTH_IN,
    label_right,
    plain_log_ticks,
    set_title,
)
from mlkit.views.palette import ERROR, GROUND, INK, QUIET, READY, SERVED, SERVED_LIGHT

__all__ = ["AtRate", "at_rates", "knee", "plot_capacity"]

HEIGHT_IN = 5.6
LEFT, RIGHT = 0.088, 0.855
PANELS = ((0.43, 0.36), (0.09, 0.23))
"""Bottom and height of each panel, as fractions of the height."""
LOG_RANGE = 20.0
"""Ratio of the highest to the lowest rate from which on the axis is logarithmic."""
MAX_CHARS = 98
MARKS: dict[str, dict[str, Any]] = {
    "met": {"marker": "o", "color": READY, "mec": GROUND},
    "missed": {"marker": "^", "color": ERROR, "mec": GROUND},
    "undecided": {"marker": "o", "color": GROUND, "mec": QUIET},
    "void": {"marker": "x", "color": QUIET},
}


class AtRate(NamedTuple):
    """What was measured at one rate, by all its valid runs; by all of them if none is valid.

    ``latency_ms`` has percentiles by name; ``outcome`` is ``"void"`` if no run is valid.
    """

    rate: float
    latency_ms: dict[str, float]
    mean_ms: float
    ok_rate: float
    goodput: float
    outcome: str


def at_rates(capacity: Capacity) -> list[AtRate]:
    """Join the runs at each rate, from the lowest rate to the highest."""
    runs: dict[float, list[LoadResult]] = {}
    for trial in capacity.trials:
        runs.setdefault(trial.probe.rate, []).append(cast("LoadResult", trial.measured))
    return [_joined(capacity, rate, runs[rate]) for rate in sorted(runs)]


def _joined(capacity: Capacity, rate: float, runs: list[LoadResult]) -> AtRate:
    valid = [run for run in runs if not run.void]
    runs = valid or runs
    latency_ms: NDArray[np.float64] = np.concatenate([run.latency_ms for run in runs])
    span_s = max(sum(run.duration_s for run in runs), 1e-9)
    verdict = capacity.evidence.get(rate) or capacity.slo.judge(latency_ms)
    answered = latency_ms[np.isfinite(latency_ms)]
    return AtRate(
        rate=rate,
        latency_ms={name: percentile(latency_ms, share) for name, share in SHARES.items()},
        mean_ms=float(answered.mean()) if len(answered) else math.nan,
        ok_rate=sum(run.ok_rate * run.duration_s for run in runs) / span_s,
        goodput=capacity.slo.within(latency_ms) / span_s,
        outcome=verdict.outcome if valid else "void",
    )


def knee(points: list[AtRate]) -> float | None:
    """The rate with the highest ratio of throughput to mean latency; None for fewer than three.

    Below the knee a higher rate costs little latency, above it mostly latency (Kleinrock, "Power
    and deterministic rules of thumb for probabilistic problems", 1979).
    """
    power = {p.rate: p.ok_rate / p.mean_ms for p in points if p.outcome != "void" and p.mean_ms > 0}
    return max(power, key=lambda rate: power[rate]) if len(power) >= 3 else None


def plot_capacity(capacity: Capacity) -> Figure:
    """Plot latency and goodput against the offered rate.

    Marks on the percentile of the SLO say what is known: met (green disc), missed (triangle),
    undecided (ring) or void (cross).
    """
    points = at_rates(capacity)
    with mpl.rc_context(cast("Any", STYLE)):
        figure = plt.figure(figsize=(WIDTH_IN, HEIGHT_IN), dpi=DOTS_PER_INCH)
        plt.close(figure)  # the cell's value displays it; the backend must not do so again
        figure.text(0.014, 0.972, headline(capacity), size=12.5, weight="bold", va="top")
        words = shorten(remark(capacity), MAX_CHARS)
        figure.text(0.014, 0.926, words, size=9, color=QUIET, va="top")
        caption = f"{shorten(capacity.target, 60)}   ·   {len(capacity.trials)} runs"
        figure.text(0.014, 0.892, caption, size=9, color=QUIET, va="top")
        latency, goodput = (
            figure.add_axes((LEFT, bottom, RIGHT - LEFT, height)) for bottom, height in PANELS
        )
        if not points:
            for axes in (latency, goodput):
                axes.set_axis_off()
            latency.text(0.5, 0.5, "nothing was measured", color=QUIET, ha="center", size=11)
            return figure
        for axes in (latency, goodput):
            _set_rates(axes, points)
        _draw_latency(latency, capacity, points)
        _draw_goodput(goodput, capacity, points)
        _mark_rates(latency, goodput, capacity, points)
    return figure


def _set_rates(axes: Axes, points: list[AtRate]) -> None:
    low, high = points[0].rate, points[-1].rate
    if high / low > LOG_RANGE:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.15, high * 1.15)
        plain_log_ticks(axes.xaxis)
    else:
        axes.set_xlim(max(0.0, low - 0.15 * (high - low or low)), high * 1.03)
        axes.xaxis.set_major_formatter("{x:,g}")


def _draw_latency(axes: Axes, capacity: Capacity, points: list[AtRate]) -> None:
    rates = [point.rate for point in points]
    finite = [v for p in points for v in p.latency_ms.values() if math.isfinite(v) and v > 0]
    limits = [objective.limit_ms for objective in capacity.slo.objectives]
    low, high = min([*finite, *limits]) / 1.4, max([*finite, *limits]) * 1.6
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    labels = []
    for name, look in PERCENTILE_LINES.items():
        values = [min(point.latency_ms[name], high) for point in points]
        axes.plot(rates, values, **look)
        labels.append((values[-1], name))
    for name, limit_ms in capacity.slo.objectives:
        axes.axhline(limit_ms, color=INK, lw=1, ls=(0, (4, 2)))
        words = f"SLO: {name.replace('_', '.')} under {amount(limit_ms)}"
        across = axes.get_yaxis_transform()
        axes.text(0.012, limit_ms, words, transform=across, va="bottom", size=8.5)
    last = capacity.slo.objectives[-1].name
    for outcome, mark in MARKS.items():
        marked = [point for point in points if point.outcome == outcome]
        at = [min(point.latency_ms[last], high) for point in marked]
        axes.plot(
            [p.rate for p in marked], at, ls="", ms=7, mew=1.2, zorder=5, clip_on=False, **mark
        )
    label_right(axes, labels)
    set_title(axes, "latency in ms from the scheduled send: ● met, ▲ missed, ○ undecided, × void")
    axes.tick_params(labelbottom=False)
    plain_log_ticks(axes.yaxis)


def _draw_goodput(axes: Axes, capacity: Capacity, points: list[AtRate]) -> None:
    rates = [point.rate for point in points]
    goodput, throughput = ([getattr(p, name) for p in points] for name in ("goodput", "ok_rate"))
    top = 1.15 * max([*rates, *throughput])
    reach = np.linspace(*axes.get_xlim(), 200)
    axes.plot(reach, reach, color=QUIET, lw=0.9, ls=(0, (2, 1.5)))
    axes.plot(rates, throughput, color=SERVED_LIGHT, lw=1.3)
    axes.plot(rates, goodput, color=SERVED, lw=2, marker="o", ms=4, mec=GROUND, mew=0.8)
    axes.set_ylim(0, top)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter("{x:,g}")
    limit = amount(capacity.slo.limit_ms)
    set_title(axes, f"responses per second: within {limit} (goodput), all; dashed: offered")
    axes.set_xlabel("offered rate (requests per second)", labelpad=2)
    labels = [(goodput[-1], "goodput"), (throughput[-1], "all"), (min(rates[-1], top), "offered")]
    label_right(axes, labels)


def _mark_rates(latency: Axes, goodput: Axes, capacity: Capacity, points: list[AtRate]) -> None:
    """Thin verticals through both panels, with the words at the top of the lower one."""
    turn = knee(points)
    marks = [(capacity.rate, READY, "-", "capacity"), (turn, QUIET, (0, (1, 2)), "knee")]
    low, high = goodput.transAxes.inverted().transform(
        goodput.transData.transform([(rate or 1.0, 0) for rate, *_ in marks])
    )[:, 0]
    for row, (rate, color, style, name) in enumerate(marks):
        if rate is None:
            continue
        for axes in (latency, goodput):
            axes.axvline(rate, color=color, lw=1.1, ls=style, zorder=1)
        right = (low, high)[row] > 0.7
        goodput.annotate(
            f"{name} {per_second(rate)}",
            (rate, 0.08 + 0.14 * row),
            (-4 if right else 4, 0),
            xycoords=goodput.get_xaxis_transform(),
            textcoords="offset points",
            ha="right" if right else "left",
            size=8.5,
            color=INK,
            bbox={"facecolor": GROUND, "edgecolor": "none", "pad": 1},
        )
