"""What all processes of an app counted, in one place: bounded, and there when one of them dies."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from mlkit.metrics.histogram import EDGES_S
from mlkit.metrics.recorder import Delta

__all__ = ["Gatherer", "Totals"]

KEEP_S = 900.0
MOST_DELTAS = 12_000
MOST_TRACES = 5_000
MOST_PEEKS = 20
MOST_PEEKED = 8


class Totals:
    """Sums since the app was there; they only grow, whichever process comes or goes."""

    def __init__(self) -> None:
        self.status: Counter[str] = Counter()
        self.bytes = [0, 0]
        self.held = Series()
        self.runs: dict[tuple[str, str], Series] = {}
        self.waited_s: Counter[tuple[str, str]] = Counter()
        self.errors: Counter[tuple[str, str]] = Counter()
        self.sizes: dict[tuple[str, str], Counter[int]] = {}
        self.cpu_s: Counter[str] = Counter()

    def add(self, delta: Delta) -> None:
        """Add what one process counted."""
        if delta["front"]:
            self.status.update(delta["status"])
            self.bytes = [a + b for a, b in zip(self.bytes, delta["bytes"], strict=True)]
            self.held.add(delta["buckets"], delta["held_s"])
        self.cpu_s[delta["stage"]] += delta["cpu_s"]
        for name, step in delta["steps"].items():
            key = delta["stage"], name
            self.runs.setdefault(key, Series()).add(step["buckets"], step["run_s"])
            self.waited_s[key] += step["wait_s"]
            self.errors[key] += step["errors"]
            sizes = {int(size): count for size, count in step["sizes"].items()}
            if sizes:
                self.sizes.setdefault(key, Counter()).update(sizes)


class Series:
    """Durations in the buckets of `EDGES_S`, and their sum."""

    def __init__(self) -> None:
        self.counts = [0] * (len(EDGES_S) + 1)
        self.sum_s = 0.0

    def add(self, counts: list[int], sum_s: float) -> None:
        """Add what was counted elsewhere."""
        if counts:
            self.counts = [a + b for a, b in zip(self.counts, counts, strict=True)]
            self.sum_s += sum_s


class Gatherer:
    """Deltas of one app's processes, numbered as they come; the oldest go."""

    def __init__(self, keep_s: float = KEEP_S) -> None:
        self.keep_s = keep_s
        self.totals = Totals()
        self.last = 0
        self._deltas: deque[tuple[int, Delta]] = deque(maxlen=MOST_DELTAS)
        self._traces: deque[Any] = deque(maxlen=MOST_TRACES)
        self._latest: dict[str, Delta] = {}
        self._until: dict[str, float] = {}
        self._peeks: dict[str, deque[dict[str, Any]]] = {}

    def push(self, delta: Delta, now: float | None = None) -> list[str]:
        """Take up what one process counted; once, though it may be sent again.

        Returns:
            the steps that somebody wants to look into.
        """
        wanted = self._wanted(delta["at"] if now is None else now)
        before = self._latest.get(delta["process"])
        if before is not None and delta["number"] <= before["number"]:
            return wanted
        for one in delta.pop("peeks", ()):
            self._peeks.setdefault(one["step"], deque(maxlen=MOST_PEEKS)).append(one)
        self._traces.extend(delta.pop("traces", ()))
        self.totals.add(delta)
        self._latest[delta["process"]] = delta
        self.last += 1
        self._deltas.append((self.last, delta))
        while self._deltas and self._deltas[0][1]["at"] < delta["at"] - self.keep_s:
            self._deltas.popleft()
        return wanted

    def _wanted(self, now: float) -> list[str]:
        self._until = {step: until for step, until in self._until.items() if until > now}
        return list(self._until)

    def peek(self, step: str, until: float) -> list[dict[str, Any]]:
        """What was seen of a step, the latest first; processes look into it until then."""
        if len(self._until) < MOST_PEEKED:
            self._until[step] = until
        return list(self._peeks.get(step, ()))[::-1]

    def since(self, number: int) -> tuple[int, list[Delta]]:
        """The number of the latest delta, and those after a number.

        One that is not known here is from before this was started anew: then all are.
        """
        number = number if number <= self.last else 0
        found = []
        for known, delta in reversed(self._deltas):
            if known <= number:
                break
            found.append(delta)
        return self.last, found[::-1]

    def traces(self, *, slowest: int = 0, id: str = "") -> list[Any]:
        """Packed traces: the one of an id, or the slowest that are kept."""
        if id:
            return [trace for trace in self._traces if trace[0] == id]
        return sorted(self._traces, key=lambda trace: -trace[2])[:slowest]

    def latest(self, now: float, within_s: float = 3.0) -> list[Delta]:
        """The last delta of each process that was heard of lately."""
        self._latest = {p: d for p, d in self._latest.items() if d["at"] > now - self.keep_s}
        return [delta for delta in self._latest.values() if delta["at"] > now - within_s]
