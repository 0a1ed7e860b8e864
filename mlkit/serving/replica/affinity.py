"""Which replica of a stage a call goes to, so that it meets a model that is in memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from hashlib import blake2b

__all__ = ["by_preference", "model_key"]

BALANCE = 1.25
"""Requests that a replica may have in flight, as a multiple of the mean of all replicas."""

SMALL_QUEUE = 8
"""Requests in flight up to which a replica is never passed over: about one batch."""


def model_key(id: str) -> str:
    """Return a short key of a model's id, whatever characters and length a client gives it."""
    return blake2b(id.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def by_preference(key: str, in_flight: Mapping[str, int]) -> list[str]:
    """Order the replicas of a stage for a call that uses a model.

    Each model prefers its replicas in an order of its own, by rendezvous hashing (Thaler and
    Ravishankar, 1998): all callers agree on it without asking, so that the first holds the model,
    and a new replica takes over its share of the models only. A replica with many more requests in
    flight than the others comes last (Mirrokni et al., 2016, consistent hashing with bounded
    loads), so that a model in demand is loaded by a second replica, and a third.

    Args:
        key: that of the model; see `model_key`.
        in_flight: requests of each replica, by its id.
    """
    mean = (sum(in_flight.values()) + 1) / len(in_flight) if in_flight else 0.0
    limit = max(SMALL_QUEUE, math.ceil(BALANCE * mean))
    return sorted(_ranked(key, in_flight), key=lambda replica: in_flight[replica] >= limit)


def _ranked(key: str, replicas: Iterable[str]) -> list[str]:
    def weight(replica: str) -> bytes:
        return blake2b(f"{key} {replica}".encode(), digest_size=8).digest()

    return sorted(replicas, key=weight)
