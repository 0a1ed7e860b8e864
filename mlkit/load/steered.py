"""Arrivals at a rate that can be changed during the run, for instance by a slider."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from mlkit.errors import LoadError, entry_point
from mlkit.load.spec import Arrivals

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Steered", "steered"]

SHAPES = ("poisson", "constant")


@dataclass(frozen=True, kw_only=True, repr=False)
class Steered(Arrivals):
    """No schedule known in advance; see `steered`. `LoadResult.schedule` has the actual rates."""

    rate: float
    shape: str = "poisson"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shape not in SHAPES:
            raise LoadError(
                "unknown shape",
                where="steered(shape=...)",
                expected=" or ".join(SHAPES),
                got=repr(self.shape),
            )

    @property
    def loop(self) -> dict[str, Any]:
        """The loop that draws one send time after another."""
        return asdict(self) | {"kind": "steered"}

    @property
    def opening_rate(self) -> float:
        """The initial rate."""
        return self.rate

    @property
    def steerable(self) -> bool:
        """Always."""
        return True

    def asked(
        self, planned_s: float, duration_s: float, intended: NDArray[np.float64]
    ) -> NDArray[np.float64] | None:
        """Return the times that were drawn."""
        return intended


@entry_point
def steered(
    *, rate: float, shape: Literal["poisson", "constant"] = "poisson", seed: int = 0
) -> Steered:
    """Send requests at a rate that can be changed during the run: ``run.rate = 80``.

    ::

        run = load_test(app, payloads, steered(rate=20), duration_s=600, wait=False)
        run.rate = 80
        run.stop()

    They are sent at the times drawn for them, however long responses take, as with `poisson` and
    `constant`; a new rate applies from the moment it is set. ``run.result().schedule()`` sends the
    same again.

    Raises:
        LoadError: ``rate`` is not positive and finite, ``seed`` not an integer of at least 0, or
            the shape unknown.
    """
    return Steered(rate=rate, shape=shape, seed=seed)
