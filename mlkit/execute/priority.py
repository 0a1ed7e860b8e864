"""Admission and order of requests: by deadline and priority, without starvation."""

from __future__ import annotations

from enum import IntEnum

from mlkit.errors import InputError

__all__ = ["HORIZON_S", "Priority", "places", "rank"]

HORIZON_S = 10.0
"""How far ahead deadlines count, and how long a priority lasts, in seconds."""


class Priority(IntEnum):
    """Class of a request; a lower value goes first."""

    INTERACTIVE = 0
    """A client waits for the result."""
    BULK = 1
    """Part of a batch job; it yields to interactive requests that arrive within `HORIZON_S`."""

    @classmethod
    def named(cls, name: str) -> Priority:
        """Return the priority with a name.

        Raises:
            InputError: there is none.
        """
        known = {priority.name.lower(): priority for priority in cls}
        if name not in known:
            raise InputError("unknown priority", expected=" or ".join(known), got=f"{name!r:.40}")
        return known[name]


def rank(began: float, deadline: float | None, priority: Priority) -> float:
    """Return the place of a request in its queues: those with a lower rank go first.

    It is when the request should be served: at its deadline, or `HORIZON_S` after its arrival if
    that is sooner or there is no deadline, and `HORIZON_S` later for each class of priority. Ranks
    never change, yet they age: a request is only passed by those that come within ``2 * HORIZON_S``
    of it. No deadline takes a request past one of a higher class that came at the same time.

    Args:
        began: arrival of the request, on the clock of its deadline.
        deadline: its deadline; None for none.
        priority: its class.
    """
    late = began + HORIZON_S
    due = late if deadline is None or deadline > late else deadline
    return due + HORIZON_S * priority if priority else due


def places(limit: int, priority: Priority) -> int:
    """Return how many requests may be in flight when one is admitted.

    The last quarter of the limit is kept for interactive requests: a job does not shut them out.

    Args:
        limit: maximum number of requests in flight.
        priority: class of the request.
    """
    return limit - limit // 4 if priority is Priority.BULK else limit
