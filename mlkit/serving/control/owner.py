"""The process for which a session lives."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

__all__ = ["Owner"]


@dataclass(frozen=True)
class Owner:
    """A process, told from a later one of the same id by when it started."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> Owner:
        """Return the process of that id, which runs."""
        return cls(pid, psutil.Process(pid).create_time())

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 1
            return bool(same and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.Error:
            return False
