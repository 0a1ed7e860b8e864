"""Detects replicas in which a function blocks the interpreter, and kills them.

Such a process answers nothing, its own health check included. Serve would replace it after three
checks of 30 s.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

__all__ = ["Sign", "Vigil", "kill", "signs"]

logger = logging.getLogger(__name__)

EVERY_S = 0.5
BUSY_SHARE = 0.5
"""Share of the allowed silence that a process must have computed in it. One that is paused, or
gets no CPU, is silent as well, but not to blame."""


class Sign(NamedTuple):
    """A replica's sign of life; see `mlkit.serving.replica.pulse`.

    Attributes:
        beat: when it was written, in seconds since the epoch.
        silence_s: longest silence that is in order.
        cpu_s: CPU time that the process has used.
    """

    beat: float
    silence_s: float
    cpu_s: float


class Vigil:
    """Watches the signs of life of a session's replicas.

    Args:
        signs: returns the current ones by process id.
        kill: kills a replica.
        clock: clock in seconds.
    """

    def __init__(
        self,
        signs: Callable[[], Mapping[int, Sign]],
        kill: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._signs, self._kill, self._clock = signs, kill, clock
        self._last: dict[int, tuple[float, Sign]] = {}
        """Each process when its last beat was first seen, and then."""

    def look(self) -> None:
        """Kill the replicas whose interpreter is blocked."""
        signs, now = self._signs(), self._clock()
        self._last = {
            pid: self._last[pid]
            if pid in self._last and self._last[pid][1].beat == sign.beat
            else (now, sign)
            for pid, sign in signs.items()
        }
        for pid, (since, last) in list(self._last.items()):
            sign = signs[pid]
            silent_s, computed_s = now - since, sign.cpu_s - last.cpu_s
            if silent_s > sign.silence_s and computed_s > BUSY_SHARE * sign.silence_s:
                logger.warning("replica %d held its interpreter for %.1f s: killed", pid, silent_s)
                self._kill(pid)
                del self._last[pid]

    async def run(self) -> None:
        """Look periodically until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                self.look()
            except Exception:
                logger.warning("cannot look at the replicas' pulses", exc_info=True)


def signs(folder: Path, session: str) -> dict[int, Sign]:
    """Return the signs of life in a folder; delete those of processes that have ended.

    Args:
        folder: of the files.
        session: mark in the environment of the session's processes.
    """
    return dict(_signs(folder, session))


def _signs(folder: Path, session: str) -> Iterator[tuple[int, Sign]]:
    for file in folder.iterdir():
        try:
            process = psutil.Process(int(file.name))
            if process.environ().get("MLKIT_SESSION") == session:
                beat, times = file.stat().st_mtime, process.cpu_times()
                sign = Sign(beat, float(file.read_text()), times.user + times.system)
                yield process.pid, sign
        except psutil.NoSuchProcess:
            file.unlink(missing_ok=True)
        except (OSError, ValueError, psutil.Error):
            continue  # being written, or deleted


def kill(pid: int) -> None:
    """Kill a process, if it is still there."""
    with suppress(psutil.Error):
        psutil.Process(pid).kill()
