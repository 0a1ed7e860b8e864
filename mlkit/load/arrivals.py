"""When requests are sent: seeded schedules of send times, and the closed loop.

A schedule is an array of send times, in seconds from the start, made before the first request
leaves. The same arguments give the same times on every machine, so that two servers can be asked
exactly the same questions at exactly the same moments.

>>> constant(rate=4).times(1.0)
array([0.  , 0.25, 0.5 , 0.75])
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mlkit.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Arrivals", "Closed", "Constant", "Poisson", "closed", "constant", "poisson"]


@dataclass(frozen=True, kw_only=True, repr=False)
class Arrivals:
    """How requests arrive; made by `constant`, `poisson` and `closed`. The repr is the code."""

    @property
    def kind(self) -> str:
        """The name of the function that makes it, e.g. ``"poisson"``."""
        return type(self).__name__.lower()

    def times(self, duration_s: float) -> NDArray[np.float64]:
        """Send times in seconds, ascending, from 0 up to but not including ``duration_s``."""
        raise NotImplementedError

    def warmup_times(self, warmup_s: float) -> NDArray[np.float64]:
        """Send times, in seconds before the start (negative), that lead up to the schedule.

        They are evenly spaced at the rate with which the schedule begins, and are no part of it:
        a run with a warm-up and one without send the same requests at the same measured times.
        """
        import numpy as np

        count = round(warmup_s * self.opening_rate)
        return (np.arange(count, dtype=np.float64) - count) / self.opening_rate

    @property
    def opening_rate(self) -> float:
        """Requests per second at the start of the schedule."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """The specification as plain data; `arrivals_from_dict` reads it back."""
        return {"kind": self.kind, **asdict(self)}

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in asdict(self).items())
        return f"{self.kind}({arguments})"


@dataclass(frozen=True, kw_only=True, repr=False)
class Constant(Arrivals):
    """Evenly spaced sends; see `constant`."""

    rate: float

    def __post_init__(self) -> None:
        _check_positive("constant", "rate", self.rate, "requests per second above 0")

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
        _check_positive("poisson", "rate", self.rate, "requests per second above 0")
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
class Closed(Arrivals):
    """No schedule: each answer is followed by the next request; see `closed`."""

    concurrency: int

    def __post_init__(self) -> None:
        if not _is_whole(self.concurrency) or self.concurrency < 1:
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
        "constant": Constant,
        "poisson": Poisson,
        "closed": Closed,
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


def _check_positive(kind: str, name: str, value: Any, expected: str) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise LoadError(
            f"{name} is not usable", where=f"{kind}({name}=...)", expected=expected, got=repr(value)
        )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def check_seed(kind: str, seed: int) -> None:
    """Raise a `LoadError` unless the seed is a whole number from 0 up."""
    if not _is_whole(seed) or seed < 0:
        raise LoadError(
            "seed is not usable",
            where=f"{kind}(seed=...)",
            expected="a whole number from 0 up",
            got=repr(seed),
        )
