"""The end of the demo as text: pictures and their tags, and the figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlkit.load import LoadResult
from mlkit.views.load import amount, per_second
from tools.demo.pictures import Tagged, printable
from tools.demo.summary import Target

__all__ = ["figures", "load_row", "loads", "tags_csv", "tags_table"]

MOST_ROWS = 60
NAME_WIDTH = 34
TAGS_WIDTH = 62


def tags_table(tagged: Sequence[Tagged]) -> str:
    """Pictures with class, main colour and tags, a line each."""
    rows = [("picture", "class", "colour", "tags"), *(_row(t) for t in tagged[:MOST_ROWS])]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = ["  ".join([*map(str.ljust, row[:3], widths), row[3]]).rstrip() for row in rows]
    if len(tagged) > MOST_ROWS:
        lines.append(f"... and {len(tagged) - MOST_ROWS:,} more")
    return "\n".join(lines)


def _row(tagged: Tagged) -> tuple[str, str, str, str]:
    name = _cut(printable(tagged.picture.name), NAME_WIDTH)
    if tagged.error is not None:
        return name, "", "", _cut(f"failed: {printable(tagged.reason)}", TAGS_WIDTH)
    answer = tagged.answer
    kind = answer.product_class.name if answer.product_class else "-"
    colour = answer.colours[0].name if answer.colours else "-"
    return name, kind, colour, _cut(printable(", ".join(tagged.tags)), TAGS_WIDTH)


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1] + "…"


def loads(results: Mapping[str, LoadResult]) -> str:
    """Load tests by what was asked: rate and percentiles; void ones say so."""
    rows: list[tuple[str, ...]] = [("load", "asked", "answered", "p50", "p95", "p99", "failed")]
    notes = []
    for name, result in results.items():
        rows.append((name.replace("_", " "), *load_row(result)))
        notes += [f"VOID {name}: {reason}" for reason in result.void]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, *notes])


def load_row(result: LoadResult) -> tuple[str, ...]:
    """A load test in words: asked, answered, p50, p95, p99, failed."""
    asked = result.asked_rate
    times = [amount(result.percentiles[name].value_ms) for name in ("p50", "p95", "p99")]
    failed = len(result) - int(result.ok.sum())
    return (
        "all it can" if asked is None else per_second(asked),
        per_second(result.ok_rate),
        *times,
        f"{failed:,}",
    )


def figures(summary: Mapping[str, Any], targets: Sequence[Target]) -> str:
    """The figures by which the demo is judged, each beside what it is made of."""
    get = summary.__getitem__
    facts = get("machine")
    lines = [
        f"offline, in one process      {_rate(get('offline_rps'))}",
        f"served, saturated            {_rate(get('served_rps'))}"
        f"   (client took {_number(get('client_cores'), 2)} of {facts['cores']} cores)",
        f"eager torch, one by one      {_rate(get('eager_rps'))}",
        f"blog's graph, plain Serve    {_rate(get('blog_graph_rps'))}",
        "",
    ]
    judged = [f"{_LABELS[t.name]:42}  {_judged(t, get(t.name))}" for t in targets]
    return "\n".join([*lines, *judged])


_LABELS = {
    "offline_per_eager": "offline / eager torch",
    "served_share_of_offline": "served / offline, of the cores left to it",
    "served_per_blog": "served / blog's graph",
    "overhead_cpu_ms": "CPU that serving adds, ms a picture",
}


def _judged(target: Target, value: float | None) -> str:
    limit = f"{'at least' if target.at_least else 'at most'} {target.limit:g}"
    word = {True: "met", False: "MISSED", None: "not measured"}[target.met(value)]
    return f"{_number(value, 2):>6}   {limit}: {word}"


def _rate(value: float | None) -> str:
    return f"{_number(value, 1 if value is not None and value < 100 else 0):>6} pictures/s"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def tags_csv(tagged: Sequence[Tagged], path: Path) -> None:
    """Write one row a picture; what failed has its reason in the last column."""
    import csv

    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["image", "product_class", "score", "colours", "box", "labels", "tags", "error"]
        )
        writer.writerows(_csv_row(t) for t in tagged)


def _csv_row(tagged: Tagged) -> list[Any]:
    name = printable(tagged.picture.name)
    if tagged.error is not None:
        return [name, "", "", "", "", "", "", printable(tagged.reason)]
    answer = tagged.answer
    kind, box = answer.product_class, answer.box
    return [
        name,
        kind.name if kind else "",
        kind.score if kind else "",
        "|".join(colour.name for colour in answer.colours),
        f"{box.x0} {box.y0} {box.x1} {box.y1}" if box else "",
        "|".join(label.name for label in answer.labels),
        "|".join(tagged.tags),
        "",
    ]
