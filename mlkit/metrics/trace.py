"""Traces: the time of one request in the server, by step and phase.

A request passes through phases: it waits for a worker (queue) or for its batch (batch), a step
computes (compute), a call goes to another process and back (transfer), and the rest is overhead
(framework): parsing and validating the request, scheduling steps, encoding the response. Steps run
concurrently, so the server's time is the sum of the phases along the critical path of the graph, on
which each step became ready when the one before it finished.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = ["PHASES", "Span", "Trace", "as_header", "phases_of"]

PHASES = ("queue", "batch", "compute", "transfer", "framework")
"""In display order; also the metric names in `Server-Timing`."""


class Span(NamedTuple):
    """One step of a request. Times are seconds since the server received the request.

    Attributes:
        ready_s: when its inputs were available.
        batch: size of its batch; 0 for a step that is not batched.
        stage: the stage that ran it; "" for the process that responded.
        hop: whether it is a call to another process rather than a step.
        within: the hop that it is part of, or "".
        first_item_s: when its first item was made, if it streams.
    """

    step: str
    ready_s: float
    start_s: float
    finish_s: float
    batch: int = 0
    stage: str = ""
    hop: bool = False
    within: str = ""
    first_item_s: float | None = None

    @property
    def waited_s(self) -> float:
        """Waiting time in seconds."""
        return self.start_s - self.ready_s

    @property
    def took_s(self) -> float:
        """Run time in seconds."""
        return self.finish_s - self.start_s


@dataclass(slots=True)  # a frozen one is slower to create, and each request does
class Trace:
    """One request, as measured in the server.

    Attributes:
        id: the response's ``X-Request-Id``.
        at: when it was received, in seconds since the epoch.
        total_s: seconds from receiving it to sending the response.
        status: HTTP status of the response.
        began_s: when it was parsed and validated, and its first steps could start.
        ended_s: when its last step had finished, before the response was encoded.
        spans: its steps, in the order in which they became ready.
        pid: process id of the process that responded.
        version: the version of the app that responded.
        trace_id: of the distributed trace that it is part of; "" if its spans are not exported.
        outside_s: additional latency seen by its caller (network, client), if known.
    """

    id: str
    at: float
    total_s: float
    status: int
    began_s: float
    ended_s: float
    spans: tuple[Span, ...]
    pid: int = 0
    version: str = ""
    trace_id: str = ""
    outside_s: float | None = None

    @property
    def phases_s(self) -> dict[str, float]:
        """Seconds by phase along the critical path; the sum may differ from ``total_s``."""
        return phases_of(self.spans, self.began_s, self.ended_s, self.total_s)

    def pack(self) -> tuple[Any, ...]:
        """Convert to plain tuples."""
        spans = tuple(
            (s.step, s.ready_s, s.start_s, s.finish_s, s.batch, s.stage, s.hop, s.within)
            + (() if s.first_item_s is None else (s.first_item_s,))
            for s in self.spans
        )
        whole = self.id, self.at, self.total_s, self.status, self.began_s, self.ended_s
        return (*whole, spans, self.pid, self.version, self.trace_id)

    @classmethod
    def unpack(cls, packed: Sequence[Any]) -> Trace:
        """Restore a trace from `pack`."""
        id, at, total_s, status, began_s, ended_s, spans, pid, version, trace_id = packed
        steps = tuple(Span(*span) for span in spans)
        return cls(id, at, total_s, status, began_s, ended_s, steps, pid, version, trace_id)

    def __str__(self) -> str:
        from mlkit.views.waterfall import to_text

        return to_text(self)

    def _repr_html_(self) -> str:
        from mlkit.views.waterfall import to_html

        return to_html(self)

    def plot(self) -> Any:
        """Draw a Gantt chart, as a matplotlib figure."""
        from mlkit.views.mpl.trace import plot_trace

        return plot_trace(self)


def phases_of(
    spans: Sequence[Span], began_s: float, ended_s: float, total_s: float
) -> dict[str, float]:
    """Compute seconds by phase along the critical path.

    Args:
        spans: the steps and hops; those within a hop come after it.
        began_s: when the first steps could start.
        ended_s: when the last step had finished.
        total_s: when the response was sent.
    """
    phases = dict.fromkeys(PHASES, 0.0)
    phases["framework"] = began_s + max(0.0, total_s - ended_s)
    inside: dict[str, list[Span]] = {}
    outer = []
    for span in spans:
        if span.within:
            inside.setdefault(span.within, []).append(span)
        else:
            outer.append(span)
    until = ended_s
    for span in _critical_path(outer):
        phases["framework"] += max(0.0, until - span.finish_s)
        until = span.ready_s
        if span.hop:
            _add_hop(phases, span, inside.get(span.step, []))
            continue
        phases["batch" if span.batch else "queue"] += max(0.0, span.waited_s)
        phases["compute"] += span.took_s
    phases["framework"] += max(0.0, until - began_s)
    return phases


def _add_hop(phases: dict[str, float], hop: Span, spans: Sequence[Span]) -> None:
    """Add a call to a stage: the phases in the stage, and the rest as transfer."""
    path = _critical_path(spans)
    for span in path:
        phases["batch" if span.batch else "queue"] += max(0.0, span.waited_s)
        phases["compute"] += span.took_s
    remote_s = path[0].finish_s - path[-1].ready_s if path else 0.0
    phases["transfer"] += max(0.0, hop.finish_s - hop.ready_s - remote_s)


def _critical_path(spans: Sequence[Span]) -> list[Span]:
    """Steps from the last to finish back to the first on the critical path."""
    path: list[Span] = []
    left = sorted(spans, key=lambda span: span.finish_s)
    while left:
        last = left.pop()
        path.append(last)
        # A step is ready when the last of its dependencies has finished.
        left = [span for span in left if span.finish_s <= last.ready_s + 1e-6]
    return path


def as_header(phases_s: Mapping[str, float], total_s: float, spans: Sequence[Span]) -> str:
    """Build a ``Server-Timing`` header (W3C Server Timing): total, phases, then steps, in ms."""
    parts = [f"total;dur={total_s * 1e3:.3f}"]
    parts += [f"{name};dur={seconds * 1e3:.3f}" for name, seconds in phases_s.items() if seconds]
    parts += [
        f"{span.step}-{kind};dur={seconds * 1e3:.3f}"
        for span in spans
        for kind, seconds in (("wait", span.waited_s), ("run", span.took_s))
        if not span.hop
    ]
    return ", ".join(parts)
