"""Cleans up after a session that is killed; run as a script beside each session.

Ray's core processes end with the process that started them; HAProxy and Ray's agents do not. The
watchdog holds the reading end of a pipe whose writing end only the session has. When it closes, the
watchdog ends all processes with the session's mark in their environment.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

__all__ = ["limit", "processes_of", "start", "sweep"]


def start(folder: Path) -> subprocess.Popen[bytes]:
    """Start the process that cleans up if this one, of the session with this folder, is killed."""
    reading, writing = os.pipe()
    environment = {k: v for k, v in os.environ.items() if k != "MLKIT_SESSION"}
    process = subprocess.Popen(
        [sys.executable, __file__, folder.name, str(folder), str(reading)],
        pass_fds=[reading],
        env=environment,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(reading)
    os.set_inheritable(writing, False)  # it stays open as long as this process runs
    return process


def processes_of(session: str) -> list[psutil.Process]:
    """Return a session's processes, by the mark in their environment, except this one."""
    marked = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("MLKIT_SESSION") == session:
                marked.append(process)
        except psutil.Error:
            continue
    return marked


def sweep(session: str, *, grace_s: float = 3.0) -> int:
    """Terminate a session's processes, kill those left after ``grace_s``; return their number."""
    processes = processes_of(session)
    for process in processes:
        with suppress(psutil.Error):
            process.terminate()
    psutil.wait_procs(processes, timeout=grace_s)
    for process in processes_of(session):
        with suppress(psutil.Error):
            process.kill()
    return len(processes)


def limit(seconds: float) -> None:
    """Kill this process after some time, even if it hangs outside of Python."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def main(session: str, folder: str, pipe: str) -> None:
    while os.read(int(pipe), 1):
        pass
    time.sleep(0.2)  # a session that ends normally has cleaned up by then
    sweep(session)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
