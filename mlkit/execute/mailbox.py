"""The way from the executor's threads into an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Mailbox", "Mailboxes"]


class Mailbox:
    """Calls to be made in a loop's thread, with one wake-up for all that come before it looks.

    A wake-up is a system call, and it takes the interpreter from whoever posts.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._lock = threading.Lock()
        self._calls: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    def post(self, call: Callable[..., None], *args: Any) -> bool:
        """Have the loop make a call soon; False if it is closed.

        An exception goes to the loop's exception handler; the calls after it are made all the same.
        """
        with self._lock:
            if not self._calls:
                try:
                    self.loop.call_soon_threadsafe(self._deliver)
                except RuntimeError:
                    return False
            elif self.loop.is_closed():  # with calls that it never got to
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
    """A mailbox for each loop that something is posted to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._boxes: dict[asyncio.AbstractEventLoop, Mailbox] = {}

    def post(self, loop: asyncio.AbstractEventLoop, call: Callable[..., None], *args: Any) -> bool:
        """Make a call in a loop: now where that one runs in this thread. False if it is closed."""
        if _running_loop() is loop:
            call(*args)
            return True
        box = self._boxes.get(loop)
        if box is None:
            with self._lock:
                for closed in [known for known in self._boxes if known.is_closed()]:
                    del self._boxes[closed]
                box = self._boxes.setdefault(loop, Mailbox(loop))
        return box.post(call, *args)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
