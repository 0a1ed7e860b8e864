"""The two types of arrivals: schedules, which are open, and what reacts to the run.

A `Schedule` is known before the first request: its send times do not depend on the responses.
`mlkit.load.arrivals.Closed` has none, and neither has `mlkit.load.steered.Steered`, whose rate is
changed while it runs. What a load test needs to know of either, `Arrivals` says.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

from mlkit.errors import LoadError, entry_point

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Arrivals",
    "Composed",
    "Leg",
    "Schedule",
    "check_integer",
    "check_positive",
]


@dataclass(frozen=True, kw_only=True, repr=False)
class Arrivals(ABC):
    """When requests are sent; returned by `constant`, `closed` and the other functions.

    Raises:
        LoadError: a rate or a time is not positive and finite, or ``seed`` not an integer of at
            least 0.
    """

    def __post_init__(self) -> None:
        for parameter in fields(self):
            value = getattr(self, parameter.name)
            if parameter.name == "seed":
                check_integer(self.kind, "seed", value, 0)
            elif parameter.type == "float":  # as text: annotations are not evaluated
                check_positive(self.kind, parameter.name, value, f"{_unit(parameter.name)} above 0")

    @property
    def kind(self) -> str:
        """Name of the function that returns it, e.g. ``"poisson"``."""
        return type(self).__name__.removesuffix("Rate").lower()

    @property
    @abstractmethod
    def loop(self) -> dict[str, Any]:
        """Which loop of `mlkit.load.generator` sends them, and its arguments, as plain data."""

    @property
    @abstractmethod
    def opening_rate(self) -> float | None:
        """Requests per second at the start; None if that depends on the server."""

    @property
    def length_s(self) -> float | None:
        """How long it lasts, in seconds; None if that is up to the run."""
        return None

    @property
    def steerable(self) -> bool:
        """Whether the rate can be changed during the run."""
        return False

    def check(self, duration_s: float) -> None:  # noqa: B027  # optional
        """Check that it can last for ``duration_s`` seconds, which may be infinite.

        Raises:
            LoadError: it cannot.
        """

    def planned(
        self, duration_s: float, warmup_s: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Send times known in advance: those of the warm-up (negative), and the measured ones."""
        import numpy as np

        return np.empty(0), np.empty(0)

    @abstractmethod
    def asked(
        self, planned_s: float, duration_s: float, intended: NDArray[np.float64]
    ) -> NDArray[np.float64] | None:
        """Scheduled send times of a run; None for a closed loop, which has no schedule.

        Args:
            planned_s: duration for which the run was started.
            duration_s: its actual duration, shorter if it was stopped early.
            intended: the scheduled times of the requests that it recorded.
        """

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain data, which `arrivals_from_dict` reads."""
        return {"kind": self.kind, **asdict(self)}

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in asdict(self).items())
        return f"{self.kind}({arguments})"


@dataclass(frozen=True, kw_only=True, repr=False)
class Schedule(Arrivals):
    """Send times that are known in advance, independent of the responses.

    ``a.lasting(30) + b`` sends ``a`` for 30 seconds, and then ``b``.
    """

    @property
    def loop(self) -> dict[str, Any]:
        """The open loop."""
        return {"kind": "open"}

    @property
    @abstractmethod
    def opening_rate(self) -> float:
        """Requests per second at the start of the schedule."""

    @abstractmethod
    def batches(self, duration_s: float) -> Iterator[NDArray[np.float64]]:
        """Yield the send times up to ``duration_s``, which may be infinite, in ascending batches.

        Times are in seconds from the start.

        Raises:
            LoadError: it cannot last that long.
        """

    def check(self, duration_s: float) -> None:
        """Draw the first batch; a ramp without an end fails there."""
        next(self.batches(duration_s), None)

    def times(self, duration_s: float) -> NDArray[np.float64]:
        """Send times in seconds, ascending, from 0 up to but not including ``duration_s``."""
        import numpy as np

        batches = list(self.batches(duration_s))
        return np.concatenate(batches) if batches else np.empty(0)

    def warmup_times(self, warmup_s: float) -> NDArray[np.float64]:
        """Send times of the warm-up, in seconds before the start (negative).

        They are evenly spaced at the opening rate, and not part of the schedule: a run with a
        warm-up and one without send the same requests at the same measured times.
        """
        import numpy as np

        count = round(warmup_s * self.opening_rate)
        return (np.arange(count, dtype=np.float64) - count) / self.opening_rate

    def planned(
        self, duration_s: float, warmup_s: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Evenly spaced times of the warm-up, and the schedule."""
        return self.warmup_times(warmup_s), self.times(duration_s)

    def asked(
        self, planned_s: float, duration_s: float, intended: NDArray[np.float64]
    ) -> NDArray[np.float64] | None:
        """Return the schedule of the planned run, up to its end."""
        import numpy as np

        # The planned run may have no end.
        batches = []
        for batch in self.batches(planned_s):
            batches.append(batch[batch < duration_s])
            if len(batches[-1]) < len(batch):
                break
        return np.concatenate(batches) if batches else np.empty(0)

    # Composition

    @entry_point
    def lasting(self, duration_s: float) -> Composed:
        """Return the same schedule with a length, so that another can follow.

        Raises:
            LoadError: the length is not positive and finite.
        """
        check_positive(f"{self.kind}(...).lasting", "duration_s", duration_s, "seconds above 0")
        return Composed(legs=(Leg(self, float(duration_s)),))

    def as_legs(self) -> tuple[Leg, ...]:
        """Return the schedules that it consists of, one after another."""
        return (Leg(self, self.length_s),)

    @entry_point
    def __add__(self, other: Schedule) -> Composed:
        """Return this schedule, followed by another.

        Raises:
            LoadError: this one has no length, or the other is a closed loop or steered.
        """
        if not isinstance(other, Schedule):
            raise LoadError(
                "only schedules can follow one another",
                where=f"{self!r} + ...",
                expected="poisson(rate=50) or another schedule",
                got=repr(other),
            )
        return Composed(legs=self.as_legs() + other.as_legs())


