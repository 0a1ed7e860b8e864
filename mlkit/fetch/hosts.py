"""Isolation of hosts from one another: a bulkhead and a circuit breaker for each.

A host that answers slowly, or not at all, holds a bounded number of downloads. After several
consecutive failures its circuit opens for a while; then one download tries it again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import inf
from time import monotonic

__all__ = ["Breaker", "Gate", "Hosts", "RefusedHostError", "Visit"]

MAX_PER_HOST = 32
"""Downloads from one host at a time."""

MAX_HOSTS = 1024
"""Hosts that are remembered, beyond those in use."""

FAILURES = 5
"""Consecutive failures after which the circuit of a host opens."""

OPEN_S, MAX_OPEN_S = 5.0, 60.0
"""Initial and maximum time that it stays open, in seconds; it doubles with each failed trial."""

STALLED_S = 2.0
"""Time without a success, in seconds, after which a host without a free slot is stalled."""


@dataclass
class Visit:
    """A download from a host.

    Attributes:
        trial: whether it tries a host that has failed.
        healthy: whether the host has answered properly; None if the download was cancelled.
    """

    trial: bool = False
    healthy: bool | None = None


@dataclass
class Breaker:
    """Circuit breaker of a host: closed, open, or half open while a trial runs.

    All times are on one clock, in seconds.
    """

    failures: int = 0
    open_s: float = OPEN_S
    open_until: float = -inf
    trial: bool = False
    last_success: float = -inf
    full_since: float = -inf

    def refuses(self, now: float, *, full: bool) -> bool:
        """Whether a download fails at once, instead of waiting for a slot.

        Args:
            now: the time.
            full: whether all slots of the host are taken.
        """
        if self.failures >= FAILURES:
            return self.trial or now < self.open_until
        return full and now - max(self.last_success, self.full_since) > STALLED_S

    def begin(self, now: float) -> Visit | None:
        """Start a download; None if the circuit is open."""
        if self.refuses(now, full=False):
            return None
        self.trial = self.failures >= FAILURES
        return Visit(self.trial)

    def end(self, now: float, visit: Visit) -> None:
        """End a download."""
        if visit.trial:
            self.trial = False
        if visit.healthy:
            self.failures, self.open_s, self.last_success = 0, OPEN_S, now
        elif visit.healthy is not None:
            self.failures += 1
            if self.failures == FAILURES or visit.trial:
                self.open_until = now + self.open_s
                self.open_s = min(2 * self.open_s, MAX_OPEN_S)


class RefusedHostError(Exception):
    """A host is not asked at the moment."""


@dataclass(eq=False)
class Gate:
    """The downloads from one host.

    Attributes:
        now: clock in seconds.
        places: for downloads at a time; others wait in order.
    """

    now: Callable[[], float]
    places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_PER_HOST))
    breaker: Breaker = field(default_factory=Breaker)
    users: int = 0

    @asynccontextmanager
    async def visited(self) -> AsyncIterator[Visit]:
        """Hold a place for a download, which says in the end whether the host is healthy.

        Raises:
            RefusedHostError: the host has failed repeatedly, or has stalled.
        """
        if self.breaker.refuses(self.now(), full=self.places.locked()):
            raise RefusedHostError
        self.users += 1
        try:
            was_full = self.places.locked()
            async with self.places:
                if self.places.locked() and not was_full:
                    self.breaker.full_since = self.now()
                visit = self.breaker.begin(self.now())
                if visit is None:
                    raise RefusedHostError
                try:
                    yield visit
                finally:
                    self.breaker.end(self.now(), visit)
        finally:
            self.users -= 1


class Hosts:
    """The gates of hosts; those of idle hosts are forgotten, the longest unused ones first.

    Args:
        now: clock in seconds.
    """

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        self._gates: OrderedDict[str, Gate] = OrderedDict()

    def gate(self, host: str) -> Gate:
        """Return the gate of a host.

        Args:
            host: its name and port.
        """
        gate = self._gates.get(host)
        if gate is None:
            gate = self._gates[host] = Gate(self._now)
            self._forget()
        self._gates.move_to_end(host)
        return gate

    def _forget(self) -> None:
        excess = len(self._gates) - MAX_HOSTS
        if excess > 0:
            idle = [host for host, gate in self._gates.items() if not gate.users]
            for host in idle[: min(excess, len(idle) - 1)]:  # the last one is new
                del self._gates[host]
