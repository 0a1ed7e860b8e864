"""Eviction: which models a pool drops, as a function of those in memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Resident", "victims"]


@dataclass(frozen=True)
class Resident:
    """A model in memory, or one that is being loaded.

    Attributes:
        nbytes: its size.
        used_at: when it was used last, by the clock of the pool.
        kept: whether it is pinned or in use.
    """

    id: str
    nbytes: int
    used_at: float
    kept: bool = False


def victims(residents: Iterable[Resident], room: int) -> tuple[str, ...] | None:
    """Return the models to drop, the least recently used first; none if there is room.

    Args:
        residents: all of them.
        room: bytes that those that stay may take.

    Returns:
        None if those that are kept take more than that.
    """
    residents = sorted(residents, key=lambda resident: resident.used_at)
    excess = sum(resident.nbytes for resident in residents) - room
    dropped = []
    for resident in residents:
        if excess <= 0:
            break
        if not resident.kept and resident.nbytes:
            excess -= resident.nbytes
            dropped.append(resident.id)
    return tuple(dropped) if excess <= 0 else None
