"""The process that a session belongs to."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

__all__ = ["Owner"]


@dataclass(frozen=True)
class Owner:
    """A process, identified by its id and start time."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> Owner:
        """Return the running process with this id."""
        return cls(pid, psutil.Process(pid).create_time())

    @property
    def alive(self) -> bool:
        """Whether it is running."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 1
            return bool(same and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.Error:
            return False
