"""Interrupts that end the story in order: whatever was started is ended."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interrupts"]


class Interrupts:
    """While it is entered, SIGINT and SIGTERM raise KeyboardInterrupt, once.

    Load tests and maps answer to it by returning what they have; `check` afterwards goes on ending.
    Those that come later are noted and passed over: what was started is being ended already.
    """

    def __init__(self) -> None:
        self.seen = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Callable[[], None]:
        for name in (signal.SIGINT, signal.SIGTERM):
            self._before[name] = signal.signal(name, self._note)
        return self.check

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.seen:
            sys.stderr.write("still ending what was started\n")
            return
        self.seen = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Go on ending, when somebody who caught the interrupt did not.

        Raises:
            KeyboardInterrupt: there was an interrupt.
        """
        if self.seen:
            raise KeyboardInterrupt
