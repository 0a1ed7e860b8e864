"""Ends a replica whose event loop no longer comes round.

A step that holds the interpreter, or an async step that blocks the event loop, stops everything in
its process: requests, their deadlines, and the answers to Serve's health checks, of which Serve
waits for three, of 30 s each. The guard is a timer of `faulthandler`, a thread in C that needs
no interpreter. The event loop sets it again every second; if that stays out for longer than any
request may take, it writes the stacks of all threads to the replica's log and ends the process,
which Serve replaces.
"""

from __future__ import annotations

import asyncio
import faulthandler
from collections.abc import Awaitable, Callable
from typing import Protocol

__all__ = ["STANDSTILL_S", "LoopGuard", "Timer"]

PERIOD_S = 1.0
STDERR = 2

STANDSTILL_S = 5.0
"""Time in seconds, beyond the request timeout, after which a standstill ends the process; longer
than what a busy machine may keep from it."""


class Timer(Protocol):
    """What ends the process, as `faulthandler` does."""

    def arm(self, seconds: float) -> None:
        """End the process in some seconds, instead of when it was to be ended before."""

    def disarm(self) -> None:
        """Do not end the process."""


class _Faulthandler:
    def arm(self, seconds: float) -> None:
        # `sys.stderr` may be an object without a file.
        faulthandler.dump_traceback_later(seconds, exit=True, file=STDERR)

    def disarm(self) -> None:
        faulthandler.cancel_dump_traceback_later()


class LoopGuard:
    """Ends this process if its event loop stands still.

    Args:
        limit_s: returns after how many seconds; None while it must not, as when a model is loaded.
        timer: what ends it.
        sleep: waits for some seconds.
    """

    def __init__(
        self,
        limit_s: Callable[[], float | None],
        timer: Timer | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._limit_s = limit_s
        self._timer = timer or _Faulthandler()
        self._sleep = sleep

    def beat(self) -> None:
        """Set the timer again."""
        limit_s = self._limit_s()
        if limit_s is None:
            self._timer.disarm()
        else:
            self._timer.arm(limit_s)

    async def run(self) -> None:
        """Set the timer every second, until this is cancelled."""
        try:
            while True:
                self.beat()
                await self._sleep(PERIOD_S)
        finally:
            self._timer.disarm()
