"""A replica's sign of life: a file that a thread of it writes again and again."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["BEAT_S", "PULSES", "Pulse"]

PULSES = "pulses"
"""Subfolder of a session's folder for these files."""

BEAT_S = 0.25
"""Time between two beats in seconds."""


class Pulse:
    """Shows whether threads of this process get to run; thread-safe.

    A thread writes a file, named by the process id, every `BEAT_S`. It cannot while a function
    holds the interpreter, so the file grows old; `mlkit.serving.control.vigil` looks at that from
    outside. The content is the longest silence that is in order, in seconds. There is no file
    before `expect` is called, nor while something is loaded, which may hold the interpreter for
    long.

    Args:
        folder: where the file is written; nothing is if there is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / str(os.getpid()) if folder.is_dir() else None
        self._lock = threading.Lock()
        self._silence_s: float | None = None
        self._pauses = 0
        self._stopped = threading.Event()

    def start(self) -> None:
        """Beat in a thread until `stop`."""
        if self._path is not None:
            threading.Thread(target=self._run, name="mlkit-pulse", daemon=True).start()

    def expect(self, silence_s: float) -> None:
        """Set the longest silence that is in order, in seconds."""
        self._silence_s = silence_s
        self.beat()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Not show anything during the block."""
        self._pause(1)
        try:
            yield
        finally:
            self._pause(-1)

    def beat(self) -> None:
        """Write the file, or delete it during a pause."""
        if self._path is None:
            return
        with self._lock, suppress(OSError):  # such as a full disk
            if self._pauses or self._silence_s is None or self._stopped.is_set():
                self._path.unlink(missing_ok=True)
            else:
                self._path.write_text(str(self._silence_s))

    def stop(self) -> None:
        """Delete the file permanently."""
        self._stopped.set()
        self.beat()

    def _pause(self, change: int) -> None:
        with self._lock:
            self._pauses += change
        self.beat()

    def _run(self) -> None:
        while not self._stopped.wait(BEAT_S):
            self.beat()
