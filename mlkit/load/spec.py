"""What all specifications of arrivals have in common."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mlkit.errors import LoadError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Arrivals", "check_positive", "check_seed", "is_whole"]


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


def check_positive(kind: str, name: str, value: Any, expected: str) -> None:
    """Raise a `LoadError` unless the value is a positive, finite number."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise LoadError(
            f"{name} is not usable", where=f"{kind}({name}=...)", expected=expected, got=repr(value)
        )


def is_whole(value: object) -> bool:
    """Whether a value is an integer; ``True`` is none."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_seed(kind: str, seed: int) -> None:
    """Raise a `LoadError` unless the seed is a whole number from 0 up."""
    if not is_whole(seed) or seed < 0:
        raise LoadError(
            "seed is not usable",
            where=f"{kind}(seed=...)",
            expected="a whole number from 0 up",
            got=repr(seed),
        )
