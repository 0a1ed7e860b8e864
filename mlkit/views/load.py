"""The result of a load test as one line of text and as an HTML card."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from mlkit.errors import printable
from mlkit.load.results import LoadResult, Percentile
from mlkit.media.preview import shorten
from mlkit.views.templating import render

__all__ = ["ITEM_SERIES", "amount", "per_second", "seconds", "to_html", "to_text"]

ITEM_SERIES = {"first_item": "first item", "between_items": "between items"}
NAMES = {"p50": "p50", "p95": "p95", "p99": "p99", "p99_9": "p99.9"}
MAX_FAILURES = 4
MAX_DETAIL = 200


def amount(milliseconds: float) -> str:
    """Format a duration: 0.45 ms, 2.3 ms, 48 ms, 1.24 s, never."""
    if math.isnan(milliseconds):
        return "–"
    if math.isinf(milliseconds):
        return "never"
    if milliseconds >= 999.5:
        return f"{milliseconds / 1e3:.{2 if milliseconds < 9995 else 1}f} s"
    digits = 2 if milliseconds < 0.995 else 1 if milliseconds < 9.95 else 0
    return f"{milliseconds:.{digits}f} ms"


def per_second(rate: float) -> str:
    """Format a rate: 3.2/s, 49/s, 1,240/s."""
    return f"{rate:,.{1 if 0 < rate < 9.95 else 0}f}/s"


def seconds(duration_s: float) -> str:
    """Format the duration of a run: 20 s, 2.5 s."""
    return f"{duration_s:.1f}".removesuffix(".0") + " s"


def to_text(result: LoadResult) -> str:
    """Render arrivals, number of requests, p50 and p99 in one line."""
    run = f"{result.arrivals!r} for {seconds(result.duration_s)}"
    head = f"<LoadResult {run}: {len(result):,} requests"
    if not len(result):
        return f"{head}{_remarks(result)}>"
    failed = len(result) - int(result.ok.sum())
    parts = [f"{failed:,} failed" if failed else "all ok", per_second(result.ok_rate)]
    parts += [f"{name} {amount(result.percentiles[name].value_ms)}" for name in ("p50", "p99")]
    for series, items in result.item_percentiles.items():
        p50, p99 = (amount(items[name].value_ms) for name in ("p50", "p99"))
        parts.append(f"{ITEM_SERIES[series]} p50 {p50}, p99 {p99}")
    return f"{head}, {', '.join(parts)}{_remarks(result)}>"


def _remarks(result: LoadResult) -> str:
    interrupted = "; interrupted" if result.interrupted else ""
    notes = "".join(f"; {shorten(note, MAX_DETAIL)}" for note in result.notes)
    void = "; VOID: " + "; ".join(result.void) if result.void else ""
    return printable(notes + interrupted + void)  # notes quote the server


class Fact(NamedTuple):
    """A labelled figure of the card, with a note."""

    label: str
    value: str
    note: str = ""


class PercentileRow(NamedTuple):
    """A percentile of the card; ``at`` is its position on the log scale, from 0 to 1."""

    name: str
    value: str
    note: str
    at: float
    over: bool


def to_html(result: LoadResult) -> str:
    """Render the card of a load test."""
    shown = result.failures[:MAX_FAILURES]
    return render(
        "load.html.j2",
        title=repr(result.arrivals),
        caption=f"{seconds(result.duration_s)} on {result.target}",
        closed=result.asked_rate is None,
        interrupted=result.interrupted,
        void=result.void,
        facts=_facts(result),
        rows=_rows(result),
        samples=len(result),
        slo=_slo(result),
        slo_at=_slo_at(result),
        errors=result.errors,
        failures=[
            {
                "error": sample.error,
                "payload": sample.payload,
                "detail": shorten(sample.detail, MAX_DETAIL),
            }
            for sample in shown
        ],
    )


def _facts(result: LoadResult) -> list[Fact]:
    failed = len(result) - int(result.ok.sum())
    asked = result.asked_rate
    facts = [
        Fact("throughput", per_second(result.ok_rate), "successful responses"),
        Fact("requests", f"{len(result):,}", f"{failed:,} failed" if failed else "none failed"),
    ]
    if asked is not None:
        facts.insert(
            0, Fact("target rate", per_second(asked), f"sent {per_second(result.sent_rate)}")
        )
    if len(result):
        facts += [
            Fact(
                ITEM_SERIES[series],
                amount(items["p50"].value_ms),
                f"p50; p99 {amount(items['p99'].value_ms)}",
            )
            for series, items in result.item_percentiles.items()
        ]
    facts.append(
        Fact("client", f"{result.client.cores:.2f} cores", f"{_own_cpu(result)} per request")
    )
    if asked is not None and len(result):
        facts.append(Fact("lateness", amount(result.lateness_p99_ms), "p99 of the client"))
    return facts


def _own_cpu(result: LoadResult) -> str:
    return amount(1e3 * result.client.cpu_s / len(result)) if len(result) else "–"


def _rows(result: LoadResult) -> list[PercentileRow]:
    if not len(result):
        return []
    longest = float(result.latency_ms.max())
    rows = [_row(result, p) for p in result.percentiles.values()]
    over = result.slo_ms is not None and longest > result.slo_ms
    return [*rows, PercentileRow("max", amount(longest), "", _place(result, longest), over)]


def _row(result: LoadResult, percentile: Percentile) -> PercentileRow:
    value = percentile.value_ms
    if percentile.certified:
        note = f"≤ {amount(percentile.at_most_ms)}"
        note = "no upper bound" if math.isinf(percentile.at_most_ms) else note
    elif percentile.late:
        note = "sent late"
    else:
        note = "too few requests"
    over = result.slo_ms is not None and value > result.slo_ms
    return PercentileRow(NAMES[percentile.name], amount(value), note, _place(result, value), over)


def _scale(result: LoadResult) -> tuple[float, float]:
    """The ends of the log scale in ms: half of the median, and the slowest response."""
    import numpy as np

    answered = result.latency_ms[np.isfinite(result.latency_ms)]
    low = float(np.median(answered)) / 2 if len(answered) else 1.0
    high = float(answered.max()) if len(answered) else 1.0
    return max(low, 1e-3), max(high, result.slo_ms or 0.0, low * 10)


def _place(result: LoadResult, value: float) -> float:
    if not math.isfinite(value):
        return 1.0
    low, high = _scale(result)
    return min(1.0, max(0.0, math.log(max(value, low) / low) / math.log(high / low)))


def _slo(result: LoadResult) -> dict[str, Any] | None:
    if result.slo_ms is None:
        return None
    words = {
        "met": "met, with 99% confidence",
        "missed": "missed, with 99% confidence",
        "undecided": "undecided",
    }
    verdict = result.slo_verdict or "undecided"
    return {
        "verdict": verdict,
        "sign": {"met": "●", "missed": "▲", "undecided": "○"}[verdict],
        "words": f"SLO p99 under {amount(result.slo_ms)} (dashed): {words[verdict]}.",
        "over": f"{result.over_slo or 0:,} of {len(result):,} exceeded it or failed.",
    }


def _slo_at(result: LoadResult) -> float | None:
    return None if result.slo_ms is None or not len(result) else _place(result, result.slo_ms)
