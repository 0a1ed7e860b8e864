"""A run as an HTML table with a waterfall, and as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from mlkit.execute.run import NodeRun, Run
from mlkit.media.preview import Preview, preview, shorten, words
from mlkit.views.templating import render

__all__ = ["RunRow", "Tick", "clock", "milliseconds", "time_ticks", "to_html", "to_text"]

_ERROR_LINES = 6
_RESULT_CHARS = 400
_MIN_WIDTH = 0.4  # per cent; narrower bars are invisible


@dataclass(frozen=True)
class RunBar:
    """A span on the time axis, in per cent of its length."""

    left: float
    width: float


@dataclass(frozen=True)
class Tick:
    """A tick on the time axis, in per cent of its length; "" for one without a label."""

    left: float
    text: str


@dataclass(frozen=True)
class RunRow:
    """A row of the table, with times formatted in milliseconds."""

    name: str
    status: str
    value: Preview
    took: str = ""
    waited: str = ""
    batch: str = ""
    waiting: RunBar | None = None
    running: RunBar | None = None
    description: str = ""
    error: tuple[str, ...] = ()


def to_text(run: Run) -> str:
    """Render a line for each step, and the result."""
    rows = [_row(node, _span(run)) for node in run.nodes]
    wide = max((len(row.name) for row in rows), default=4)
    lines = [_headline(run)]
    if rows:
        lines.append(f"  {'step':{wide}}  {'ms':>7}  {'waited':>7}  {'batch':>5}  value")
    for row in rows:
        value = "; ".join(row.error) if row.error else row.value.text
        value = value if row.status in ("done", "failed") else f"({row.status}) {value}".rstrip()
        lines.append(
            f"  {row.name:{wide}}  {row.took:>7}  {row.waited:>7}  {row.batch:>5}  {value}".rstrip()
        )
    if run.error is None:
        lines.append(f"  returned {words(run.output, _RESULT_CHARS)}")
    return "\n".join(lines)


def to_html(run: Run) -> str:
    """Render a row for each step: its value, times and bars on a common time axis."""
    span = _span(run)
    return render(
        "run.html.j2",
        name=run.graph.name,
        headline=_headline(run),
        failed=run.error is not None,
        elsewhere=_interruption(run),
        inputs=[(name, preview(value)) for name, value in run.arguments.items()],
        rows=[_row(node, span) for node in run.nodes],
        ticks=time_ticks(span),
        total=milliseconds(run.total_s),
        output=preview(run.output, _RESULT_CHARS),
    )


def clock(at: float) -> str:
    """Format a time in seconds since the epoch: ``14:03:59``."""
    return datetime.fromtimestamp(at).strftime("%H:%M:%S")


def milliseconds(seconds: float) -> str:
    """Format seconds as milliseconds with two or three significant digits: 0.04, 2.3, 48, 1,240."""
    ms = seconds * 1e3
    if ms < 0.005:
        return "0"
    if ms < 0.995:
        return f"{ms:.2f}"
    return f"{ms:.1f}" if ms < 9.95 else f"{ms:,.0f}"


def error_lines(error: BaseException) -> tuple[str, ...]:
    """The message of an error as lines; never raises."""
    name = type(error).__name__
    try:
        message = str(error).strip().splitlines()
    except Exception:
        return (f"{name}, whose message cannot be shown",)
    lines = [f"{name}: {message[0]}", *message[1:]] if message else [name]
    kept = lines if len(lines) <= _ERROR_LINES else [*lines[: _ERROR_LINES - 1], "…"]
    return tuple(shorten(line, 200) for line in kept)


def _headline(run: Run) -> str:
    took = milliseconds(run.total_s)
    if run.error is None:
        return f"run of {run.graph.name}: done in {took} ms"
    failed = [node.name for node in run.nodes if node.status == "failed"]
    place = f" in step {', '.join(failed)}" if failed else ""
    return f"run of {run.graph.name}: ended{place} after {took} ms"


def _interruption(run: Run) -> tuple[str, ...]:
    """The error of a run that no step caused, such as an interrupt or a deadline."""
    if run.error is None or any(node.status == "failed" for node in run.nodes):
        return ()
    return error_lines(run.error)


def _span(run: Run) -> float:
    return max([run.total_s, *(node.finish_s for node in run.nodes), 1e-9])


def _row(node: NodeRun, span: float) -> RunRow:
    if node.status not in ("done", "failed"):
        value = preview(node.value) if node.status == "given" else Preview("")
        return RunRow(node.name, node.status, value)
    failed = node.status == "failed"
    waited, start = max(node.waited_s, 0.0), node.start_s * 1e3
    return RunRow(
        node.name,
        node.status,
        Preview("") if failed else preview(node.value),
        took=milliseconds(node.duration_s),
        waited=milliseconds(waited) if waited >= 5e-5 else "",
        batch=str(node.batch_size) if node.batch_size > 1 else "",
        waiting=_bar(node.ready_s, node.start_s, span) if waited >= 5e-5 else None,
        running=_bar(node.start_s, node.finish_s, span),
        description=f"{node.name}: from {start:.1f} to {node.finish_s * 1e3:.1f} ms"
        + (f", after waiting {milliseconds(waited)} ms" if waited >= 5e-5 else "")
        + (
            "" if node.first_item_s is None else f", first item at {node.first_item_s * 1e3:.1f} ms"
        ),
        error=() if node.error is None else error_lines(node.error),
    )


def _bar(start: float, end: float, span: float) -> RunBar:
    left = min(max(start / span * 100, 0.0), 100 - _MIN_WIDTH)
    return RunBar(
        round(left, 2), round(min(max((end - start) / span * 100, _MIN_WIDTH), 100 - left), 2)
    )


def time_ticks(span: float) -> Sequence[Tick]:
    """Three to six ticks at round numbers of milliseconds."""
    total = span * 1e3
    rough = total / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    count = int(total / step + 1e-9)
    # Labels near the end would overlap that of the total.
    return [
        Tick(
            round(i * step / total * 100, 2), f"{i * step:,.6g}" if i * step < total * 0.75 else ""
        )
        for i in range(count + 1)
    ]
