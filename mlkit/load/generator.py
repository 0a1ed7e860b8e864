"""The scheduling core: sends requests on time, and logs them.

Network and clock are injected. In a run the clock is an asyncio loop and the transport a
`mlkit.load.client.Pool`; in tests both are simulated, so that a 60-second run takes milliseconds
and is exact.

`OpenLoop` and `SteeredLoop` send at scheduled times whatever the responses; `ClosedLoop` sends on
each response.
"""

from __future__ import annotations

import math
from array import array
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from mlkit.load.job import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = [
    "Clock",
    "ClosedLoop",
    "Generator",
    "Log",
    "LogReport",
    "OpenLoop",
    "RequestLog",
    "Response",
    "RunLimits",
    "SteeredLoop",
    "Transport",
]

NEVER = float("nan")
RETRY_PAUSE_S = 0.05
"""How long a closed-loop client waits after a failed connection, so as not to spin."""
SAMPLES_PER_KIND = 5
KEPT_BYTES = 64 * 2**20
"""Total size of the different bodies that are kept to be checked; further ones are not."""


class Clock(Protocol):
    """Time and timers; an asyncio loop is one."""

    def time(self) -> float:
        """Monotonic time in seconds."""

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any) -> Any:
        """Schedule ``callback(*args)``."""


class Transport(Protocol):
    """Carries requests, and reports each once, through `Generator.answered`."""

    def send(self, slot: int) -> None:
        """Send the request of a slot, now."""

    def abandon(self, slot: int) -> Sequence[float]:
        """Abandon a request, about which nothing is reported; return when its items arrived."""


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


class RunLimits(NamedTuple):
    """Limits of a run: durations in seconds, and the maximum number of requests in flight."""

    duration_s: float
    warmup_s: float
    timeout_s: float
    max_in_flight: int


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


class Generator:
    """Base of the loops: dispatch, timeouts, end of the run.

    Args:
        clock: time and timers.
        transport: carries the requests.
        limits: of the run.
        zero: the clock's time at which the measured part starts.
        on_end: called once, when the last request has been answered or abandoned.
        log: where requests are logged.
    """

    def __init__(
        self,
        clock: Clock,
        transport: Transport,
        limits: RunLimits,
        *,
        zero: float,
        on_end: Callable[[], None],
        log: RequestLog | None = None,
    ) -> None:
        self.clock, self.transport, self.limits, self.zero = clock, transport, limits, zero
        self.log: RequestLog = Log() if log is None else log
        self.in_flight: dict[int, float] = {}
        self.most_in_flight = 0
        self.answers = 0
        self.unsent = 0
        self.stopped_at: float | None = None
        self._on_end = on_end
        self._sending = True
        self._timeouts: deque[tuple[int, float]] = deque()
        self._watching = False
        self._ended = False

    def start(self) -> None:
        """Set the first timers; returns immediately."""
        raise NotImplementedError

    def stop(self, grace_s: float) -> None:
        """Stop sending, wait ``grace_s`` seconds for requests in flight, then abandon them."""
        if self._sending:
            self.stopped_at = self.now()
            self._finish_sending()
        self.clock.call_at(self.clock.time() + grace_s, self._give_up_all, "stopped")

    def steer(self, rate: float) -> None:
        """Change the rate, where there is one to change."""

    def now(self) -> float:
        """Seconds since the start; negative during the warm-up."""
        return self.clock.time() - self.zero

    def answered(self, slot: int, response: Response) -> None:
        """Take the transport's report on a request."""
        del self.in_flight[slot]
        self.log.close(slot, response, self.zero)
        if response.error is None:
            self.answers += 1
        self._after(slot, response)
        self._check_end()

    def _after(self, slot: int, response: Response) -> None:
        """React to a response."""

    def _dispatch(self, intended: float | None = None) -> None:
        sent = self.now()
        slot = self.log.open(sent if intended is None else intended, sent)
        if len(self.in_flight) >= self.limits.max_in_flight:
            self.unsent += 1
            self.log.fail(slot, "unsent", "too many requests were in flight")
            return
        self.in_flight[slot] = sent
        if len(self.in_flight) > self.most_in_flight:
            self.most_in_flight = len(self.in_flight)
        self._timeouts.append((slot, sent))
        if not self._watching:
            self._watch()
        self.transport.send(slot)

    def _watch(self) -> None:
        """Set one timer, for the oldest request in flight: all have the same timeout."""
        while self._timeouts and self._timeouts[0][0] not in self.in_flight:
            self._timeouts.popleft()
        self._watching = bool(self._timeouts)
        if self._watching:
            _, sent = self._timeouts[0]
            self.clock.call_at(self.zero + sent + self.limits.timeout_s, self._expire)

    def _expire(self) -> None:
        # A timer can come early by the clock's resolution, hence the small allowance.
        limit = self.now() - self.limits.timeout_s + 1e-6
        while self._timeouts and self._timeouts[0][1] <= limit:
            slot, _ = self._timeouts.popleft()
            if slot in self.in_flight:
                self._give_up(slot, "timeout")
        self._watch()

    def _give_up(self, slot: int, reason: str) -> None:
        item_times = self.transport.abandon(slot)
        now = self.clock.time()
        self.answered(slot, Response(NEVER, now, error=reason, item_times=item_times))

    def _give_up_all(self, reason: str) -> None:
        for slot in list(self.in_flight):
            self._give_up(slot, reason)

    def _end_in_time(self) -> None:
        if math.isfinite(self.limits.duration_s):  # else `stop` ends it
            self.clock.call_at(self.zero + self.limits.duration_s, self._finish_sending)

    def _finish_sending(self) -> None:
        self._sending = False
        self._check_end()

    def _check_end(self) -> None:
        if not self._sending and not self.in_flight and not self._ended:
            self._ended = True
            self._on_end()


