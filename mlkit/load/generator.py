"""The scheduling core: sends requests on time.

Network and clock are injected. In a run the clock is an asyncio loop and the transport a
`mlkit.load.client.Pool`; in tests both are simulated, so that a 60-second run takes milliseconds
and is exact.

`OpenLoop` and `SteeredLoop` send at scheduled times whatever the responses; `ClosedLoop` sends on
each response.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from mlkit.load.log import NEVER, Log, RequestLog, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = [
    "Clock",
    "ClosedLoop",
    "Generator",
    "OpenLoop",
    "RunLimits",
    "SteeredLoop",
    "Transport",
]

RETRY_PAUSE_S = 0.05
"""How long a closed-loop client waits after a failed connection, so as not to spin."""


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


class RunLimits(NamedTuple):
    """Limits of a run: durations in seconds, and the maximum number of requests in flight."""

    duration_s: float
    warmup_s: float
    timeout_s: float
    max_in_flight: int


class Generator(ABC):
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

    @abstractmethod
    def start(self) -> None:
        """Set the first timers; returns immediately."""

    def stop(self, grace_s: float) -> None:
        """Stop sending, wait ``grace_s`` seconds for requests in flight, then abandon them."""
        if self._sending:
            self.stopped_at = self.now()
            self._finish_sending()
        self.clock.call_at(self.clock.time() + grace_s, self._give_up_all, "stopped")

    def steer(self, rate: float) -> None:  # noqa: B027  # optional
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

    def _after(self, slot: int, response: Response) -> None:  # noqa: B027  # optional
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
