"""Capture of replicas' output and failures, as JSON lines in the session's folder."""

from __future__ import annotations

import builtins
import codecs
import io
import json
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, TextIO, TypeAlias

from mlkit.define.step import running_step
from mlkit.errors import printable
from mlkit.metrics.context import RequestContext, current_request
from mlkit.serving.http.problem import Failure
from mlkit.serving.replica.levels import SERVERS

__all__ = ["JsonLines", "LogLine", "capture", "read_failures", "read_logs"]

MAX_BYTES = 4 * 2**20
MAX_LINE = 64 * 2**10
"""Maximum length of a line in characters; longer lines are split."""

PARTIAL_S = 1.0
"""Time after which a line is recorded without its end."""

_Writer: TypeAlias = tuple[int, str | None, RequestContext | None]


@dataclass(frozen=True)
class LogLine:
    """A line of output of a replica.

    Attributes:
        time: seconds since the epoch.
        replica: process id of the replica.
        step: the step that was running, or None.
        stream: "out", "err" or "log".
        request: ``X-Request-Id`` of the request that it was written for, or None; a batch is for
            many.
    """

    time: float
    replica: int
    step: str | None
    stream: str
    text: str
    request: str | None = None

    def __str__(self) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(self.time))
        head = f"{clock} {self.step or '-':<12} "
        # A message may quote a client: none of its lines may pass for an entry of its own.
        return head + printable(self.text).replace("\n", "\n" + " " * len(head))


class _Lines(RotatingFileHandler):
    """Says once that a file cannot be written, and goes on.

    Python's handler writes a traceback for each record to stderr, which is captured: into this
    very file.
    """

    failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        """Warn of the first record that cannot be written."""
        if not self.failed:
            self.failed = True
            stream = sys.__stderr__ or sys.stderr
            stream.write(f"output cannot be kept: {sys.exception()} ({self.baseFilename})\n")


class JsonLines:
    """Appends JSON lines to a file of one replica, bounded in size."""

    def __init__(self, path: Path) -> None:
        self._handler = _Lines(path, maxBytes=MAX_BYTES, backupCount=1, delay=True)
        self._handler.setFormatter(logging.Formatter("%(message)s"))

    def __call__(self, record: dict[str, Any]) -> None:
        """Append one record."""
        line = json.dumps(record, default=str)
        self._handler.handle(logging.LogRecord("mlkit", 20, "", 0, line, None, None))


