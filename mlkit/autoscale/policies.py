"""Autoscaling policies: how many replicas a stage should have, and why.

A policy is called with `Signals` and returns a number of replicas, or `Wanted` with a reason.
Factors, bounds and delays are applied afterwards: see `mlkit.autoscale.decide`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from mlkit.autoscale.signals import Signals
from mlkit.errors import DefinitionError

__all__ = [
    "Policy",
    "Wanted",
    "highest",
    "on_cpu",
    "on_gpu",
    "on_latency",
    "on_ongoing_requests",
    "wanted_of",
]

MAX_GROWTH = 2.0
"""Maximum factor per decision on latency, which does not grow in proportion to load."""

IDLE_SHARE = 0.5
"""Share of the objective below which one replica fewer is tried."""


@dataclass(frozen=True)
class Wanted:
    """Result of a policy.

    Attributes:
        replicas: number of replicas, not rounded.
        why: the reason, such as "3.7 ongoing per replica, target 2".
        state: passed to the next call as ``policy_state``.
        note: short reason why the number does not change when a user might expect it. If it lasts
            for some seconds, ``why`` is recorded as "held", once a minute.
    """

    replicas: float
    why: str = ""
    state: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


Policy: TypeAlias = Callable[[Signals], "Wanted | float | tuple[float, Mapping[str, Any]]"]


def wanted_of(answer: Any, name: str) -> Wanted:
    """Convert what a policy returned to `Wanted`.

    Raises:
        DefinitionError: it is not a number of replicas.
    """
    if isinstance(answer, Wanted):
        wanted = answer
    elif isinstance(answer, tuple) and len(answer) == 2:
        wanted = Wanted(answer[0], "", dict(answer[1] or {}))
    else:
        wanted = Wanted(answer)
    number: Any = wanted.replicas
    if not _is_number(number):
        raise DefinitionError(
            "a policy returns a number of replicas",
            where=f"policy {name!r}",
            expected="a number, (number, state), or Wanted(number, why)",
            got=repr(answer),
        )
    return wanted if wanted.why else Wanted(number, f"{name} wants {number:g}", wanted.state)


@dataclass(frozen=True)
class on_ongoing_requests:  # noqa: N801  # called like a function, and shown by its fields
    """Keep the ongoing requests per replica, running and queued, at a target; Serve's own policy.

    Attributes:
        target: requests per replica; ``target_ongoing_requests`` of the config if None.
    """

    target: float | None = None

    def __post_init__(self) -> None:
        _positive("target", self.target)

    def __call__(self, signals: Signals) -> Wanted:
        """Scale in proportion."""
        target = self.target or signals.config.get_target_ongoing_requests()
        if not signals.current_num_replicas:
            return Wanted(signals.target_num_replicas, "no replica is ready")
        return Wanted(
            signals.total_num_requests / target,
            f"{signals.ongoing_per_replica:.1f} ongoing per replica, target {target:g},"
            f" over {signals.config.look_back_period_s:g} s",
        )


@dataclass(frozen=True, kw_only=True)
class on_latency:  # noqa: N801
    """Keep one latency percentile of a stage's calls below an objective.

    More replicas help while calls wait for each other; otherwise the policy keeps the number and
    says why. Well below the objective it tries one replica fewer, if the others can take its load.

    Attributes:
        p50_ms: objective for the median, in ms.
        p95_ms: objective for the 95th percentile, in ms.
        p99_ms: objective for the 99th percentile, in ms.
    """

    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            _positive(name, value)
        if sum(value is not None for value in vars(self).values()) != 1:
            raise DefinitionError("on_latency takes exactly one of p50_ms=, p95_ms= and p99_ms=")

    def __repr__(self) -> str:
        percentile, limit = self.objective
        return f"on_latency(p{percentile}_ms={limit:g})"

    @property
    def objective(self) -> tuple[int, float]:
        """The percentile and its maximum in ms."""
        name, value = next((n, v) for n, v in vars(self).items() if v is not None)
        return int(name[1:3]), value

    def __call__(self, signals: Signals) -> Wanted:
        """Scale by the ratio of the latency to the objective."""
        percentile, limit = self.objective
        current = signals.current_num_replicas
        if current and not signals.latest.get("rate"):
            why = "no replica reported its latency (with observe=False none does)"
            return Wanted(signals.target_num_replicas, why, note="no readings")
        latency = signals.latency_ms(percentile)
        if latency is None:
            idle = signals.total_num_requests < 0.1
            return Wanted(
                0 if idle else current, "no recent requests" if idle else "no response yet"
            )
        why = f"p{percentile} {latency:.0f} ms, objective {limit:g} ms"
        if latency > limit:
            if signals.ongoing_per_replica <= 1.0:
                why += f", but only {signals.ongoing_per_replica:.1f} ongoing per replica"
                why += ": more replicas would not help"
                return Wanted(current, why, note="would not help")
            return Wanted(current * min(latency / limit, MAX_GROWTH), why)
        spare = latency < IDLE_SHARE * limit and current > 1
        if spare and signals.total_num_requests / (current - 1) <= 2.0:
            return Wanted(current - 1, why)
        return Wanted(current, why)


@dataclass(frozen=True)
class _OnUse:
    target: float = 0.7

    def __post_init__(self) -> None:
        _positive("target", self.target)


class on_cpu(_OnUse):  # noqa: N801
    """Keep the CPU use of each replica at a share of its CPUs.

    Attributes:
        target: share of the replica's ``num_cpus``, or of one core if it has none.
    """

    def __call__(self, signals: Signals) -> Wanted:
        """Scale in proportion."""
        missing = "no replica reported its CPU use (with observe=False none does)"
        return _by_use("cpu", signals, signals.config.num_cpus or 1.0, self.target, missing)


class on_gpu(_OnUse):  # noqa: N801
    """Keep the GPU use of each replica at a share of its GPUs.

    Requires the extra ``gpu`` on the nodes of the replicas; without readings, the number of
    replicas does not change.

    Attributes:
        target: share of the replica's ``num_gpus``, or of one GPU if it has none.
    """

    def __call__(self, signals: Signals) -> Wanted:
        """Scale in proportion."""
        missing = "no replica reported its GPU use (requires torch on a GPU, and mlkit[gpu])"
        return _by_use("gpu", signals, signals.config.num_gpus or 1.0, self.target, missing)


def _by_use(metric: str, signals: Signals, reserved: float, target: float, missing: str) -> Wanted:
    used = signals.mean(metric)
    if used is None:
        return Wanted(signals.current_num_replicas, missing, note="no readings")
    return Wanted(
        signals.current_num_replicas * (used / reserved) / target,
        f"{used:.2f} of {reserved:g} {metric.upper()} used per replica, target {target:.0%}",
    )


class highest:  # noqa: N801
    """The highest number that any of several policies wants."""

    def __init__(self, *policies: Policy) -> None:
        if not policies:
            raise DefinitionError(
                "highest() requires policies", fix="highest(on_cpu(), on_latency(p95_ms=150))"
            )
        self.policies = policies

    def __call__(self, signals: Signals) -> Wanted:
        """Return the highest number, with its reason; each policy has a state of its own."""
        results = []
        for i, policy in enumerate(self.policies):
            own = replace(signals, policy_state=signals.policy_state.get(str(i), {}))
            results.append(wanted_of(policy(own), getattr(policy, "__name__", repr(policy))))
        best = max(results, key=lambda wanted: wanted.replicas)
        states = {str(i): wanted.state for i, wanted in enumerate(results)}
        return replace(best, state=states)

    def __repr__(self) -> str:
        return f"highest({', '.join(map(repr, self.policies))})"


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def _positive(name: str, value: Any) -> None:
    if value is not None and not (_is_number(value) and value > 0):
        raise DefinitionError(f"invalid {name}", expected="a positive number", got=repr(value))
