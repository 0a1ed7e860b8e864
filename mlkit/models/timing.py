"""Interleaved timing of several builds of one model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import TypeVar

from mlkit.models.model import Array, CompiledModel

__all__ = ["block", "fastest"]

BUDGET_S = 0.6
MIN_ROUNDS = 3
MAX_ROUNDS = 25
MARGIN = 1.1
"""A build is preferred to earlier, more exact ones if it is faster by this factor."""

Model = TypeVar("Model", bound=CompiledModel)


def fastest(
    models: Sequence[Model],
    example: Sequence[Array],
    clock: Callable[[], float] = perf_counter,
    *,
    differs: Callable[[Model, Model], str],
) -> Model:
    """Return the model with the lowest median latency among those that agree with the first.

    Calls are interleaved, so that other load on the machine affects all models alike. A CPU may
    support bfloat16 and still be slower with it than with fp32. Sets `timed_ms` and `refused` of
    the model that is returned.

    Args:
        models: in order of preference, the exact one first; see `MARGIN`.
        example: inputs to call them with.
        clock: returns seconds.
        differs: is called with the first model and another; returns why the other's results do not
            agree, or an empty text.
    """
    exact, *others = models
    reasons = {model.target.precision: differs(exact, model) for model in others}
    kept = [exact, *(model for model in others if not reasons[model.target.precision])]
    times: list[list[float]] = [[] for _ in kept]
    for model in kept:  # warm up
        model(*example)
    until = clock() + BUDGET_S
    while len(kept) > 1 and (
        len(times[0]) < MIN_ROUNDS or (len(times[0]) < MAX_ROUNDS and clock() < until)
    ):
        for model, durations in zip(kept, times, strict=True):
            began = clock()
            model(*example)
            durations.append(clock() - began)
    medians = [median(durations) if durations else 0.0 for durations in times]
    best = 0
    for i, median_s in enumerate(medians):
        if median_s * MARGIN < medians[best]:
            best = i
    chosen = kept[best]
    if len(kept) > 1:
        timed = zip(kept, medians, strict=True)
        chosen.timed_ms = {model.target.precision: 1e3 * s for model, s in timed}
    chosen.refused = {name: reason for name, reason in reasons.items() if reason}
    return chosen


def block(
    call: Callable[[], object], length_s: float, clock: Callable[[], float] = perf_counter
) -> list[float]:
    """Call a function repeatedly for a while; return the seconds of each call.

    The first call only warms the caches that others have used in the meantime.
    """
    call()
    times: list[float] = []
    until = clock() + length_s
    while not times or clock() < until:
        began = clock()
        call()
        times.append(clock() - began)
    return times
