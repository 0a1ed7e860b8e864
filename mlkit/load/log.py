"""The log of a load test: what was sent, and what came back.

Kept in columns, so that appending is cheap, and so is sending them to the process that analyses
them.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from mlkit.load.job import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["NEVER", "SAMPLES_PER_KIND", "Log", "LogReport", "RequestLog", "Response"]

NEVER = float("nan")
SAMPLES_PER_KIND = 5
KEPT_BYTES = 64 * 2**20
"""Total size of the different bodies that are kept to be checked; further ones are not."""


class Response(NamedTuple):
    """A response: times on the clock in seconds, ``size`` of the body in bytes.

    ``error`` is None for a success, else a short kind such as ``"http 503"`` or ``"reset"``.
    ``body`` and ``media_type`` are kept only where bodies are to be checked; ``item_times`` are of
    a stream.
    """

    first_byte: float
    finished: float
    status: int = 0
    size: int = 0
    timing: str = ""
    error: str | None = None
    detail: str = ""
    media_type: str = ""
    body: bytes | None = None
    item_times: Sequence[float] = ()


class LogReport(NamedTuple):
    """A log as it is sent to the parent process.

    ``facts`` are plain data, by row or by slot; ``rows`` has the columns of
    `mlkit.load.job.COLUMNS` as raw bytes, the times of items of each row that streams, and the
    different bodies.
    """

    facts: dict[str, Any]
    rows: list[bytes]


class RequestLog(Protocol):
    """Where a generator logs its requests: `Log`, or one of bounded size."""

    @property
    def opened(self) -> int:
        """Number of requests."""

    @property
    def failed(self) -> int:
        """Number of those that failed."""

    def open(self, intended: float, sent: float) -> int:
        """Log a request that is sent, and return its slot: the number of those before it."""

    def close(self, slot: int, response: Response, zero: float) -> None:
        """Log the response of a request; ``zero`` is the start on the response's clock."""

    def fail(self, slot: int, error: str, detail: str = "") -> None:
        """Log why a request failed that was not sent."""

    def report(self) -> LogReport:
        """Return the log."""


class Log:
    """A row per request, stored in columns: cheap to append to and to transfer.

    Times are seconds from the start; a row with ``intended`` below 0 belongs to the warm-up.
    """

    def __init__(self) -> None:
        self.intended = array("d")
        self.sent = array("d")
        self.first_byte = array("d")
        self.finished = array("d")
        self.status = array("i")
        self.size = array("q")
        self.items = array("q")
        self.item_times: dict[int, array[float]] = {}
        self.timings: dict[int, str] = {}
        self.errors: dict[int, str] = {}
        self.samples: dict[str, list[tuple[int, str]]] = {}
        self.bodies: dict[tuple[str, bytes], int] = {}
        self.body_of: dict[int, int] = {}
        self._kept_bytes = 0

    @property
    def opened(self) -> int:
        """Number of requests."""
        return len(self.sent)

    @property
    def failed(self) -> int:
        """Number of those that failed."""
        return len(self.errors)

    @property
    def slot(self) -> array[int]:
        """The slot of each row: its number."""
        return array("q", range(len(self.sent)))

    def open(self, intended: float, sent: float) -> int:
        """Start a row and return its number."""
        self.intended.append(intended)
        self.sent.append(sent)
        self.first_byte.append(NEVER)
        self.finished.append(NEVER)
        self.status.append(0)
        self.size.append(0)
        self.items.append(0)
        return len(self.sent) - 1

    def close(self, slot: int, response: Response, zero: float) -> None:
        """Complete a row with its response."""
        self.first_byte[slot] = response.first_byte - zero
        self.finished[slot] = response.finished - zero
        self.status[slot] = response.status
        self.size[slot] = response.size
        if response.item_times:
            self.items[slot] = len(response.item_times)
            self.item_times[slot] = array("d", [at - zero for at in response.item_times])
        if response.timing:
            self.timings[slot] = response.timing
        if response.error is not None:
            self.fail(slot, response.error, response.detail)
        elif response.body is not None:
            self._keep(slot, (response.media_type, response.body))

    def reopen(self, row: int, intended: float, sent: float) -> None:
        """Use a row again, for another request."""
        self.intended[row], self.sent[row] = intended, sent
        self.first_byte[row] = self.finished[row] = NEVER
        self.status[row] = self.size[row] = self.items[row] = 0
        for sparse in (self.item_times, self.timings, self.errors, self.body_of):
            sparse.pop(row, None)

    def report(self) -> LogReport:
        """Return all rows."""
        facts = {
            "rows": len(self.sent),
            "timings": self.timings,
            "errors": self.errors,
            "samples": self.samples,
            "body_of": self.body_of,
            "bodies": [(media_type, len(body)) for media_type, body in self.bodies],
        }
        columns = [getattr(self, name).tobytes() for name in COLUMNS]
        times = [self.item_times[row].tobytes() for row in sorted(self.item_times)]
        return LogReport(facts, [*columns, *times, *(body for _, body in self.bodies)])

    def _keep(self, slot: int, content: tuple[str, bytes]) -> None:
        """Keep a body once, however many responses have it."""
        if content not in self.bodies:
            self._kept_bytes += len(content[1])
            if self._kept_bytes > KEPT_BYTES:
                return
            self.bodies[content] = len(self.bodies)
        self.body_of[slot] = self.bodies[content]

    def fail(self, slot: int, error: str, detail: str = "") -> None:
        """Log why a request failed, with a few samples of each kind of failure."""
        self.errors[slot] = error
        samples = self.samples.setdefault(error, [])
        if len(samples) < SAMPLES_PER_KIND:
            samples.append((slot, detail))
