"""Which of several builds of one model is the quickest here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import TypeVar

from mlkit.models.model import Array, CompiledModel

__all__ = ["quickest"]

BUDGET_S = 0.6
LEAST_ROUNDS = 3
MOST_ROUNDS = 25
MARGIN = 1.1
"""How much quicker one has to be to be taken before those named earlier, which are more exact."""

Model = TypeVar("Model", bound=CompiledModel)


def quickest(
    models: Sequence[Model],
    example: Sequence[Array],
    clock: Callable[[], float] = perf_counter,
) -> Model:
    """The model that answers an example soonest; each gets what was measured as its `timed_ms`.

    They are called by turns, so that whatever else the machine does meets all alike, and the median
    of each counts. A CPU may have bfloat16 and yet be slower in it than in fp32.

    Args:
        models: in the order of preference; a later one has to be a tenth quicker than an earlier.
        example: what they are called with.
        clock: in seconds.
    """
    for model in models:  # the first call makes what later ones use
        model(*example)
    times: list[list[float]] = [[] for _ in models]
    until = clock() + BUDGET_S
    while len(times[0]) < LEAST_ROUNDS or (len(times[0]) < MOST_ROUNDS and clock() < until):
        for model, took in zip(models, times, strict=True):
            began = clock()
            model(*example)
            took.append(clock() - began)
    found = [median(took) for took in times]
    best = 0
    for i, took_s in enumerate(found):
        if took_s * MARGIN < found[best]:
            best = i
    timed_ms: dict[str, float] = {
        m.target.precision: 1e3 * s for m, s in zip(models, found, strict=True)
    }
    for model in models:
        model.timed_ms = timed_ms
    return models[best]
