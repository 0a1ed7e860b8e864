"""Turns: what one call at a time may use, whether it runs in a thread or on an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager

__all__ = ["Turn", "in_turn", "in_turn_async"]


class Turn:
    """A lock for threads and coroutines alike, in order of arrival."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False
        self._waiting: deque[Future[None]] = deque()

    def _ask(self) -> Future[None]:
        """Return a future that is done when it is the caller's turn."""
        turn: Future[None] = Future()
        with self._lock:
            if self._taken:
                self._waiting.append(turn)
            else:
                self._taken = True
                turn.set_result(None)
        return turn

    def take(self) -> None:
        """Wait for the turn, in a thread."""
        turn = self._ask()
        try:
            turn.result()
        except BaseException:  # interrupted
            self._give_up(turn)
            raise

    async def take_async(self) -> None:
        """Wait for the turn, on an event loop."""
        turn = self._ask()
        try:
            await asyncio.wrap_future(turn)
        except BaseException:  # cancelled
            self._give_up(turn)
            raise

    def pass_on(self) -> None:
        """End the turn; the next one begins."""
        with self._lock:
            while self._waiting:
                turn = self._waiting.popleft()
                if turn.set_running_or_notify_cancel():
                    turn.set_result(None)
                    return
            self._taken = False

    def _give_up(self, turn: Future[None]) -> None:
        if not turn.cancel():  # it has come meanwhile
            self.pass_on()


@contextmanager
def in_turn(turns: Sequence[Turn]) -> Iterator[None]:
    """Hold several turns, in a thread. All callers take them in the same order."""
    taken: list[Turn] = []
    try:
        for turn in turns:
            turn.take()
            taken.append(turn)
        yield
    finally:
        for turn in taken:
            turn.pass_on()


@asynccontextmanager
async def in_turn_async(turns: Sequence[Turn]) -> AsyncIterator[None]:
    """Hold several turns, on an event loop. All callers take them in the same order."""
    taken: list[Turn] = []
    try:
        for turn in turns:
            await turn.take_async()
            taken.append(turn)
        yield
    finally:
        for turn in taken:
            turn.pass_on()
