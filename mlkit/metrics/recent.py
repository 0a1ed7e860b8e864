"""Rate and latency percentiles over the last two seconds, in bounded memory."""

from __future__ import annotations

from collections import Counter, deque
from math import exp, log

__all__ = ["Recent"]

SLOT_S = 0.1
SLOTS = 20
_GROWTH = log(1.01)


class Recent:
    """Counts calls in slots of 100 ms; the rate is exact, percentiles are accurate to one percent.

    Times are seconds on a monotonic clock.
    """

    def __init__(self) -> None:
        self._slots: deque[tuple[int, Counter[int]]] = deque(maxlen=SLOTS + 1)

    def add(self, at: float, held_s: float) -> None:
        """Count a call that ended at ``at`` and took ``held_s`` seconds."""
        slot = int(at / SLOT_S)
        if not self._slots or self._slots[-1][0] != slot:
            self._slots.append((slot, Counter()))
        self._slots[-1][1][round(log(max(held_s, 1e-6)) / _GROWTH)] += 1

    def read(self, at: float) -> dict[str, float]:
        """Return the ``rate`` per second, and ``p50_ms``, ``p95_ms``, ``p99_ms`` (nearest rank).

        They cover the last 20 whole slots and the current one. Without calls, there are no
        percentiles.
        """
        first = int(at / SLOT_S) - SLOTS
        durations: Counter[int] = Counter()
        for slot, counts in self._slots:
            if slot >= first:
                durations.update(counts)
        total = durations.total()
        reading = {"rate": total / (at - first * SLOT_S)}
        ranks = {percent: -(-percent * total // 100) for percent in (50, 95, 99)} if total else {}
        below = 0
        for bucket, count in sorted(durations.items()):
            below += count
            for percent in [p for p, rank in ranks.items() if rank <= below]:
                del ranks[percent]
                reading[f"p{percent}_ms"] = 1e3 * exp(bucket * _GROWTH)
        return reading