class OpenLoop(Generator):
    """Sends at scheduled times; a slow response never delays the next request.

    Args:
        times: seconds from the start, ascending; those below 0 are the warm-up. It may be endless.
    """

    def __init__(self, times: Iterable[float], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._times = iter(times)
        self._due = next(self._times, None)

    def start(self) -> None:
        """Send at the scheduled times, from the first on."""
        self._wait()

    def _wait(self) -> None:
        if self._due is not None:
            self.clock.call_at(self.zero + self._due, self._send_due)
        else:
            self._end_in_time()

    def _send_due(self) -> None:
        while self._sending and self._due is not None and self._due <= self.now() + 1e-6:
            intended, self._due = self._due, next(self._times, None)
            self._dispatch(intended)
        if self._sending:
            self._wait()


class SteeredLoop(Generator):
    """Draws send times one by one, at a rate that may be changed.

    Args:
        rate: requests per second at first.
        gap: returns the gap to the next request at a rate of one per second.
    """

    def __init__(self, rate: float, gap: Callable[[], float], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rate = rate
        self._gap = gap
        self._at = -self.limits.warmup_s
        self._drawn = 0

    def start(self) -> None:
        """Send the first request one gap from now."""
        self._end_in_time()
        self._draw()

    def steer(self, rate: float) -> None:
        """Change the rate from now on; the pending send time is drawn again."""
        self._rate = rate
        self._at = max(self._at, self.now())
        self._draw()

    def _draw(self) -> None:
        self._drawn += 1
        intended = self._at + self._gap() / self._rate
        self.clock.call_at(self.zero + intended, self._send, intended, self._drawn)

    def _send(self, intended: float, number: int) -> None:
        if not self._sending or number != self._drawn:
            return
        self._at = intended
        self._draw()
        self._dispatch(intended)


class ClosedLoop(Generator):
    """``concurrency`` clients, each of which sends on its previous response.

    Args:
        concurrency: requests in flight at any time.
    """

    def __init__(self, concurrency: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._concurrency = concurrency

    def start(self) -> None:
        """Send the first requests together, when the warm-up starts."""
        self.clock.call_at(self.zero - self.limits.warmup_s, self._send_first)
        self._end_in_time()

    def _send_first(self) -> None:
        for _ in range(self._concurrency):
            self._send_next()

    def _send_next(self) -> None:
        if self._sending and self.now() < self.limits.duration_s:
            self._dispatch()

    def _after(self, slot: int, response: Response) -> None:
        if response.status == 0 and response.error not in (None, "timeout"):
            self.clock.call_at(self.clock.time() + RETRY_PAUSE_S, self._send_next)
        else:
            self._send_next()
