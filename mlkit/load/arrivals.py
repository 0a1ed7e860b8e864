"""When requests are sent: seeded schedules of send times, and the closed loop.

A schedule is an array of send times, in seconds from the start, computed before the first request
is sent. The same arguments give the same times on every machine, so that two servers get exactly
the same load.

>>> constant(rate=4).times(1.0)
array([0.  , 0.25, 0.5 , 0.75])
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlkit.errors import LoadError, entry_point
from mlkit.load.spec import Arrivals, is_integer
from mlkit.load.steered import Steered

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Arrivals",
    "Closed",
    "ConstantRate",
    "Jump",
    "Poisson",
    "Ramp",
    "Spike",
    "closed",
    "constant",
    "jump",
    "poisson",
    "ramp",
    "spike",
]


@dataclass(frozen=True, kw_only=True, repr=False)
class ConstantRate(Arrivals):
    """Evenly spaced sends; see `constant`."""

    rate: float

    @property
    def opening_rate(self) -> float:
        """The rate, from start to end."""
        return self.rate

    def times(self, duration_s: float) -> NDArray[np.float64]:
        """Multiples of ``1 / rate`` from 0 up."""
        import numpy as np

        # Not a running sum, which would drift.
        times = np.arange(math.ceil(duration_s * self.rate) + 1, dtype=np.float64) / self.rate
        return times[times < duration_s]


@dataclass(frozen=True, kw_only=True, repr=False)
class Poisson(Arrivals):
    """Independent sends at a mean rate; see `poisson`."""

    rate: float
    seed: int = 0

    @property
    def opening_rate(self) -> float:
        """The rate, from start to end."""
        return self.rate

    def times(self, duration_s: float) -> NDArray[np.float64]:
        """Cumulated exponential gaps; a shorter schedule is a prefix of a longer one."""
        import numpy as np

        # Blocks of fixed size from one stream, so that the duration does not change the draws.
        stream, blocks, end = np.random.default_rng(self.seed), [], 0.0
        while end < duration_s:
            block = end + np.cumsum(stream.exponential(1 / self.rate, size=1024))
            blocks.append(block)
            end = float(block[-1])
        times = np.concatenate(blocks) if blocks else np.empty(0)
        return times[times < duration_s]


@dataclass(frozen=True, kw_only=True, repr=False)
class VaryingRate(Arrivals):
    """Independent sends at a varying rate: a nonhomogeneous Poisson process.

    After Lewis and Shedler, "Simulation of nonhomogeneous Poisson processes by thinning" (1979):
    draws times at the highest rate, and keeps each with the probability rate / highest rate.
    """

    seed: int = 0

    def rate_at(self, times: NDArray[np.float64], duration_s: float) -> NDArray[np.float64]:
        """Requests per second at each of these times."""
        raise NotImplementedError

    @property
    def highest_rate(self) -> float:
        """Maximum of the rate, in requests per second."""
        raise NotImplementedError

    def times(self, duration_s: float) -> NDArray[np.float64]:
        """Exponential gaps at the highest rate, thinned."""
        import numpy as np

        times = Poisson(rate=self.highest_rate, seed=self.seed).times(duration_s)
        share = self.rate_at(times, duration_s) / self.highest_rate
        return times[np.random.default_rng([self.seed, 1]).random(len(times)) < share]


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
class Closed(Arrivals):
    """No schedule: each client sends its next request on a response; see `closed`."""

    concurrency: int

    def __post_init__(self) -> None:
        if not is_integer(self.concurrency) or self.concurrency < 1:
            raise LoadError(
                "a closed loop needs at least one client",
                where="closed(concurrency=...)",
                expected="an integer of at least 1",
                got=repr(self.concurrency),
                fix="for a rate independent of the responses, use poisson(rate=...)",
            )


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
def closed(*, concurrency: int) -> Closed:
    """Run ``concurrency`` clients that each send their next request on the previous response.

    Measures the saturated throughput, not latency as users see it: a stalled server gets fewer
    requests, so that its stalls hardly show (coordinated omission).

    Raises:
        LoadError: ``concurrency`` is not an integer of at least 1.
    """
    return Closed(concurrency=concurrency)


def arrivals_from_dict(data: Mapping[str, Any]) -> Arrivals:
    """Restore arrivals from `Arrivals.to_dict`.

    Raises:
        LoadError: unknown kind.
    """
    kinds: dict[str | None, type[Arrivals]] = {
        "steered": Steered,
        "constant": ConstantRate,
        "poisson": Poisson,
        "closed": Closed,
        "ramp": Ramp,
        "jump": Jump,
        "spike": Spike,
    }
    fields = dict(data)
    kind = fields.pop("kind", None)
    if kind not in kinds:
        raise LoadError(
            "unknown kind of arrivals",
            expected=" or ".join(filter(None, kinds)),
            got=repr(kind),
            fix="it may have been saved by a newer mlkit",
        )
    return kinds[kind](**fields)
