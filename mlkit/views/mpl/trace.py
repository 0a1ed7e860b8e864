"""The Gantt chart of one request."""

from __future__ import annotations

from typing import Any, cast

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlkit.metrics import Trace
from mlkit.views.mpl.style import STYLE, subplots
from mlkit.views.palette import GREY, INK, QUIET, SERVED, WAITING
from mlkit.views.waterfall import FIRST_ITEM, headline, lines, phases_in_words

__all__ = ["plot_trace"]

BAR_STYLES: dict[str, dict[str, Any]] = {
    "queue": {"color": WAITING},
    "batch": {"facecolor": (WAITING, 0.45), "edgecolor": WAITING, "linewidth": 0.8},
    "compute": {"color": SERVED},
    "transfer": {"facecolor": "none", "edgecolor": QUIET, "linestyle": "--", "linewidth": 0.8},
    "framework": {"color": GREY},
    "outside": {"facecolor": "none", "edgecolor": QUIET, "linewidth": 0.8},
}
"""Style of each kind of bar; edges and patterns distinguish them in greyscale too."""


def plot_trace(trace: Trace) -> Figure:
    """Plot waiting and running times of each step, in ms since the server received the request."""
    rows = lines(trace)
    with mpl.rc_context(cast("Any", STYLE | {"axes.grid.axis": "x"})):
        figure, ax = subplots(1, 1, 1.2 + 0.27 * len(rows))
        kinds: dict[str, Any] = {}
        for at, row in enumerate(rows):
            for bar in row.bars:
                width = (bar.end_s - bar.start_s) * 1e3
                drawn = ax.barh(
                    at, width, left=bar.start_s * 1e3, height=0.62, **BAR_STYLES[bar.kind]
                )
                kinds.setdefault(bar.kind, drawn)
            if row.first_item_s is not None:
                look: dict[str, Any] = {"color": INK, "ls": "", "marker": "|", "ms": 13, "mew": 2}
                (kinds[FIRST_ITEM],) = ax.plot(row.first_item_s * 1e3, at, **look)
            _label(ax, at, row)
        ax.set_yticks(range(len(rows)), ["   " * row.depth + row.name for row in rows])
        ax.tick_params(axis="y", length=0, labelcolor=INK)
        ax.invert_yaxis()
        ax.set_xlim(0, (trace.total_s + (trace.outside_s or 0)) * 1e3 * 1.12)
        ax.set_xlabel(phases_in_words(trace))
        ax.set_title(headline(trace), loc="left", fontsize=11, weight="bold", pad=22)
        order = [kind for kind in (*BAR_STYLES, FIRST_ITEM) if kind in kinds]
        ax.legend(
            [kinds[kind] for kind in order],
            ["batch wait" if kind == "batch" else kind for kind in order],
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            ncols=len(order),
            frameon=False,
            fontsize=8,
            borderaxespad=0.2,
            handlelength=1.0,
            columnspacing=1.4,
        )
    return figure


def _label(ax: Axes, at: int, row: Any) -> None:
    end = max(bar.end_s for bar in row.bars) * 1e3
    batch = f"  batch of {row.batch}" if row.batch else ""
    words = f"{row.took} ms{batch}"
    ax.annotate(
        words, (end, at), (4, 0), textcoords="offset points", va="center", fontsize=8, color=QUIET
    )
