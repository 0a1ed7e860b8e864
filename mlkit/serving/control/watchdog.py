"""Ends what a session leaves behind when it is killed: run as a script beside each session.

Ray's core processes end with the process that started them; HAProxy and Ray's agents do not. The
watchdog holds the reading end of a pipe whose writing end only the session has. When that closes,
it ends every process that carries the session's mark in its environment.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import psutil

__all__ = ["processes_of", "sweep"]


def processes_of(session: str) -> list[psutil.Process]:
    """Processes started by a session, by the mark in their environment; not this one."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("MLKIT_SESSION") == session:
                found.append(process)
        except psutil.Error:
            continue
    return found


def sweep(session: str, *, grace_s: float = 3.0) -> int:
    """End a session's processes, gently first; how many there were."""
    left = processes_of(session)
    count = len(left)
    for process in left:
        _quietly(process.terminate)
    psutil.wait_procs(left, timeout=grace_s)
    for process in processes_of(session):
        _quietly(process.kill)
    return count


def _quietly(act: Callable[[], object]) -> None:
    with suppress(psutil.Error):
        act()


def main(session: str, folder: str, pipe: str) -> None:
    while os.read(int(pipe), 1):
        pass
    # A session that ends in order has stopped everything and removed its folder.
    time.sleep(0.2)
    sweep(session)
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
