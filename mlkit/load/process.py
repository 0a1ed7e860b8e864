"""The generator's process, managed by its parent."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mlkit.errors import LoadError
from mlkit.load.job import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Progress", "WorkerProcess", "WorkerReport"]

KILL_AFTER_S = 5.0


class Progress(NamedTuple):
    """Progress of a load test, warm-up requests included.

    ``elapsed_s`` counts from the start of the measured part; it is negative during the warm-up.
    """

    elapsed_s: float
    sent: int = 0
    answered: int = 0
    failed: int = 0
    in_flight: int = 0


class WorkerReport(NamedTuple):
    """The process's final report: facts, the columns of its log, and bodies by media type.

    ``item_times`` are those of all requests that stream, request by request.
    """

    facts: dict[str, Any]
    columns: dict[str, array[Any]]
    item_times: array[float]
    bodies: list[tuple[str, bytes]]


class WorkerProcess:
    """A generator process, and a thread that reads its messages.

    Args:
        job: from `mlkit.load.job.pack`.
        target: the server, for messages.
        warmup_s: for the progress before the first message.
        on_interval: gets the figures of each interval of a test with a bounded log.
    """

    def __init__(
        self,
        job: Iterable[bytes],
        *,
        target: str,
        warmup_s: float,
        on_interval: Callable[[dict[str, Any]], None] = lambda figures: None,
    ) -> None:
        self._on_interval = on_interval
        self.progress = Progress(elapsed_s=-warmup_s)
        self.ended = threading.Event()
        self._outcome: WorkerReport | None = None
        self._problem: str | None = None
        self._unreachable: str | None = None
        self._target = target
        self._lock = threading.Lock()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the reader ends
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "mlkit.load.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=_environment(),
            start_new_session=True,  # the notebook's interrupt goes to its whole process group
        )
        self._feed(job)
        threading.Thread(target=self._listen, name="mlkit-load", daemon=True).start()

    @property
    def pid(self) -> int:
        """Process id of the generator."""
        return self._process.pid

    def stop(self) -> None:
        """Ask it to stop sending and to report."""
        self._tell(b"stop\n")

    def steer(self, rate: float) -> None:
        """Change the rate of a steered run."""
        self._tell(f"{rate!r}\n".encode())

    def kill(self) -> None:
        """Kill it, without a report."""
        self._process.kill()

    def outcome(self) -> WorkerReport:
        """Its report; call this when `ended` is set.

        Raises:
            LoadError: the target is unreachable, or the process died.
        """
        if self._unreachable is not None:
            raise LoadError(
                f"nothing answers at {self._target}",
                got=self._unreachable,
                fix="is it running, and is the URL right?",
            )
        if self._outcome is None:
            raise LoadError(
                "the load test could not be run",
                got=self._problem or "the generator's process ended without a report",
            )
        return self._outcome

    def _feed(self, job: Iterable[bytes]) -> None:
        assert self._process.stdin is not None
        # If it died already, the listener says so.
        with contextlib.suppress(BrokenPipeError):
            for part in job:
                self._process.stdin.write(part)
            self._process.stdin.flush()

    def _tell(self, command: bytes) -> None:
        assert self._process.stdin is not None
        with self._lock, contextlib.suppress(BrokenPipeError, ValueError):
            self._process.stdin.write(command)
            self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            with self._process.stdout as messages:
                for line in messages:
                    self._handle(json.loads(line))
                    if self._outcome is not None:
                        break
        except Exception as error:  # a report cut short: the process was killed
            self._problem = f"its report was cut short ({error})"
            self._outcome = None
        finally:
            with self._lock, contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            self._reap()
            self.ended.set()

    def _handle(self, message: dict[str, Any]) -> None:
        event = message.pop("event")
        if event == "progress":
            self.progress = Progress(**message)
        elif event == "interval":
            self._on_interval(message)
        elif event == "failed":
            self._unreachable = message["reason"]
        elif event == "done":
            rows = message["rows"]
            columns = {name: self._read_column(name, code, rows) for name, code in COLUMNS.items()}
            item_times = self._read_column("item_times", "d", sum(columns["items"]))
            bodies = self._read_bodies(message["bodies"])
            self._outcome = WorkerReport(message, columns, item_times, bodies)

    def _read_column(self, name: str, code: str, rows: int) -> array[Any]:
        assert self._process.stdout is not None
        column: array[Any] = array(code)
        column.frombytes(self._process.stdout.read(rows * column.itemsize))
        if len(column) != rows:
            raise EOFError(f"column {name}")
        return column

    def _read_bodies(self, sizes: list[tuple[str, int]]) -> list[tuple[str, bytes]]:
        assert self._process.stdout is not None
        return [(media_type, self._process.stdout.read(size)) for media_type, size in sizes]

    def _reap(self) -> None:
        try:
            self._process.wait(KILL_AFTER_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with self._stderr as file:
            file.seek(0)
            last = file.read().decode("utf-8", "replace").strip().splitlines()[-1:]
        if last and self._problem is None:
            self._problem = last[0]


def _environment() -> dict[str, str]:
    # The child must import this very mlkit, and with -P nothing from the working directory.
    root = str(Path(__file__).parents[2])
    path = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
