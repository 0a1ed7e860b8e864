"""How many cores there are to work with, and how threads share them."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["cores", "default_workers", "prompt_switching", "switch_promptly", "usual_workers"]

SPARE_WORKERS = 2

SWITCH_INTERVAL_S = 0.0005
"""Time that a thread keeps the interpreter once others want it; Python's own default is 5 ms."""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers() -> int:
    """Threads for plain and batched steps.

    Two more than cores: while one waits for the interpreter, or for its turn at a model, a core
    would stand idle.
    """
    return cores() + SPARE_WORKERS


def usual_workers() -> int:
    """How many of the default workers are busy where calls are short and work does not pile up.

    One spare fills most of the gaps. A second one would take more time from older requests, for the
    sake of younger ones, than it finds.
    """
    return cores() + 1


def switch_promptly() -> None:
    """Have the threads of this process hand over the interpreter soon, for good.

    At 5 ms a thread in Python code keeps another, just back from a model, waiting for as long as
    a whole request takes.
    """
    sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL_S))


_lock = threading.Lock()
_depth = 0
_before = 0.0


@contextmanager
def prompt_switching() -> Iterator[None]:
    """As `switch_promptly`, until the last that asked for it is through."""
    global _depth, _before
    with _lock:
        if not _depth:
            _before = sys.getswitchinterval()
        _depth += 1
        switch_promptly()
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if not _depth:
                sys.setswitchinterval(_before)
