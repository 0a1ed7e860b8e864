"""When requests are sent: seeded schedules of send times, and the closed loop.

A schedule is an array of send times, in seconds from the start, made before the first request
leaves. The same arguments give the same times on every machine, so that two servers can be asked
exactly the same questions at exactly the same moments.

>>> constant(rate=4).times(1.0)
array([0.  , 0.25, 0.5 , 0.75])
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlkit.errors import LoadError
from mlkit.load.spec import Arrivals, check_positive, check_seed, is_whole
from mlkit.load.steered import Steered

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Arrivals",
    "Closed",
    "Constant",
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
class Constant(Arrivals):
    """Evenly spaced sends; see `constant`."""

    rate: float

    def __post_init__(self) -> None:
        check_positive("constant", "rate", self.rate, "requests per second above 0")

    @property
    def opening_rate(self) -> float:
        """The rate, from start to end."""
        return self.rate

    def times(self, duration_s: float) -> NDArray[np.float64]:
        """Multiples of ``1 / rate`` from 0 up."""
        import numpy as np

        # Not a running sum: no drift, however long the schedule.
        times = np.arange(math.ceil(duration_s * self.rate) + 1, dtype=np.float64) / self.rate
        return times[times < duration_s]


@dataclass(frozen=True, kw_only=True, repr=False)
class Poisson(Arrivals):
    """Independent sends at a mean rate; see `poisson`."""

    rate: float
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive("poisson", "rate", self.rate, "requests per second above 0")
        check_seed("poisson", self.seed)

    @property
    def opening_rate(self) -> float:
        """The rate, from start to end."""
        return self.rate

    def times(self, duration_s: float) -> NDArray[np.float64]:
        """Cumulated exponential gaps; a longer schedule begins with the shorter one."""
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
class Changing(Arrivals):
    """Independent sends at a rate that changes with time (a Poisson process by thinning).

    After Lewis and Shedler, "Simulation of nonhomogeneous Poisson processes by thinning" (1979):
    times at the highest rate, each kept with the share that the rate then has of it.
    """

    seed: int = 0

    def rate_at(self, times: NDArray[np.float64], duration_s: float) -> NDArray[np.float64]:
        """Requests per second at each of these times, in seconds from the start."""
        raise NotImplementedError

    @property
    def highest_rate(self) -> float:
        """Requests per second at most."""
        raise NotImplementedError

    def times(self, duration_s: float) -> NDArray[np.float64]:
        """Exponential gaps at the highest rate, thinned."""
        import numpy as np

        times = Poisson(rate=self.highest_rate, seed=self.seed).times(duration_s)
        share = self.rate_at(times, duration_s) / self.highest_rate
        return times[np.random.default_rng([self.seed, 1]).random(len(times)) < share]


@dataclass(frozen=True, kw_only=True, repr=False)
class Ramp(Changing):
    """A rate that rises or falls evenly over the whole run; see `ramp`."""

    start: float
    end: float

    def __post_init__(self) -> None:
        check_positive("ramp", "start", self.start, "requests per second above 0")
        check_positive("ramp", "end", self.end, "requests per second above 0")
        check_seed("ramp", self.seed)

    @property
    def opening_rate(self) -> float:
        """The rate at the start."""
        return self.start

    @property
    def highest_rate(self) -> float:
        """The higher of both."""
        return max(self.start, self.end)

    def rate_at(self, times: NDArray[np.float64], duration_s: float) -> NDArray[np.float64]:
        """A straight line from one rate to the other."""
        return self.start + (self.end - self.start) * times / duration_s


@dataclass(frozen=True, kw_only=True, repr=False)
class Jump(Changing):
    """A rate that changes at once and stays; see `jump`."""

    before: float
    after: float
    at_s: float

    def __post_init__(self) -> None:
        check_positive("jump", "before", self.before, "requests per second above 0")
        check_positive("jump", "after", self.after, "requests per second above 0")
        check_positive("jump", "at_s", self.at_s, "seconds from the start, above 0")
        check_seed("jump", self.seed)

    @property
    def opening_rate(self) -> float:
        """The rate before the jump."""
        return self.before

    @property
    def highest_rate(self) -> float:
        """The higher of both."""
        return max(self.before, self.after)

    def rate_at(self, times: NDArray[np.float64], duration_s: float) -> NDArray[np.float64]:
        """One rate before ``at_s`` and the other from then on."""
        import numpy as np

        return np.where(times < self.at_s, self.before, self.after).astype(np.float64)


@dataclass(frozen=True, kw_only=True, repr=False)
class Spike(Changing):
    """A rate that is high for a while; see `spike`."""

    rate: float
    peak: float
    at_s: float
    width_s: float

    def __post_init__(self) -> None:
        check_positive("spike", "rate", self.rate, "requests per second above 0")
        check_positive("spike", "peak", self.peak, "requests per second above 0")
        check_positive("spike", "at_s", self.at_s, "seconds from the start, above 0")
        check_positive("spike", "width_s", self.width_s, "seconds above 0")
        check_seed("spike", self.seed)

    @property
    def opening_rate(self) -> float:
        """The rate outside the spike."""
        return self.rate

    @property
    def highest_rate(self) -> float:
        """The higher of both."""
        return max(self.rate, self.peak)

    def rate_at(self, times: NDArray[np.float64], duration_s: float) -> NDArray[np.float64]:
        """``peak`` from ``at_s`` for ``width_s``, else ``rate``."""
        import numpy as np

        within = (times >= self.at_s) & (times < self.at_s + self.width_s)
        return np.where(within, self.peak, self.rate).astype(np.float64)


@dataclass(frozen=True, kw_only=True, repr=False)
class Closed(Arrivals):
    """No schedule: each answer is followed by the next request; see `closed`."""

    concurrency: int

    def __post_init__(self) -> None:
        if not is_whole(self.concurrency) or self.concurrency < 1:
            raise LoadError(
                "a closed loop needs at least one client",
                where="closed(concurrency=...)",
                expected="a whole number from 1 up",
                got=repr(self.concurrency),
                fix="for a given rate whatever the answers take, use poisson(rate=...)",
            )


def constant(*, rate: float) -> Constant:
    """Requests at even distances, ``rate`` of them per second.

    Real users do not come evenly spaced, so this flatters a server: use `poisson` to judge one.

    Raises:
        LoadError: ``rate`` is not a positive, finite number.
    """
    return Constant(rate=rate)


def poisson(*, rate: float, seed: int = 0) -> Poisson:
    """Requests that arrive independently of each other, ``rate`` per second on average.

    The gaps between them are exponentially distributed, as they are for many users who know
    nothing of each other. The same ``seed`` gives the same times.

    Raises:
        LoadError: ``rate`` is not a positive, finite number, or ``seed`` no whole number from 0 up.
    """
    return Poisson(rate=rate, seed=seed)


def ramp(*, start: float, end: float, seed: int = 0) -> Ramp:
    """Independent requests at a rate that goes evenly from ``start`` to ``end`` over the run.

    This shows at which rate something gives, and how autoscaling follows.

    Raises:
        LoadError: a rate is not a positive, finite number, or ``seed`` no whole number from 0 up.
    """
    return Ramp(start=start, end=end, seed=seed)


def jump(*, before: float, after: float, at_s: float, seed: int = 0) -> Jump:
    """Independent requests at the rate ``before``, and ``after`` it from ``at_s`` seconds on.

    This shows how long autoscaling takes to follow.

    Raises:
        LoadError: a number is not positive and finite, or ``seed`` no whole number from 0 up.
    """
    return Jump(before=before, after=after, at_s=at_s, seed=seed)


def spike(*, rate: float, peak: float, at_s: float, width_s: float, seed: int = 0) -> Spike:
    """Independent requests at ``rate``, and at ``peak`` for ``width_s`` seconds from ``at_s`` on.

    This shows what a short rush does, and how long its queue takes to go.

    Raises:
        LoadError: a number is not positive and finite, or ``seed`` no whole number from 0 up.
    """
    return Spike(rate=rate, peak=peak, at_s=at_s, width_s=width_s, seed=seed)


def closed(*, concurrency: int) -> Closed:
    """``concurrency`` clients that each send their next request when they have their answer.

    This finds the saturated throughput. It does not find latencies that users would see: a server
    that stalls is asked less, so its stalls hardly show.

    Raises:
        LoadError: ``concurrency`` is no whole number from 1 up.
    """
    return Closed(concurrency=concurrency)


def arrivals_from_dict(data: Mapping[str, Any]) -> Arrivals:
    """The arrivals that `Arrivals.to_dict` described.

    Raises:
        LoadError: the kind is not known here.
    """
    makers: dict[str | None, type[Arrivals]] = {
        "steered": Steered,
        "constant": Constant,
        "poisson": Poisson,
        "closed": Closed,
        "ramp": Ramp,
        "jump": Jump,
        "spike": Spike,
    }
    fields = dict(data)
    kind = fields.pop("kind", None)
    if kind not in makers:
        raise LoadError(
            "this kind of arrivals is not known",
            expected=" or ".join(filter(None, makers)),
            got=repr(kind),
            fix="it may have been saved by a newer mlkit",
        )
    return makers[kind](**fields)
