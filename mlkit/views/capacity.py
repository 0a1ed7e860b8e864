"""A capacity as one line of text, and as an HTML card with the table of its runs."""

from __future__ import annotations

import math
from typing import Any, cast

from mlkit.load import LoadResult
from mlkit.load.capacity import Capacity
from mlkit.load.search import RateTrial
from mlkit.media.preview import shorten
from mlkit.views.load import amount, per_second, seconds
from mlkit.views.templating import render

__all__ = ["SIGNS", "headline", "remark", "to_html", "to_text"]

SIGNS = {"met": "●", "missed": "▲", "undecided": "○"}
MAX_REMARK = 200


def to_text(capacity: Capacity) -> str:
    """Render the outcome in one line."""
    parts = [headline(capacity), remark(capacity), _runs(len(capacity.trials))]
    return f"<Capacity of {capacity.target}: {'; '.join(filter(None, parts))}>"


def headline(capacity: Capacity) -> str:
    """What was found: 86/s meet p99 under 150 ms."""
    if capacity.rate is not None:
        return f"{per_second(capacity.rate)} meet {capacity.slo}"
    if capacity.outcome == "missed":
        return f"no rate meets {capacity.slo}"
    return f"undecided whether a rate meets {capacity.slo}"


def remark(capacity: Capacity) -> str:
    """The confidence, what is known of higher rates, and why the search ended, if early."""
    parts = []
    if capacity.rate is not None:
        runs = f", verified by {_runs(capacity.verify)}" if capacity.verify else ""
        parts.append(f"with 99% confidence{runs}")
    unmet = capacity.unmet_rate
    if unmet is not None and not (capacity.rate is None and capacity.outcome == "undecided"):
        verdict = capacity.evidence.get(unmet)
        words = "looked over in a short run" if verdict is None else str(verdict)
        parts.append(f"{per_second(unmet)} {words}")
    if capacity.reason:
        parts.append(capacity.reason)
    return "; ".join(parts)


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def to_html(capacity: Capacity) -> str:
    """Render the outcome, and a row per run."""
    return render(
        "capacity.html.j2",
        headline=headline(capacity),
        sign=SIGNS[capacity.outcome],
        outcome=capacity.outcome,
        remark=shorten(remark(capacity), MAX_REMARK),
        caption=f"{_runs(len(capacity.trials))} on {capacity.target}",
        rows=[_row(trial, capacity) for trial in capacity.trials],
    )


def _row(trial: RateTrial, capacity: Capacity) -> dict[str, Any]:
    result = cast("LoadResult", trial.measured)
    goodput = capacity.slo.within(result.latency_ms) / max(result.duration_s, 1e-9)
    return {
        "phase": trial.probe.phase,
        "rate": per_second(trial.probe.rate),
        "duration": seconds(result.duration_s),
        "requests": f"{len(result):,}",
        "p50": amount(result.percentiles["p50"].value_ms),
        "p99": amount(result.percentiles["p99"].value_ms),
        "goodput": per_second(goodput),
        "outcome": "void" if result.void else trial.verdict.outcome,
        "sign": "×" if result.void else SIGNS[trial.verdict.outcome],
        "reason": trial.verdict.reason,
        "held": math.isclose(trial.probe.rate, capacity.rate or 0.0),
    }
