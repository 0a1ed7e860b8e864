"""Sessions of measurements, and their processes."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import psutil

from benchmarks.swap import within
from mlkit.serving.control.watchdog import processes_of
from mlkit.serving.kernel.session import Session

__all__ = ["DEPLOY_S", "in_session", "left_after", "listens", "named"]

DEPLOY_S = 300.0
"""Time after which a deployment is an error, in seconds."""


@contextmanager
def in_session() -> Iterator[Session]:
    """Apps of the block share a session, which ends with it."""
    session = Session.of_this_notebook() or within(DEPLOY_S, "the start of Ray", Session.start)
    try:
        yield session
    finally:
        session.stop()


def named(session: str, title: str) -> list[psutil.Process]:
    """Return the processes of a session whose command line has a text, oldest first."""
    found = []
    for process in processes_of(session):
        try:
            if title in " ".join(process.cmdline()):
                found.append((process.create_time(), process))
        except psutil.Error:
            continue
    return [process for _, process in sorted(found, key=lambda pair: pair[0])]


def listens(port: int) -> bool:
    """Whether something accepts connections at a port of this machine."""
    with closing(socket.socket()) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def left_after(
    seconds: float,
    session: str,
    port: int,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[float, int, bool]:
    """Wait until a session has no process and its port is free.

    Args:
        seconds: how long to wait at most.
        session: name of the session.
        port: port of its front end.
        sleep: waits.
        clock: clock in seconds.

    Returns:
        how long it took, the processes that are left, and whether something listens at the port.
    """
    start = clock()
    while True:
        left, listening = len(processes_of(session)), listens(port)
        elapsed = clock() - start
        if (not left and not listening) or elapsed > seconds:
            return elapsed, left, listening
        sleep(0.2)
