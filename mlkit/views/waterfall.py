"""The waterfall of a request: waiting and running times of its steps on a common time axis."""

from __future__ import annotations

from dataclasses import dataclass

from mlkit.metrics import Span, Trace
from mlkit.views.run import milliseconds, time_ticks
from mlkit.views.templating import render

__all__ = ["FIRST_ITEM", "WaterfallBar", "WaterfallRow", "lines", "to_html", "to_text"]

MEANS = {
    "queue": "waiting for a worker",
    "batch": "waiting for a batch",
    "compute": "running",
    "transfer": "on the way between processes",
    "framework": "reading, checking, handing over, writing",
    "outside": "outside the server: network and client",
}
FIRST_ITEM = "first item"


@dataclass(frozen=True)
class WaterfallBar:
    """A part of a line, in seconds since the server received the request."""

    kind: str
    start_s: float
    end_s: float

    @property
    def description(self) -> str:
        """The bar as text."""
        return f"{MEANS[self.kind]}: {milliseconds(self.end_s - self.start_s)} ms"


@dataclass(frozen=True)
class WaterfallRow:
    """A line of the waterfall.

    Attributes:
        depth: 1 for a step in another process, below the call to it.
        first_item_s: when its first item was made, if it streams.
    """

    name: str
    bars: tuple[WaterfallBar, ...]
    batch: str = ""
    depth: int = 0
    first_item_s: float | None = None

    @property
    def took(self) -> str:
        """Duration without waiting, in ms."""
        working = [bar for bar in self.bars if bar.kind not in ("queue", "batch")]
        return milliseconds(sum(bar.end_s - bar.start_s for bar in working))

    @property
    def waited(self) -> str:
        """Waiting time in ms; "" if it is negligible."""
        waiting = sum(b.end_s - b.start_s for b in self.bars if b.kind in ("queue", "batch"))
        return milliseconds(waiting) if waiting >= 5e-5 else ""


def lines(trace: Trace) -> list[WaterfallRow]:
    """The lines of the waterfall: reading, steps in the order they became ready, writing."""
    result = [WaterfallRow("read", (WaterfallBar("framework", 0.0, trace.began_s),))]
    outer = [span for span in trace.spans if not span.within]
    for span in sorted(outer, key=lambda span: (span.ready_s, span.finish_s)):
        if not span.hop:
            result.append(_line(span))
            continue
        transfer = WaterfallBar("transfer", span.ready_s, span.finish_s)
        result.append(WaterfallRow(f"→ {span.stage}", (transfer,), first_item_s=span.first_item_s))
        inner = [s for s in trace.spans if s.within == span.step]
        result += [_line(s, 1) for s in sorted(inner, key=lambda s: s.ready_s)]
    result.append(WaterfallRow("write", (WaterfallBar("framework", trace.ended_s, trace.total_s),)))
    if trace.outside_s:
        end = trace.total_s + trace.outside_s
        result.append(WaterfallRow("outside", (WaterfallBar("outside", trace.total_s, end),)))
    return result


def to_text(trace: Trace) -> str:
    """Render the waterfall as text."""
    rows = [(" " * (2 * line.depth) + line.name, line) for line in lines(trace)]
    wide = max(len(name) for name, _ in rows)
    text = [
        headline(trace),
        f"  {'step':{wide}}  {'from':>7}  {'waited':>7}  {'ms':>7}  {'batch':>5}",
    ]
    text += [
        f"  {name:{wide}}  {milliseconds(line.bars[0].start_s):>7}  {line.waited:>7}  "
        f"{line.took:>7}  {line.batch:>5}".rstrip()
        for name, line in rows
    ]
    return "\n".join([*text, f"  {phases_in_words(trace)}"])


def to_html(trace: Trace) -> str:
    """Render the waterfall as HTML."""
    total = trace.total_s + (trace.outside_s or 0.0)
    return render(
        "waterfall.html.j2",
        headline=headline(trace),
        failed=trace.status >= 400,
        phases=phases_in_words(trace),
        lines=lines(trace),
        place=lambda bar: _place(bar, total),
        span=total,
        streams=any(line.first_item_s is not None for line in lines(trace)),
        first_item=FIRST_ITEM,
        ticks=time_ticks(total),
        total=milliseconds(total),
        means=MEANS,
        outside=bool(trace.outside_s),
        text=to_text(trace),
    )


def headline(trace: Trace) -> str:
    """Summarize the request in one line."""
    held = f"answered {trace.status} after {milliseconds(trace.total_s)} ms"
    return f"request {trace.id}: {held}"


def phases_in_words(trace: Trace) -> str:
    """Durations of the phases on the critical path, and the time to the first item."""
    parts = [
        f"{name} {milliseconds(seconds)}"
        for name, seconds in trace.phases_s.items()
        if seconds >= 5e-6
    ]
    outside = f"; outside {milliseconds(trace.outside_s)}" if trace.outside_s else ""
    first_items = [s.first_item_s for s in trace.spans if s.first_item_s is not None]
    first = f"; {FIRST_ITEM} after {milliseconds(min(first_items))}" if first_items else ""
    return f"ms along the longest way: {', '.join(parts)}{outside}{first}"


def _line(span: Span, depth: int = 0) -> WaterfallRow:
    bars = [WaterfallBar("compute", span.start_s, span.finish_s)]
    if span.waited_s >= 5e-6:
        kind = "batch" if span.batch else "queue"
        bars.insert(0, WaterfallBar(kind, span.ready_s, span.start_s))
    batch = str(span.batch) if span.batch > 1 else ""
    return WaterfallRow(span.step, tuple(bars), batch, depth, span.first_item_s)


def _place(bar: WaterfallBar, total: float) -> tuple[float, float]:
    """Left edge and width of a bar, in per cent."""
    left = min(max(100 * bar.start_s / total, 0.0), 99.6)
    width = min(max(100 * (bar.end_s - bar.start_s) / total, 0.4), 100 - left)
    return round(left, 2), round(width, 2)
