"""A limit on requests in flight that follows the latency of the pipeline.

As long as there is room, latency does not depend on the number of requests in flight. Beyond that,
they only wait for each other. The limit is lowered in proportion to how much slower requests have
become than when there was room, and raised by its square root while it is used: the gradient
algorithm of Netflix's concurrency-limits, https://github.com/Netflix/concurrency-limits. If there
has been no room for a while, only few requests are admitted for a moment, to see how long they take
now: the pipeline may have become slower.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf, sqrt
from statistics import median

__all__ = ["AdaptiveLimit"]

WINDOW_S, WINDOW = 0.1, 10
"""Least time in seconds, and least requests, between two changes of the limit."""
TOLERANCE = 2.0
"""How much slower than with room requests may be before the limit is lowered: with queues as long
as what is being worked on, no worker waits."""
LEAST_GRADIENT = 0.5
SMOOTHING = 0.5
LEAST, START = 4, 20
"""Lower bound of the limit, and the limit at first."""
PROBE_S = 10.0
"""Time in seconds after which the latency with room is measured again, if there is none."""


@dataclass
class AdaptiveLimit:
    """The limit, as latencies are added to it.

    Attributes:
        most: upper bound of the limit.
        value: the limit.
    """

    most: int
    value: float = field(init=False)
    _least_s: float = field(default=inf, init=False)
    _window: list[float] = field(default_factory=list, init=False)
    _peak: int = field(default=0, init=False)
    _began: float | None = field(default=None, init=False)
    _probed: float = field(default=-inf, init=False)
    _skip: int | None = field(default=None, init=False)  # requests of a probe that had waited

    def __post_init__(self) -> None:
        self.value = min(START, self.most)

    @property
    def now(self) -> int:
        """The limit in whole requests."""
        return int(self.value) if self._skip is None else min(LEAST, self.most)

    def add(self, took_s: float, ongoing: int, now: float, *, late: bool = False) -> None:
        """Add a request that was answered, or was late.

        Args:
            took_s: its latency in seconds.
            ongoing: requests in flight, with this one.
            now: the time in seconds.
            late: whether it ended at its deadline; if it had less time than requests with room
                take, that says nothing of the pipeline.
        """
        if late and took_s < self._least_s:
            return
        if self._skip is not None:
            if ongoing > LEAST:
                return
            if self._skip:
                self._skip -= 1
                return
        self._window.append(took_s)
        self._peak = max(self._peak, ongoing)
        self._began = now if self._began is None else self._began
        if len(self._window) < WINDOW or (now - self._began < WINDOW_S and self._skip is None):
            return
        usual_s = median(self._window)
        if self._skip is not None:
            self._least_s, self._skip, self._probed = usual_s, None, now
        else:
            self._change(usual_s, now)
        self._window.clear()
        self._peak, self._began = 0, None

    def _change(self, took_s: float, now: float) -> None:
        if took_s < self._least_s:
            self._least_s, self._probed = took_s, now
        gradient = max(LEAST_GRADIENT, min(1.0, TOLERANCE * self._least_s / took_s))
        if gradient == 1.0 and self._peak < self.value / 2:
            return  # nothing is known of more requests than there were
        if gradient < 1.0 and now - self._probed > PROBE_S:
            self._skip = LEAST
        wanted = self.value * gradient + sqrt(self.value)
        value = (1 - SMOOTHING) * self.value + SMOOTHING * wanted
        self.value = min(float(self.most), max(float(min(LEAST, self.most)), value))
