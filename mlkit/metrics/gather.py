"""Aggregation of the metrics of all processes of an app, in bounded memory."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from typing import Any, NamedTuple

from mlkit.metrics.compare import Comparisons, merge
from mlkit.metrics.histogram import EDGES_S, bucket_of
from mlkit.metrics.pools import forget_models
from mlkit.metrics.recorder import SLOWEST, Delta

__all__ = ["DurationTotals", "Exemplar", "Gatherer", "Totals"]

KEEP_S = 900.0
MAX_DELTAS = 12_000
MAX_TRACES = 5_000
MAX_PEEKS = 20
MAX_PEEKED = 8


class Totals:
    """Monotonic sums since the app was deployed, independent of the life of its processes."""

    def __init__(self) -> None:
        self.status: Counter[str] = Counter()
        self.bytes = [0, 0]
        self.held = DurationTotals()
        self.items: dict[str, DurationTotals] = {}
        self.runs: dict[tuple[str, str], DurationTotals] = {}
        self.waited_s: Counter[tuple[str, str]] = Counter()
        self.errors: Counter[tuple[str, str]] = Counter()
        self.sizes: dict[tuple[str, str], Counter[int]] = {}
        self.cpu_s: Counter[str] = Counter()

    def add(self, delta: Delta) -> None:
        """Add the counts of one process."""
        if delta["front"]:
            self.status.update(delta["status"])
            self.bytes = [a + b for a, b in zip(self.bytes, delta["bytes"], strict=True)]
            self.held.add(delta["buckets"], delta["held_s"])
            for name, items in delta["items"].items():
                totals = self.items.setdefault(name, DurationTotals())
                totals.add(items["buckets"], items["held_s"])
        self.cpu_s[delta["stage"]] += delta["cpu_s"]
        for name, step in delta["steps"].items():
            key = delta["stage"], name
            self.runs.setdefault(key, DurationTotals()).add(step["buckets"], step["run_s"])
            self.waited_s[key] += step["wait_s"]
            self.errors[key] += step["errors"]
            sizes = {int(size): count for size, count in step["sizes"].items()}
            if sizes:
                self.sizes.setdefault(key, Counter()).update(sizes)


class Exemplar(NamedTuple):
    """A request as an example of its duration, with the ids to find it in logs and traces.

    Attributes:
        labels: ``request_id``, and ``trace_id`` if its spans are exported.
        value: its duration in seconds.
        timestamp: when it ended, in seconds since the epoch.
    """

    labels: dict[str, str]
    value: float
    timestamp: float


class DurationTotals:
    """Counts of durations in the buckets of `EDGES_S`, and their sum."""

    def __init__(self) -> None:
        self.counts = [0] * (len(EDGES_S) + 1)
        self.sum_s = 0.0

    def add(self, counts: list[int], sum_s: float) -> None:
        """Add counts and the sum of the durations."""
        if counts:
            self.counts = [a + b for a, b in zip(self.counts, counts, strict=True)]
            self.sum_s += sum_s


class Gatherer:
    """Deltas of one app's processes, numbered as they arrive; the oldest are dropped.

    Args:
        keep_s: retention of deltas, slowest traces and ended processes in seconds.

    Attributes:
        exemplars: a request whose duration is in a bucket of `EDGES_S`, by the bucket's place: the
            one that was pushed last.
    """

    def __init__(self, keep_s: float = KEEP_S) -> None:
        self.keep_s = keep_s
        self.totals = Totals()
        self.last = 0
        self._deltas: deque[tuple[int, Delta]] = deque(maxlen=MAX_DELTAS)
        self._traces: deque[Any] = deque(maxlen=MAX_TRACES)
        self._slowest: dict[int, list[Any]] = {}  # by minute
        self.exemplars: dict[int, Exemplar] = {}
        self._latest: dict[str, Delta] = {}
        self._until: dict[str, float] = {}
        self._peeks: dict[str, deque[dict[str, Any]]] = {}
        self._compared: dict[str, dict[str, Any]] = {}

    def push(self, delta: Delta, now: float | None = None) -> list[str]:
        """Add a delta of one process; a delta that is pushed twice counts once.

        Returns:
            the steps to sample for peeking.
        """
        at = delta["at"]
        peeked = self._peeked(at if now is None else now)
        before = self._latest.get(delta["process"])
        if before is not None and delta["number"] <= before["number"]:
            return peeked
        if before is not None:
            forget_models(before)
        for peek in delta.pop("peeks", ()):
            self._peeks.setdefault(peek["step"], deque(maxlen=MAX_PEEKS)).append(peek)
        self._compared = merge(self._compared, delta.pop("compared", {}))
        self._add_traces(at, delta.pop("traces", []))
        self.totals.add(delta)
        self._latest[delta["process"]] = delta
        self._latest = {p: d for p, d in self._latest.items() if d["at"] >= at - self.keep_s}
        self.last += 1
        self._deltas.append((self.last, delta))
        while self._deltas and self._deltas[0][1]["at"] < at - self.keep_s:
            self._deltas.popleft()
        return peeked

    def _add_traces(self, at: float, traces: list[Any]) -> None:
        self._traces.extend(traces)
        for id, began_at, total_s, *_, trace_id in traces:  # as `Trace.pack` has packed them
            labels = {"request_id": id} | ({"trace_id": trace_id} if trace_id else {})
            self.exemplars[bucket_of(total_s)] = Exemplar(labels, total_s, began_at + total_s)
        minute = int(at // 60)
        self._slowest[minute] = _slowest([*self._slowest.get(minute, []), *traces], SLOWEST)
        oldest = (at - self.keep_s) // 60
        self._slowest = {m: kept for m, kept in self._slowest.items() if m >= oldest}

    def _peeked(self, now: float) -> list[str]:
        self._until = {step: until for step, until in self._until.items() if until > now}
        return list(self._until)

    def peek(self, step: str, until: float) -> list[dict[str, Any]]:
        """Samples of a step, the latest first; processes keep sampling it until ``until``."""
        if len(self._until) < MAX_PEEKED:
            self._until[step] = until
        return list(self._peeks.get(step, ()))[::-1]

    def comparisons(self) -> dict[str, Any]:
        """What was compared with the last version that was a shadow, and that version."""
        version, packed = next(reversed(self._compared.items()), ("", Comparisons().pack(0.0)))
        return {"version": version, **packed}

    def since(self, number: int) -> tuple[int, list[Delta]]:
        """The number of the latest delta, and the deltas after `number`.

        A number above the latest is from before this was restarted: then all deltas are returned.
        """
        number = number if number <= self.last else 0
        newer = []
        for known, delta in reversed(self._deltas):
            if known <= number:
                break
            newer.append(delta)
        return self.last, newer[::-1]

    def traces(self, *, slowest: int = 0, id: str = "") -> list[Any]:
        """Packed traces: those with an id, or the slowest kept ones, the slowest first.

        Up to `SLOWEST`, these are the slowest of all requests, over at least ``keep_s``.
        """
        kept = {trace[:3]: trace for traces in self._slowest.values() for trace in traces}
        kept |= {trace[:3]: trace for trace in self._traces}
        if id:
            return sorted((t for t in kept.values() if t[0] == id), key=lambda trace: trace[1])
        return _slowest(kept.values(), slowest)

    def latest(self, now: float, within_s: float = 3.0) -> list[Delta]:
        """The last delta of each process that pushed one within `within_s`."""
        return [delta for delta in self._latest.values() if delta["at"] > now - within_s]


def _slowest(traces: Any, count: int) -> list[Any]:
    return heapq.nlargest(count, traces, key=lambda trace: trace[2])
