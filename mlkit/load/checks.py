"""Validation of the arguments of `load_test`, before anything starts."""

from __future__ import annotations

from mlkit.errors import LoadError
from mlkit.load.arrivals import Arrivals, Closed

__all__ = ["MAX_IN_FLIGHT", "check"]

MAX_IN_FLIGHT = 2000


def check(arrivals: object, slo_ms: float | None, **durations: float) -> None:
    """Raise a `LoadError` where an argument of `load_test` is not usable."""
    if not isinstance(arrivals, Arrivals):
        raise LoadError(
            "arrivals must be an arrival process",
            where="load_test(target, payloads, arrivals, ...)",
            expected="poisson(rate=50), constant(rate=50) or closed(concurrency=16)",
            got=repr(arrivals),
        )
    if isinstance(arrivals, Closed) and arrivals.concurrency > MAX_IN_FLIGHT:
        raise LoadError(
            "too many clients for one generator",
            where="closed(concurrency=...)",
            expected=f"at most {MAX_IN_FLIGHT:,}",
            got=f"{arrivals.concurrency:,}",
        )
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
