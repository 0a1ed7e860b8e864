"""Timing of several builds of one model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import TypeVar

from mlkit.models.model import Array, CompiledModel

__all__ = ["fastest"]

BUDGET_S = 0.6
MIN_ROUNDS = 3
MAX_ROUNDS = 25
MARGIN = 1.1
"""A build is preferred to earlier, more exact ones if it is faster by this factor."""

Model = TypeVar("Model", bound=CompiledModel)


def fastest(
    models: Sequence[Model], example: Sequence[Array], clock: Callable[[], float] = perf_counter
) -> Model:
    """Return the model with the lowest median latency, and set `timed_ms` of all.

    Calls are interleaved, so that other load on the machine affects all models alike. A CPU may
    support bfloat16 and still be slower with it than with fp32.

    Args:
        models: in order of preference; see `MARGIN`.
        example: inputs to call them with.
        clock: returns seconds.
    """
    for model in models:  # warm up
        model(*example)
    times: list[list[float]] = [[] for _ in models]
    until = clock() + BUDGET_S
    while len(times[0]) < MIN_ROUNDS or (len(times[0]) < MAX_ROUNDS and clock() < until):
        for model, durations in zip(models, times, strict=True):
            began = clock()
            model(*example)
            durations.append(clock() - began)
    medians = [median(durations) for durations in times]
    best = 0
    for i, median_s in enumerate(medians):
        if median_s * MARGIN < medians[best]:
            best = i
    timed_ms: dict[str, float] = {
        m.target.precision: 1e3 * s for m, s in zip(models, medians, strict=True)
    }
    for model in models:
        model.timed_ms = timed_ms
    return models[best]
