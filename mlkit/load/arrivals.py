"""When requests are sent: seeded schedules of send times, and the closed loop.

A schedule gives send times in seconds from the start, before the first request is sent. The same
arguments give the same times on every machine, so that two servers get exactly the same load.

>>> constant(rate=4).times(1.0)
array([0.  , 0.25, 0.5 , 0.75])
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlkit.errors import LoadError, entry_point
from mlkit.load.replay import RecordedTimes
from mlkit.load.spec import (
    Arrivals,
    Composed,
    Leg,
    Schedule,
    check_integer,
)
from mlkit.load.steered import Steered

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "MAX_IN_FLIGHT",
    "Arrivals",
    "Closed",
    "ConstantRate",
    "Diurnal",
    "Gamma",
    "Jump",
    "Poisson",
    "Ramp",
    "Schedule",
    "Spike",
    "closed",
    "constant",
    "diurnal",
    "gamma",
    "jump",
    "poisson",
    "ramp",
    "spike",
]

BATCH = 1024
"""Send times are drawn this many at a time from one stream, whatever the duration: so a shorter
schedule is a prefix of a longer one."""
MAX_IN_FLIGHT = 2000
MAX_CV = 100.0


@dataclass(frozen=True, kw_only=True, repr=False)
class ConstantRate(Schedule):
    """Evenly spaced sends; see `constant`."""

    rate: float

    @property
    def opening_rate(self) -> float:
        """The rate, from start to end."""
        return self.rate

    def batches(self, duration_s: float) -> Iterator[NDArray[np.float64]]:
        """Yield multiples of ``1 / rate`` from 0 up."""
        import numpy as np

        first = 0
        while first / self.rate < duration_s:
            # Not a running sum, which would drift.
            times = np.arange(first, first + BATCH, dtype=np.float64) / self.rate
            yield times[times < duration_s]
            first += BATCH


@dataclass(frozen=True, kw_only=True, repr=False)
class Renewal(Schedule):
    """Independent gaps of one distribution."""

    rate: float
    seed: int = 0

    @property
    def opening_rate(self) -> float:
        """The rate, from start to end."""
        return self.rate

    @abstractmethod
    def gaps(self, stream: np.random.Generator) -> NDArray[np.float64]:
        """Draw a batch of gaps, in seconds."""

    def batches(self, duration_s: float) -> Iterator[NDArray[np.float64]]:
        """Yield cumulated gaps."""
        import numpy as np

        stream, end = np.random.default_rng(self.seed), 0.0
        while end < duration_s:
            times = end + np.cumsum(self.gaps(stream))
            end = float(times[-1])
            yield times[times < duration_s]


@dataclass(frozen=True, kw_only=True, repr=False)
class Poisson(Renewal):
    """Independent sends at a mean rate; see `poisson`."""

    def gaps(self, stream: np.random.Generator) -> NDArray[np.float64]:
        """Draw exponential gaps."""
        return stream.exponential(1 / self.rate, size=BATCH)


@dataclass(frozen=True, kw_only=True, repr=False)
class Gamma(Renewal):
    """Bursts at a mean rate; see `gamma`."""

    cv: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cv > MAX_CV:
            raise LoadError(
                "invalid cv",
                where="gamma(cv=...)",
                expected=f"at most {MAX_CV:g}; a Poisson process has 1",
                got=repr(self.cv),
            )

    def gaps(self, stream: np.random.Generator) -> NDArray[np.float64]:
        """Draw gamma-distributed gaps, whose deviation is ``cv`` times their mean."""
        variance = self.cv**2
        return stream.gamma(1 / variance, variance / self.rate, size=BATCH)


@dataclass(frozen=True, kw_only=True, repr=False)
class VaryingRate(Schedule):
    """Independent sends at a varying rate: a nonhomogeneous Poisson process.

    After Lewis and Shedler, "Simulation of nonhomogeneous Poisson processes by thinning" (1979):
    draws times at the highest rate, and keeps each with the probability rate / highest rate.
    """

    seed: int = 0

    @abstractmethod
    def rate_at(self, times: NDArray[np.float64], duration_s: float) -> NDArray[np.float64]:
        """Requests per second at each of these times."""

    @property
    @abstractmethod
    def highest_rate(self) -> float:
        """Maximum of the rate, in requests per second."""

    def batches(self, duration_s: float) -> Iterator[NDArray[np.float64]]:
        """Yield times at the highest rate, thinned."""
        import numpy as np

        keep = np.random.default_rng([self.seed, 1])
        for times in Poisson(rate=self.highest_rate, seed=self.seed).batches(duration_s):
            share = self.rate_at(times, duration_s) / self.highest_rate
            yield times[keep.random(len(times)) < share]


@dataclass(frozen=True, kw_only=True, repr=False)
class Ramp(VaryingRate):
    """A rate that changes linearly over the whole run; see `ramp`."""

    start: float
    end: float

    @property
    def opening_rate(self) -> float:
        """The rate at the start."""
        return self.start

    @property
    def highest_rate(self) -> float:
        """The higher of both rates."""
        return max(self.start, self.end)

    def rate_at(self, times: NDArray[np.float64], duration_s: float) -> NDArray[np.float64]:
        """Interpolate linearly between both rates."""
        if math.isinf(duration_s):
            raise LoadError("a ramp needs an end", got=repr(self), fix=f"{self!r}.lasting(600)")
        return self.start + (self.end - self.start) * times / duration_s


@dataclass(frozen=True, kw_only=True, repr=False)
class Jump(VaryingRate):
    """A step change of the rate; see `jump`."""

    before: float
    after: float
    at_s: float

    @property
    def opening_rate(self) -> float:
        """The rate before the jump."""
        return self.before

    @property
    def highest_rate(self) -> float:
        """The higher of both rates."""
        return max(self.before, self.after)

    def rate_at(self, times: NDArray[np.float64], duration_s: float) -> NDArray[np.float64]:
        """``before`` until ``at_s``, then ``after``."""
        import numpy as np

        return np.where(times < self.at_s, self.before, self.after).astype(np.float64)


@dataclass(frozen=True, kw_only=True, repr=False)
class Spike(VaryingRate):
    """A burst of limited length; see `spike`."""

    rate: float
    peak: float
    at_s: float
    width_s: float

    @property
    def opening_rate(self) -> float:
        """The rate outside the spike."""
        return self.rate

    @property
    def highest_rate(self) -> float:
        """The higher of both rates."""
        return max(self.rate, self.peak)

    def rate_at(self, times: NDArray[np.float64], duration_s: float) -> NDArray[np.float64]:
        """``peak`` from ``at_s`` for ``width_s``, else ``rate``."""
        import numpy as np

        within = (times >= self.at_s) & (times < self.at_s + self.width_s)
        return np.where(within, self.peak, self.rate).astype(np.float64)


@dataclass(frozen=True, kw_only=True, repr=False)
class Diurnal(VaryingRate):
    """A rate that rises and falls once in each compressed day; see `diurnal`."""

    low: float
    high: float
    day_s: float

    @property
    def opening_rate(self) -> float:
        """The rate at night."""
        return self.low

    @property
    def highest_rate(self) -> float:
        """The higher of both rates."""
        return max(self.low, self.high)

    def rate_at(self, times: NDArray[np.float64], duration_s: float) -> NDArray[np.float64]:
        """``low`` at the start of each day, ``high`` in its middle, a cosine between them."""
        import numpy as np

        daylight = (1 - np.cos(2 * math.pi * times / self.day_s)) / 2
        return self.low + (self.high - self.low) * daylight


@dataclass(frozen=True, kw_only=True, repr=False)
class Closed(Arrivals):
    """No schedule: each client sends its next request on a response; see `closed`."""

    concurrency: int

    def __post_init__(self) -> None:
        check_integer(
            "closed",
            "concurrency",
            self.concurrency,
            1,
            fix="for a rate independent of the responses, use poisson(rate=...)",
        )
        if self.concurrency > MAX_IN_FLIGHT:
            raise LoadError(
                "too many clients for one generator",
                where="closed(concurrency=...)",
                expected=f"at most {MAX_IN_FLIGHT:,}",
                got=f"{self.concurrency:,}",
            )

    @property
    def loop(self) -> dict[str, Any]:
        """The closed loop."""
        return {"kind": "closed", "concurrency": self.concurrency}

    @property
    def opening_rate(self) -> float | None:
        """None: the rate is up to the server."""
        return None

    def asked(
        self, planned_s: float, duration_s: float, intended: NDArray[np.float64]
    ) -> NDArray[np.float64] | None:
        """Return None: a closed loop has no target rate."""
        return None


@entry_point
def constant(*, rate: float) -> ConstantRate:
    """Send evenly spaced requests, ``rate`` per second.

    Real users do not arrive evenly spaced, so this flatters a server: use `poisson` to judge one.

    Raises:
        LoadError: ``rate`` is not a positive, finite number.
    """
    return ConstantRate(rate=rate)


@entry_point
def poisson(*, rate: float, seed: int = 0) -> Poisson:
    """Send requests as a Poisson process, ``rate`` per second on average.

    Gaps are exponentially distributed, as they are for many independent users. The same ``seed``
    gives the same times.

    Raises:
        LoadError: ``rate`` is not positive and finite, or ``seed`` not an integer of at least 0.
    """
    return Poisson(rate=rate, seed=seed)


@entry_point
def gamma(*, rate: float, cv: float, seed: int = 0) -> Gamma:
    """Send requests in bursts, ``rate`` per second on average.

    Gaps are gamma-distributed, with the coefficient of variation ``cv`` (standard deviation over
    mean). With 1 it is a Poisson process; above 1 requests come in bursts with pauses between them,
    as from clients that send several at once; below 1 they are more evenly spaced.

    Raises:
        LoadError: ``rate`` or ``cv`` is not positive and finite, ``cv`` is over 100, or ``seed``
            not an integer of at least 0.
    """
    return Gamma(rate=rate, cv=cv, seed=seed)


@entry_point
def ramp(*, start: float, end: float, seed: int = 0) -> Ramp:
    """Send requests at a rate that changes linearly from ``start`` to ``end`` over the run.

    Finds the rate at which a server saturates, and shows how autoscaling follows.

    Raises:
        LoadError: a rate is not positive and finite, or ``seed`` not an integer of at least 0.
    """
    return Ramp(start=start, end=end, seed=seed)


@entry_point
def jump(*, before: float, after: float, at_s: float, seed: int = 0) -> Jump:
    """Send requests at the rate ``before``, and at the rate ``after`` from ``at_s`` seconds on.

    Shows how long autoscaling takes to follow.

    Raises:
        LoadError: a number is not positive and finite, or ``seed`` not an integer of at least 0.
    """
    return Jump(before=before, after=after, at_s=at_s, seed=seed)


@entry_point
def spike(*, rate: float, peak: float, at_s: float, width_s: float, seed: int = 0) -> Spike:
    """Send requests at ``rate``, and at ``peak`` for ``width_s`` seconds from ``at_s`` on.

    Shows the effect of a burst, and how long its backlog takes to drain.

    Raises:
        LoadError: a number is not positive and finite, or ``seed`` not an integer of at least 0.
    """
    return Spike(rate=rate, peak=peak, at_s=at_s, width_s=width_s, seed=seed)


@entry_point
def diurnal(*, low: float, high: float, day_s: float, seed: int = 0) -> Diurnal:
    """Send requests as over days, each compressed into ``day_s`` seconds.

    The rate is ``low`` when a day begins, at night, rises to ``high`` in its middle, and falls
    again, as a cosine. Shows what autoscaling saves, and whether it follows in time.

    Raises:
        LoadError: a number is not positive and finite, or ``seed`` not an integer of at least 0.
    """
    return Diurnal(low=low, high=high, day_s=day_s, seed=seed)


@entry_point
def closed(*, concurrency: int) -> Closed:
    """Run ``concurrency`` clients that each send their next request on the previous response.

    Measures the saturated throughput, not latency as users see it: a stalled server gets fewer
    requests, so that its stalls hardly show (coordinated omission).

    Raises:
        LoadError: ``concurrency`` is not an integer from 1 to 2,000.
    """
    return Closed(concurrency=concurrency)


def arrivals_from_dict(data: Mapping[str, Any]) -> Arrivals:
    """Restore arrivals from `Arrivals.to_dict`.

    Raises:
        LoadError: unknown kind.
    """
    fields = dict(data)
    kind = fields.pop("kind", None)
    if kind == "composed":
        legs = [(arrivals_from_dict(schedule), length_s) for schedule, length_s in fields["legs"]]
        return Composed(legs=tuple(Leg(schedule, length_s) for schedule, length_s in legs))  # type: ignore[arg-type]
    if kind == "replay":
        return RecordedTimes.from_dict(fields)
    kinds: dict[str | None, type[Arrivals]] = {
        "steered": Steered,
        "constant": ConstantRate,
        "poisson": Poisson,
        "gamma": Gamma,
        "closed": Closed,
        "ramp": Ramp,
        "jump": Jump,
        "spike": Spike,
        "diurnal": Diurnal,
    }
    if kind not in kinds:
        raise LoadError(
            "unknown kind of arrivals",
            expected=" or ".join(filter(None, kinds)),
            got=repr(kind),
            fix="it may have been saved by a newer mlkit",
        )
    return kinds[kind](**fields)
