"""Whose CPU: processes found by a mark in their environment, and the time they took."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple

import psutil

__all__ = ["CpuTimes", "cpu_times", "end", "marked", "role", "spent"]


class Known(NamedTuple):
    """A process, told from a later one of the same id by when it started."""

    pid: int
    started: float
    role: str


CpuTimes = Mapping[Known, float]
"""Seconds of CPU, user and system, that each process has taken so far."""

ROUNDS = 5

_ROLES = (
    ("ServeController", "Serve's controller"),
    ("ServeReplica", "replica"),
    ("Proxy", "proxy"),
    ("haproxy", "HAProxy"),
    ("gcs_server", "GCS"),
    ("raylet", "raylet"),
    ("Agent", "agents"),
    ("agent", "agents"),
    ("log_monitor", "log monitor"),
    ("mlkit.serving.port", "session"),
    ("watchdog", "watchdog"),
)


def marked(variable: str, value: str) -> list[psutil.Process]:
    """Processes that have ``variable=value`` in their environment."""
    marked = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(variable) == value:
                marked.append(process)
    return marked


def role(name: str, command: Iterable[str]) -> str:
    """What a process of a session is, as a person would call it."""
    # Ray's agents name the raylet among their arguments: what is run stands first.
    words = list(command)
    for said in (name, " ".join(words[:1]), " ".join(words[:3])):
        for part, called in _ROLES:
            if part in said:
                return called
    return "other"


def cpu_times(processes: Iterable[psutil.Process]) -> CpuTimes:
    """CPU time of processes; those that are gone are left out."""
    seconds: dict[Known, float] = {}
    for process in processes:
        with suppress(psutil.Error, OSError):
            with process.oneshot():
                times = process.cpu_times()
                called = role(process.name(), process.cmdline())
                known = Known(process.pid, process.create_time(), called)
            seconds[known] = times.user + times.system
    return seconds


def spent(before: CpuTimes, after: CpuTimes) -> dict[str, float]:
    """Seconds of CPU between two looks, by role, most first; a process that came between counts."""
    total: dict[str, float] = defaultdict(float)
    for known, seconds in after.items():
        total[known.role] += seconds - before.get(known, 0.0)
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def end(variable: str, value: str, *, grace_s: float = 3.0) -> None:
    """End the processes with a mark, gently first."""
    processes = marked(variable, value)
    for process in processes:
        with suppress(psutil.Error):
            process.terminate()
    psutil.wait_procs(processes, timeout=grace_s)
    for _ in range(ROUNDS):  # what is ended may have started others while it was
        left = marked(variable, value)
        if not left:
            return
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=1)
