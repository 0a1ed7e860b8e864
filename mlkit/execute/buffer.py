"""A buffer between the generator of a request that streams and its consumer.

The generator runs at most `AHEAD` items ahead of its consumer. A request that streams may take any
time as a whole: its deadline is for the first item, and is renewed with each one that is taken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any

__all__ = ["AHEAD", "Buffer"]

AHEAD = 16
"""Maximum number of items that have been made and not taken."""


class Buffer:
    """Items that have been made and not taken. Used under the executor's lock.

    Args:
        on_item: called, without the lock, when there are items again.
        idle_s: maximum time between two items, in seconds; None for no limit.
        now: clock in seconds, that of the request's deadline.
    """

    __slots__ = ("_idle_s", "_items", "_now", "on_item", "resume")

    def __init__(
        self,
        on_item: Callable[[], object],
        idle_s: float | None = None,
        now: Callable[[], float] = perf_counter,
    ) -> None:
        self.on_item = on_item
        self.resume: Callable[[], object] | None = None
        self._idle_s = idle_s
        self._now = now
        self._items: deque[Any] = deque()

    def put(self, item: Any, resume: Callable[[], object]) -> bool:
        """Add an item; return whether it is the first to take.

        Args:
            item: the item.
            resume: called once the generator may go on; kept only if the buffer is full.
        """
        self._items.append(item)
        if len(self._items) >= AHEAD:
            self.resume = resume
        return len(self._items) == 1

    def take(self) -> tuple[list[Any], Callable[[], object] | None]:
        """Remove and return all items, and what lets the generator go on, if it waits."""
        items = list(self._items)
        self._items.clear()
        resume, self.resume = self.resume, None
        return items, resume

    def deadline(self) -> float | None:
        """Return the deadline of the next item; None for none."""
        return None if self._idle_s is None else self._now() + self._idle_s
