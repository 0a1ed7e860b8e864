"""The replicas of an app over time: its decisions as an HTML table, its counts as steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from mlkit.autoscale import Count, Scaling
from mlkit.views.run import clock
from mlkit.views.templating import render

__all__ = ["busiest_stage", "counts_of", "step_series", "to_html"]

MAX_ROWS = 50


def to_html(scaling: Scaling) -> str:
    """Render the last decisions as a table."""
    rows = [
        {
            "time": clock(decision.at),
            "decision": decision,
            "change": f"{decision.before} → {decision.after}"
            if decision.kind == "scaled"
            else decision.kind,
        }
        for decision in list(scaling.decisions)[-MAX_ROWS:]
    ]
    return render("scaling.html.j2", rows=rows)


def busiest_stage(scaling: Scaling) -> str | None:
    """Name of the stage whose count changed most often; None without counts."""
    changes = Counter(count.stage for count in scaling.counts)
    return changes.most_common(1)[0][0] if changes else None


def counts_of(scaling: Scaling, stage: str, since: float, processes: int) -> list[Count]:
    """Return the counts of a stage, from the first metrics of its replicas on.

    Replicas that are not autoscaled are counted only from the first view on, and whenever their
    number changes.

    Args:
        scaling: the counts.
        stage: name of the stage.
        since: time of the first metrics of its replicas.
        processes: number of replicas that report metrics, in place of a count.
    """
    counts = [count for count in scaling.counts if count.stage == stage]
    if not counts:
        return [Count(since, stage, processes, processes)] if processes else []
    first = counts[0]
    return counts if first.at <= since else [replace(first, at=since), *counts]


def step_series(
    counts: Sequence[Count], start: float, end: float
) -> tuple[list[float], list[int], list[int]]:
    """Times, wanted and ready replicas from start to end, for a step plot.

    The last count before the start is carried into the interval.
    """
    before = [count for count in counts if count.at <= start]
    inside = [count for count in counts if start < count.at <= end]
    known = before[-1:] + inside
    if not known:
        return [], [], []
    times = [max(start, count.at) for count in known] + [end]
    wanted = [count.wanted for count in known]
    ready = [count.ready for count in known]
    return times, [*wanted, wanted[-1]], [*ready, ready[-1]]
