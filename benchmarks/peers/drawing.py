"""The plot of ``peers.json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from benchmarks.peers.catalogue import OURS

__all__ = ["draw", "plot"]


def plot(document: Mapping[str, Any], path: Path) -> None:
    """Draw it into a file."""
    draw(document).savefig(path)


def draw(document: Mapping[str, Any]) -> Any:
    """Throughput on both tracks, and p99 against the rate, as a matplotlib figure."""
    import matplotlib as mpl

    from mlkit.views.mpl.style import STYLE, subplots

    servers = {name: row for name, row in document["servers"].items() if row["counts"]}
    with mpl.rc_context(cast("Any", STYLE)):
        figure, (equal, curves, oob) = subplots(1, 3, 3.4)
        _bars(equal, {n: row for n, row in servers.items() if row["track"] == "equal"})
        equal.set_title("equal model", loc="left", fontsize=10)
        _curves(curves, servers, document["slo_p99_ms"])
        _bars(oob, {n: row for n, row in servers.items() if row["track"] == "oob" or n == OURS})
        oob.set_title("out of the box", loc="left", fontsize=10)
    return figure


def _bars(axis: Any, rows: Mapping[str, Mapping[str, Any]]) -> None:
    from mlkit.views.palette import GREY, INK, SERVED, SERVED_LIGHT

    ranked = sorted(rows, key=lambda name: rows[name]["means"]["saturated"])
    for place, name in enumerate(ranked):
        rates = [one["saturated"] for one in rows[name]["rounds"].values()]
        mean = rows[name]["means"]["saturated"]
        colour = SERVED if name == OURS else GREY if rows[name]["peer"] else SERVED_LIGHT
        axis.barh(place, mean, color=colour, height=0.7)
        axis.plot([min(rates), max(rates)], [place, place], color=INK, linewidth=1)
        axis.annotate(
            f"{mean:.0f}",
            (max(rates), place),
            (3, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )
    axis.set_yticks(range(len(ranked)), [name.removesuffix(" (oob)") for name in ranked])
    axis.tick_params(axis="y", labelsize=7)
    axis.grid(visible=False)
    axis.set_xlabel("images/s, 16 clients")
    axis.margins(x=0.18)


def _curves(axis: Any, servers: Mapping[str, Mapping[str, Any]], slo_ms: float) -> None:
    from mlkit.views.palette import ERROR, GREY, SERVED

    for name, row in servers.items():
        by_rate: dict[float, list[float]] = {}
        for one in row["rounds"].values():
            for point in one["points"]:
                if point["p99_ms"] is not None:
                    by_rate.setdefault(point["rate"], []).append(point["p99_ms"])
        if not by_rate:
            continue
        rates = sorted(by_rate)
        means = [sum(by_rate[rate]) / len(by_rate[rate]) for rate in rates]
        ours = name == OURS
        style = {"color": SERVED if ours else GREY, "linewidth": 2.0 if ours else 1.0}
        axis.plot(rates, means, marker="o", markersize=3, zorder=3 if ours else 2, **style)
        axis.annotate(name, (rates[-1], means[-1]), (3, 0), textcoords="offset points", fontsize=6)
    axis.axhline(slo_ms, color=ERROR, linewidth=0.8, linestyle="--")
    axis.set_yscale("log")
    axis.set_xlabel("Poisson arrivals per second")
    axis.set_title("p99 in ms", loc="left", fontsize=10)
    axis.margins(x=0.25)