class Leg(NamedTuple):
    """A part of a composed schedule, and its length in seconds; None for the rest of the run."""

    schedule: Schedule
    length_s: float | None

    def __repr__(self) -> str:
        inner = repr(self.schedule)
        if self.length_s == self.schedule.length_s:
            return inner
        composed = len(self.schedule.as_legs()) > 1
        return f"{f'({inner})' if composed else inner}.lasting({self.length_s:g})"


@dataclass(frozen=True, kw_only=True, repr=False)
class Composed(Schedule):
    """Schedules one after another; see `Schedule.lasting`.

    Attributes:
        legs: in their order. All but the last have a length.
    """

    legs: tuple[Leg, ...]

    def __post_init__(self) -> None:
        for leg in self.legs[:-1]:
            if leg.length_s is None:
                raise LoadError(
                    "a schedule that another follows needs a length",
                    where=f"{leg!r} + ...",
                    fix=f"{leg!r}.lasting(30) + ...",
                )

    @property
    def opening_rate(self) -> float:
        """That of the first schedule."""
        return self.legs[0].schedule.opening_rate

    @property
    def length_s(self) -> float | None:
        """The sum of the lengths; None if the last has none."""
        lengths = [leg.length_s for leg in self.legs if leg.length_s is not None]
        return sum(lengths) if len(lengths) == len(self.legs) else None

    def as_legs(self) -> tuple[Leg, ...]:
        """Return its legs, so that composing is associative."""
        return self.legs

    def check(self, duration_s: float) -> None:
        """Check each schedule over its own length."""
        start_s = 0.0
        for schedule, length_s in self.legs:
            if start_s >= duration_s:
                return
            length_s = duration_s - start_s if length_s is None else length_s
            schedule.check(length_s)
            start_s += length_s

    def batches(self, duration_s: float) -> Iterator[NDArray[np.float64]]:
        """Yield the times of each schedule, moved to its start."""
        start_s = 0.0
        for schedule, length_s in self.legs:
            length_s = duration_s - start_s if length_s is None else length_s
            end_s = min(duration_s, start_s + length_s)
            if start_s >= end_s:
                return
            # Over its own length even where the run ends before: that is what a ramp depends on.
            for batch in schedule.batches(length_s):
                times = batch + start_s
                yield times[times < end_s]
                if len(times) and times[-1] >= end_s:
                    break
            start_s += length_s

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain data, recursively."""
        legs = [[leg.schedule.to_dict(), leg.length_s] for leg in self.legs]
        return {"kind": self.kind, "legs": legs}

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.legs))


def _unit(parameter: str) -> str:
    if parameter == "cv":
        return "a coefficient of variation"
    return "seconds" if parameter.endswith("_s") else "requests per second"


def check_positive(kind: str, name: str, value: Any, expected: str) -> None:
    """Raise a `LoadError` unless the value is a positive, finite number."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise LoadError(
            f"invalid {name}", where=f"{kind}({name}=...)", expected=expected, got=repr(value)
        )


def check_integer(
    kind: str, name: str, value: object, least: int, *, fix: str | None = None
) -> None:
    """Raise a `LoadError` unless the value is an integer (not a `bool`) of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise LoadError(
            f"invalid {name}",
            where=f"{kind}({name}=...)",
            expected=f"an integer of at least {least}",
            got=repr(value),
            fix=fix,
        )
