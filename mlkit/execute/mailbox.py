"""Thread-safe calls into event loops, with coalesced wake-ups."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Mailbox", "Mailboxes"]


class Mailbox:
    """Calls to make in a loop's thread, with one wake-up for all that are posted before it runs.

    A wake-up is a system call, and it takes the GIL from the thread that posts.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._lock = threading.Lock()
        self._calls: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    def post(self, call: Callable[..., None], *args: Any) -> bool:
        """Schedule a call in the loop; False if it is closed.

        An exception goes to the loop's exception handler; later calls are still made.
        """
        with self._lock:
            if not self._calls:
                try:
                    self.loop.call_soon_threadsafe(self._deliver)
                except RuntimeError:
                    return False
            elif self.loop.is_closed():  # with calls left that it never made
                return False
            self._calls.append((call, args))
            return True

    def _deliver(self) -> None:
        with self._lock:
            calls, self._calls = self._calls, []
        for call, args in calls:
            try:
                call(*args)
            except Exception as error:
                self.loop.call_exception_handler(
                    {"message": f"exception in {call!r}", "exception": error}
                )


class Mailboxes:
    """One mailbox per event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._boxes: dict[asyncio.AbstractEventLoop, Mailbox] = {}

    def post(self, loop: asyncio.AbstractEventLoop, call: Callable[..., None], *args: Any) -> bool:
        """Make a call in a loop, at once if it runs in this thread; False if it is closed."""
        if _running_loop() is loop:
            call(*args)
            return True
        box = self._boxes.get(loop)
        if box is None:
            with self._lock:
                for closed in [other for other in self._boxes if other.is_closed()]:
                    del self._boxes[closed]
                box = self._boxes.setdefault(loop, Mailbox(loop))
        return box.post(call, *args)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
