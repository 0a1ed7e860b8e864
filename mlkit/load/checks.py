"""Validation of the arguments of `load_test`, before anything starts."""

from __future__ import annotations

from mlkit.errors import LoadError
from mlkit.load.arrivals import Arrivals

__all__ = ["check", "duration_of"]


def duration_of(arrivals: object, duration_s: float | None) -> float:
    """Return the length of a load test in seconds: the given one, or else that of the arrivals.

    Raises:
        LoadError: the arrivals have none, or are not arrivals.
    """
    if not isinstance(arrivals, Arrivals):
        raise LoadError(
            "arrivals must be an arrival process",
            where="load_test(target, payloads, arrivals, ...)",
            expected="poisson(rate=50), constant(rate=50) or closed(concurrency=16)",
            got=repr(arrivals),
        )
    length_s = arrivals.length_s if duration_s is None else duration_s
    if length_s is None:
        raise LoadError(
            "how long should it last?",
            where="load_test(..., duration_s=...)",
            expected="seconds, or arrivals with a length",
            got=repr(arrivals),
            fix="duration_s=20, or soak(...) for a test without an end",
        )
    return length_s


def check(slo_ms: float | None, **durations: float) -> None:
    """Raise a `LoadError` where a duration or the objective of `load_test` is not usable."""
    positive = {"duration_s": durations["duration_s"], "timeout_s": durations["timeout_s"]}
    if slo_ms is not None:
        positive["slo_ms"] = slo_ms
    for name, value in {**durations, **positive}.items():
        if not 0 <= value < float("inf") or (name in positive and value == 0):
            least = "above 0" if name in positive else "of at least 0"
            raise LoadError(
                f"{name} is not usable",
                where=f"load_test(..., {name}=...)",
                expected=f"a finite number {least}",
                got=repr(value),
            )
