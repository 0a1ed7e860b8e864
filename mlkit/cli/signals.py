"""Signals that end a server."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["ignore_signals", "interrupt_on_signals"]


@contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM, and on SIGINT even if a shell has it ignored."""
    names = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(name, _interrupt) for name in names]
    try:
        yield
    finally:
        for name, handler in zip(names, before, strict=True):
            signal.signal(name, handler)


def _interrupt(number: int, frame: Any) -> None:
    ignore_signals()  # further signals must not interrupt the shutdown
    raise KeyboardInterrupt


def ignore_signals() -> None:
    """Ignore them from now on."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
