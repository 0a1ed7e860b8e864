"""When a request that got no answer is sent again."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

__all__ = ["ATTEMPT", "MAX_RETRIES", "RECEIVED", "UNREACHED", "Retries", "RetryBudget"]

ATTEMPT = "X-Mlkit-Attempt"
"""Header of a client that sends lost requests again: 1, and one more with each retry. The front end
leaves retries to it."""

RECEIVED = "X-Mlkit-Received"
"""Header with the time at which the front end received a request, in microseconds since the epoch:
its deadline counts from then, whichever replica answers in the end."""

UNREACHED = "X-Mlkit-Unreached"
"""Header of the front end's own 503: it has reached no replica, as when all of them died at once.
Other than one that is full, it has another a moment later."""

MAX_RETRIES = 2
"""Retries of one request at most."""

BACKOFF_S = 0.1
"""Mean wait before the first retry in seconds; it doubles with each."""

BUDGET, BUDGET_SHARE = 50.0, 0.2
"""Retries in a row at most, and for each further request."""


class RetryBudget:
    """Token bucket of the retries of all requests to one target; thread-safe.

    It allows a burst, as when a replica dies with what it was working on, but not to multiply the
    requests to a target that is down.

    Args:
        capacity: retries in a row at most.
        share: retries for each request, on average over time.
    """

    def __init__(self, capacity: float = BUDGET, share: float = BUDGET_SHARE) -> None:
        self._lock = threading.Lock()
        self._tokens = self._capacity = capacity
        self._share = share

    def earn(self) -> None:
        """Count a new request."""
        with self._lock:
            self._tokens = min(self._capacity, self._tokens + self._share)

    def spend(self) -> bool:
        """Take one retry; False if none is left."""
        with self._lock:
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True


class Retries:
    """The retries of one request.

    Only failures without an answer are retried: the connection was lost, the replica died, or none
    was reached.
    Whether such a request was run is unknown, so it must be idempotent. What was answered, an
    overload included, and what took too long is never sent again.

    Args:
        budget: that of all requests to the target.
        idempotent: whether the request may be run twice.
        uniform: random number from a range, for the waits.
    """

    def __init__(
        self,
        budget: RetryBudget,
        *,
        idempotent: bool,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        budget.earn()
        self._budget = budget
        self._left = MAX_RETRIES if idempotent else 0
        self._uniform = uniform
        self._backoff_s = BACKOFF_S

    def wait_s(self, left_s: float) -> float | None:
        """Return the delay before the next retry in seconds; None if there is no further retry.

        Args:
            left_s: seconds to the deadline of the request.
        """
        wait_s = self._uniform(0.5, 1.5) * self._backoff_s
        if not self._left or wait_s >= left_s or not self._budget.spend():
            return None
        self._left -= 1
        self._backoff_s *= 2
        return wait_s
