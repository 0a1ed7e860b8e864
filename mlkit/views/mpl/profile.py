"""The plot of a profile: time per item over the batch size."""

from __future__ import annotations

from typing import Any, cast

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlkit.plan import Latency, Profile
from mlkit.views.mpl.style import STYLE, subplots
from mlkit.views.palette import GROUND, INK, QUIET, SERVED

__all__ = ["plot_profile"]

HEIGHT_IN = 2.6


def plot_profile(profile: Profile) -> Figure:
    """Plot milliseconds per item over the batch size, one panel per batched step.

    The chosen limit is the filled dot. If a line does not fall, batching does not pay.
    """
    steps: dict[str, list[Latency]] = {}
    for latency in profile.latencies:
        if latency.batched:
            steps.setdefault(latency.step, []).append(latency)
    with mpl.rc_context(cast("Any", STYLE)):
        rows = len(steps) or 1
        figure, axes = subplots(rows, 1, HEIGHT_IN * rows, squeeze=False)
        if not steps:
            axes[0, 0].text(0.5, 0.5, "no batched step", ha="center", color=QUIET)
            axes[0, 0].set_axis_off()
        for (name, latencies), ax in zip(steps.items(), axes[:, 0], strict=False):
            _panel(ax, name, latencies, profile.limits[name])
    return figure


def _panel(ax: Axes, name: str, latencies: list[Latency], limit: int) -> None:
    sizes = [latency.batch_size for latency in latencies]
    times = [latency.ms_an_item for latency in latencies]
    ax.plot(sizes, times, color=SERVED, linewidth=1.6, marker="o", markersize=5, mfc=GROUND)
    chosen = sizes.index(limit)
    ax.plot([limit], [times[chosen]], "o", color=SERVED, markersize=8)
    ax.set_xscale("log", base=2)
    ax.set_xticks(sizes, [str(size) for size in sizes])
    ax.set_ylim(0, max(times) * 1.3)
    ax.set_title(
        f"{name}: {times[chosen]:.2f} ms per item in batches of {limit}",
        loc="left",
        fontsize=10,
        color=INK,
    )
    ax.set_xlabel("batch size")
    ax.set_ylabel("ms per item")
    for size, time in zip(sizes, times, strict=True):
        ax.annotate(
            f"{time:.2f}",
            (size, time),
            (0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=QUIET,
        )
