"""The options that `load_test` and `soak` share, and their validation before anything starts."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, NamedTuple, TypedDict

from mlkit.errors import LoadError
from mlkit.load.arrivals import Arrivals
from mlkit.load.expect import Expect
from mlkit.load.spec import check_integer

__all__ = ["LoadOptions", "Settings", "SoakOptions", "settings_of", "timeout_of"]

TIMEOUT_S = 30.0
RESPONSE_MARGIN_S = 5.0


class _Options(TypedDict, total=False):
    duration_s: float | None
    warmup_s: float
    timeout_s: float | None
    slo_ms: float | None
    progress: bool
    seed: int


class LoadOptions(_Options, total=False):
    """Keywords of `load_test`, for type checkers."""

    expect: Expect | None


class SoakOptions(_Options, total=False):
    """Keywords of `soak`, for type checkers."""

    expect: int | Collection[int] | None
    keep: int
    interval_s: float


class Settings(NamedTuple):
    """Arguments of a load test: durations in seconds, the objective in ms."""

    duration_s: float
    warmup_s: float
    timeout_s: float
    slo_ms: float | None
    seed: int


def settings_of(
    function: str,
    target: Any,
    arrivals: object,
    *,
    duration_s: float | None,
    warmup_s: float,
    timeout_s: float | None,
    slo_ms: float | None,
    seed: int,
    endless: bool = False,
) -> Settings:
    """Validate the arguments of a load test, and fill in defaults.

    Args:
        function: its name, for errors.
        target: an App, whose time limit is that of its requests, or a URL.
        arrivals: their length is the default of ``duration_s``.
        duration_s: length of the measured part.
        warmup_s: length of the warm-up.
        timeout_s: seconds after which a request counts as failed.
        slo_ms: latency objective.
        seed: seed of the payloads.
        endless: whether the test may have no end.

    Raises:
        LoadError: an argument is invalid.
    """
    if not isinstance(arrivals, Arrivals):
        raise LoadError(
            "arrivals must be an arrival process",
            where=f"{function}(target, payloads, arrivals, ...)",
            expected="poisson(rate=50), constant(rate=50) or closed(concurrency=16)",
            got=repr(arrivals),
        )
    if duration_s is None:
        duration_s = arrivals.length_s
    if duration_s is None and endless:
        duration_s = math.inf
    if duration_s is None:
        raise LoadError(
            "the load test has no duration",
            where=f"{function}(..., duration_s=...)",
            expected="seconds, or arrivals with a length",
            got=repr(arrivals),
            fix="duration_s=20, or soak(...) for a test without an end",
        )
    if timeout_s is None:
        timeout_s = timeout_of(target)
    positive = {"timeout_s": timeout_s}
    if not (endless and duration_s == math.inf):
        positive["duration_s"] = duration_s
    if slo_ms is not None:
        positive["slo_ms"] = slo_ms
    for name, value in {**positive, "warmup_s": warmup_s}.items():
        if not 0 <= value < math.inf or (name in positive and value == 0):
            raise LoadError(
                f"invalid {name}",
                where=f"{function}(..., {name}=...)",
                expected=f"a finite number {'above 0' if name in positive else 'of at least 0'}",
                got=repr(value),
            )
    check_integer(function, "seed", seed, 0)
    return Settings(duration_s, warmup_s, timeout_s, slo_ms, seed)


def timeout_of(target: Any) -> float:
    """Seconds to wait for a response: longer than an app may take for it."""
    limits = getattr(target, "limits", None)
    return max(TIMEOUT_S, getattr(limits, "request_timeout_s", 0.0) + RESPONSE_MARGIN_S)
