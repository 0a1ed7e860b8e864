"""Available cores, and how threads share them."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["cores", "default_workers", "prompt_switching", "switch_promptly", "usual_workers"]

SPARE_WORKERS = 2

SWITCH_INTERVAL_S = 0.0005
"""How long a thread may hold the GIL while others wait for it; Python's default is 5 ms."""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers() -> int:
    """Default number of threads for plain and batched steps.

    Two more than cores: a thread that waits for the GIL, or for a lock of a model, would leave a
    core idle.
    """
    return cores() + SPARE_WORKERS


def usual_workers() -> int:
    """How many of the default workers may be busy while calls are short and queues do not grow.

    One spare uses most of the idle time of cores. A second one would slow older requests by more
    than it speeds up newer ones.
    """
    return cores() + 1


def switch_promptly() -> None:
    """Shorten the GIL's switch interval in this process, permanently.

    With 5 ms, a thread in Python code delays another that returns from a model by as much as a
    whole request takes.
    """
    sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL_S))


_lock = threading.Lock()
_depth = 0
_before = 0.0


@contextmanager
def prompt_switching() -> Iterator[None]:
    """As `switch_promptly`, until the last such context exits."""
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