class _Tee(io.TextIOWrapper):
    """A text stream that also records whole lines, with the step that wrote them."""

    def __init__(self, stream: TextIO, name: str, record: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(_Bytes(self, stream), encoding="utf-8", errors="backslashreplace")
        self._stream = stream
        self._name = name
        self._record = record
        # Text without a line break, and when it was written, by thread, step and request.
        self._partial: dict[_Writer, tuple[str, float]] = {}
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def write(self, text: str, /) -> int:
        """Write through, and record each line that is complete, or stays incomplete."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self._stream.write(text)
        writer = threading.get_ident(), running_step.get(), current_request()
        with self._lock:
            before, _ = self._partial.pop(writer, ("", 0.0))
            lines = (before + text).split("\n")
            partial = lines.pop()
            if len(partial) > MAX_LINE:
                lines.append(partial)
                partial = ""
            partial = partial[partial.rstrip("\r").rfind("\r") + 1 :]
            if partial:
                self._partial[writer] = partial, time.monotonic()
                self._wait_for_rest()
        for line in lines:
            # Of a progress bar, which overwrites itself, record the last state.
            self._record(_line(self._name, line.removesuffix("\r").rpartition("\r")[2]))
        return len(text)

    def _wait_for_rest(self) -> None:
        if self._timer is None:
            self._timer = threading.Timer(PARTIAL_S, self.record_partial)
            self._timer.daemon = True
            self._timer.start()

    def record_partial(self) -> None:
        """Record lines to which nothing was added for `PARTIAL_S`: ``print(".", end="")``."""
        with self._lock:
            self._timer = None
            until = time.monotonic() - PARTIAL_S
            left = {w: text for w, (text, written) in self._partial.items() if written <= until}
            for writer in left:
                del self._partial[writer]
            if self._partial:
                self._wait_for_rest()
        for (_, step, request), text in left.items():
            self._record(_line(self._name, text, step, request))

    def flush(self) -> None:
        if not self._stream.closed:  # the garbage collector flushes as well
            self._stream.flush()


class _Bytes(io.BufferedIOBase):
    """The binary side of a `_Tee`, which writes what it decodes."""

    def __init__(self, tee: _Tee, stream: TextIO) -> None:
        self._tee = weakref.proxy(tee)
        self._stream = stream
        self._decoders = threading.local()

    def write(self, data: Any, /) -> int:
        if not hasattr(self._decoders, "utf8"):
            self._decoders.utf8 = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        data = bytes(data)
        self._tee.write(self._decoders.utf8.decode(data))
        return len(data)

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        if not self._stream.closed:
            self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def name(self) -> Any:
        return self._stream.name


class _Logging(logging.Handler):
    def __init__(self, record: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        self._recorder = record

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith(SERVERS):
            return
        try:
            self._recorder(_line("log", self.format(record)))
        except Exception:  # arguments that do not fit the message
            self.handleError(record)


def _line(
    stream: str, text: str, step: str | None = None, request: RequestContext | None = None
) -> dict[str, Any]:
    """Return the record of a line, by default of the step and request that run here."""
    request = request or current_request()
    return {
        "time": time.time(),
        "replica": os.getpid(),
        "step": step or running_step.get(),
        "stream": stream,
        "text": text,
        "request": None if request is None else request.id,
    }


def _print(
    *objects: object,
    sep: str | None = " ",
    end: str | None = "\n",
    file: Any = None,
    flush: bool = False,
) -> None:
    """The built-in print; Serve replaces it with one that writes to its own log."""
    stream = sys.stdout if file is None else file
    stream.write((" " if sep is None else sep).join(map(str, objects)))
    stream.write("\n" if end is None else end)
    if flush:
        stream.flush()


def _display(*objects: object, **options: Any) -> None:
    """As IPython's built-in ``display`` shows objects where there is only text."""
    for shown in objects:
        sys.stdout.write(f"{shown!r}\n")


def capture(folder: Path, app: str) -> JsonLines:
    """Record the output and log of this process, and return the recorder for its failures."""
    lines = JsonLines(folder / f"{app}.{os.getpid()}.log.jsonl")
    # Serve redirects both streams and print to its logger; the original streams write to the
    # worker's log files.
    sys.stdout = _Tee(sys.__stdout__ or sys.stdout, "out", lines)
    sys.stderr = _Tee(sys.__stderr__ or sys.stderr, "err", lines)
    builtins.print = _print
    builtins.display = _display  # type: ignore[attr-defined]
    logging.getLogger().addHandler(_Logging(lines))
    return JsonLines(folder / f"{app}.{os.getpid()}.failure.jsonl")


def read_logs(folder: Path, app: str) -> list[LogLine]:
    """Return all lines of an app's replicas, including ended ones, oldest first."""
    lines = (LogLine(**record) for record in _read(folder, f"{app}.*.log.jsonl*"))
    return sorted(lines, key=lambda line: line.time)


def read_failures(folder: Path, app: str, id: str = "") -> list[Failure]:
    """Return the failures of an app's replicas, or the one with an id; oldest first."""
    records = _read(folder, f"{app}.*.failure.jsonl*", id)
    failures = (Failure(**record) for record in records if id in ("", record["id"]))
    return sorted(failures, key=lambda failure: failure.time)


def _read(folder: Path, pattern: str, word: str = "") -> Iterator[dict[str, Any]]:
    for path in folder.glob(pattern):
        for line in path.read_text(errors="replace").splitlines():
            if word not in line:
                continue
            try:
                yield json.loads(line)
            except ValueError:  # a line that is still being written
                continue
