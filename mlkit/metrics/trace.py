"""Where the time of one request went, while a server held it.

A request passes through phases: it waits for a worker (queue), for a batch to be taken (batch), a
step computes, a call goes to another process and back (transfer), and the rest is the framework:
reading and checking the request, handing it from step to step, writing the answer. Steps run side
by side, so what adds up to the time that the server took are the phases of the longest way through
the graph: each step on it began when the one before it had ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["PHASES", "Span", "Trace", "as_header", "phases_of"]

PHASES = ("queue", "batch", "compute", "transfer", "framework")
"""In the order in which they are shown; names of `Server-Timing`'s metrics too."""


@dataclass(frozen=True, slots=True)
class Span:
    """One step of one request. Times are seconds since the server had the request.

    Attributes:
        ready_s: when its inputs were there.
        batch: items of its call; 0 for a step that is not batched.
        stage: where it ran; "" for the process that answered.
        hop: whether it is a call to another process, and not a step.
        within: the call to another process that it is part of; "" for none.
    """

    step: str
    ready_s: float
    start_s: float
    finish_s: float
    batch: int = 0
    stage: str = ""
    hop: bool = False
    within: str = ""

    @property
    def waited_s(self) -> float:
        """Seconds that it waited."""
        return self.start_s - self.ready_s

    @property
    def took_s(self) -> float:
        """Seconds that its function took."""
        return self.finish_s - self.start_s


@dataclass(frozen=True, slots=True)
class Trace:
    """One request as its server saw it.

    Attributes:
        id: as in the answer's ``X-Request-Id``.
        at: when it came, in seconds since the epoch.
        total_s: from its coming to its answer being handed on.
        status: HTTP status of the answer.
        began_s: when its first step could begin; before that it was read and checked.
        ended_s: when its last step had ended; after that the answer was written.
        spans: of its steps, in the order in which they became ready.
        pid: of the process that answered.
        outside_s: what its caller waited beside, where that is known: network, and the caller.
    """

    id: str
    at: float
    total_s: float
    status: int
    began_s: float
    ended_s: float
    spans: tuple[Span, ...]
    pid: int = 0
    outside_s: float | None = None

    @property
    def phases_s(self) -> dict[str, float]:
        """Seconds by phase along the longest way; each measured, so that they may miss a little."""
        return phases_of(self.spans, self.began_s, self.ended_s, self.total_s)

    def pack(self) -> tuple[Any, ...]:
        """As plain tuples."""
        spans = tuple(
            (s.step, s.ready_s, s.start_s, s.finish_s, s.batch, s.stage, s.hop, s.within)
            for s in self.spans
        )
        whole = self.id, self.at, self.total_s, self.status, self.began_s, self.ended_s
        return (*whole, spans, self.pid)

    @classmethod
    def unpack(cls, packed: Sequence[Any]) -> Trace:
        """One again."""
        id, at, total_s, status, began_s, ended_s, spans, pid = packed
        steps = tuple(Span(*span) for span in spans)
        return cls(id, at, total_s, status, began_s, ended_s, steps, pid)

    def __str__(self) -> str:
        from mlkit.views.waterfall import to_text

        return to_text(self)

    def _repr_html_(self) -> str:
        from mlkit.views.waterfall import to_html

        return to_html(self)

    def plot(self) -> Any:
        """A Gantt chart of it, as a matplotlib figure."""
        from mlkit.views.mpl.trace import plot_trace

        return plot_trace(self)


def phases_of(
    spans: Sequence[Span], began_s: float, ended_s: float, total_s: float
) -> dict[str, float]:
    """Seconds by phase along the longest way through the steps.

    Args:
        spans: of the steps; those within a hop come after it.
        began_s: when the first steps could begin.
        ended_s: when the last had ended.
        total_s: when the answer was handed on.
    """
    found = dict.fromkeys(PHASES, 0.0)
    found["framework"] = began_s + max(0.0, total_s - ended_s)
    inside: dict[str, list[Span]] = {}
    outer = []
    for span in spans:
        if span.within:
            inside.setdefault(span.within, []).append(span)
        else:
            outer.append(span)
    until = ended_s
    for span in _longest_way(outer):
        found["framework"] += max(0.0, until - span.finish_s)
        until = span.ready_s
        if span.hop:
            _add_hop(found, span, inside.get(span.step, []))
            continue
        found["batch" if span.batch else "queue"] += max(0.0, span.waited_s)
        found["compute"] += span.took_s
    found["framework"] += max(0.0, until - began_s)
    return found


def _add_hop(found: dict[str, float], hop: Span, spans: Sequence[Span]) -> None:
    """A call to a stage: what was done there, and the rest of it on the way."""
    way = _longest_way(spans)
    for span in way:
        found["batch" if span.batch else "queue"] += max(0.0, span.waited_s)
        found["compute"] += span.took_s
    there = way[0].finish_s - way[-1].ready_s if way else 0.0
    found["transfer"] += max(0.0, hop.finish_s - hop.ready_s - there)


def _longest_way(spans: Sequence[Span]) -> list[Span]:
    """From the step that ended last back to one that waited for none, last first."""
    way: list[Span] = []
    left = sorted(spans, key=lambda span: span.finish_s)
    while left:
        last = left.pop()
        way.append(last)
        # A step is ready when the last of those it waits for has ended.
        left = [span for span in left if span.finish_s <= last.ready_s + 1e-6]
    return way


def as_header(phases_s: Mapping[str, float], total_s: float, spans: Sequence[Span]) -> str:
    """A ``Server-Timing`` header (W3C Server Timing): the total, phases, then steps, in ms."""
    parts = [f"total;dur={total_s * 1e3:.3f}"]
    parts += [f"{name};dur={seconds * 1e3:.3f}" for name, seconds in phases_s.items() if seconds]
    parts += [
        f"{span.step}-{kind};dur={seconds * 1e3:.3f}"
        for span in spans
        for kind, seconds in (("wait", span.waited_s), ("run", span.took_s))
        if not span.hop
    ]
    return ", ".join(parts)
