"""The base class of arrival processes, and checks of their arguments."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from mlkit.errors import LoadError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Arrivals", "check_positive", "check_seed", "is_integer"]


@dataclass(frozen=True, kw_only=True, repr=False)
class Arrivals:
    """An arrival process, as `constant`, `poisson` and their like return it.

    Raises:
        LoadError: a rate or a time is not positive and finite, or ``seed`` not an integer of at
            least 0.
    """

    def __post_init__(self) -> None:
        for parameter in fields(self):
            value = getattr(self, parameter.name)
            if parameter.name == "seed":
                check_seed(self.kind, value)
            elif parameter.type == "float":  # as text: annotations are not evaluated
                unit = "seconds" if parameter.name.endswith("_s") else "requests per second"
                check_positive(self.kind, parameter.name, value, f"{unit} above 0")

    @property
    def kind(self) -> str:
        """Name of the function that returns it, e.g. ``"poisson"``."""
        return type(self).__name__.removesuffix("Rate").lower()

    def times(self, duration_s: float) -> NDArray[np.float64]:
        """Send times in seconds, ascending, from 0 up to but not including ``duration_s``."""
        raise NotImplementedError

    def warmup_times(self, warmup_s: float) -> NDArray[np.float64]:
        """Send times of the warm-up, in seconds before the start (negative).

        They are evenly spaced at the opening rate, and not part of the schedule: a run with a
        warm-up and one without send the same requests at the same measured times.
        """
        import numpy as np

        count = round(warmup_s * self.opening_rate)
        return (np.arange(count, dtype=np.float64) - count) / self.opening_rate

    @property
    def opening_rate(self) -> float:
        """Requests per second at the start of the schedule."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain data, which `arrivals_from_dict` reads."""
        return {"kind": self.kind, **asdict(self)}

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in asdict(self).items())
        return f"{self.kind}({arguments})"


def check_positive(kind: str, name: str, value: Any, expected: str) -> None:
    """Raise a `LoadError` unless the value is a positive, finite number."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise LoadError(
            f"{name} is not usable", where=f"{kind}({name}=...)", expected=expected, got=repr(value)
        )


def is_integer(value: object) -> bool:
    """Whether a value is an integer, and not a `bool`."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_seed(kind: str, seed: int) -> None:
    """Raise a `LoadError` unless the seed is an integer of at least 0."""
    if not is_integer(seed) or seed < 0:
        raise LoadError(
            "seed is not usable",
            where=f"{kind}(seed=...)",
            expected="an integer of at least 0",
            got=repr(seed),
        )
