"""How many replicas a stage should have, and why: policies.

A policy is called with `Signals` and gives a number of replicas, or `Wanted` with a reason beside.
Bounds, factors and delays are not its business: see `mlkit.autoscale.decide`.
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

MOST_AT_ONCE = 2.0
"""How many times the replicas a latency may ask for at once: it does not grow in proportion."""

IDLE_SHARE = 0.5
"""Below this share of the objective one replica fewer is tried."""


@dataclass(frozen=True)
class Wanted:
    """What a policy wants.

    Attributes:
        replicas: how many, not rounded.
        why: in words, as for "3.7 ongoing per replica, target 2".
        state: what it is told the next time as ``policy_state``.
        note: what it was that kept it from wanting another number, where one might expect it. After
            some seconds of it ``why`` is put down as "held", once a minute.
    """

    replicas: float
    why: str = ""
    state: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


Policy: TypeAlias = Callable[[Signals], "Wanted | float | tuple[float, Mapping[str, Any]]"]


def wanted_of(answer: Any, name: str) -> Wanted:
    """What a policy of whatever kind gave, in one form.

    Raises:
        DefinitionError: it gave nothing of the kind.
    """
    if isinstance(answer, Wanted):
        found = answer
    elif isinstance(answer, tuple) and len(answer) == 2:
        found = Wanted(answer[0], "", dict(answer[1] or {}))
    else:
        found = Wanted(answer)
    number: Any = found.replicas
    if (
        isinstance(number, bool)
        or not isinstance(number, (int, float))
        or not math.isfinite(number)
    ):
        raise DefinitionError(
            "a policy gives a number of replicas",
            where=f"policy {name!r}",
            expected="a number, (number, state), or Wanted(number, why)",
            got=repr(answer),
        )
    return found if found.why else Wanted(number, f"{name} wants {number:g}", found.state)


@dataclass(frozen=True)
class on_ongoing_requests:  # noqa: N801  # called like a function, and shown by its fields
    """Keep the requests begun and waiting at each replica at a target; Serve's own rule.

    Attributes:
        target: requests at each replica; ``target_ongoing_requests`` of the config if None.
    """

    target: float | None = None

    def __post_init__(self) -> None:
        _positive("target", self.target)

    def __call__(self, signals: Signals) -> Wanted:
        """Replicas, in proportion."""
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
    """Keep how long a replica holds a call below an objective. Give one of the three.

    More replicas help while calls wait for each other; where they do not, it says so and stays.
    Well below the objective one replica fewer is tried, if the others can take what it had.

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
            raise DefinitionError("on_latency takes one objective: p50_ms=, p95_ms= or p99_ms=")

    def __repr__(self) -> str:
        percentile, limit = self.objective
        return f"on_latency(p{percentile}_ms={limit:g})"

    @property
    def objective(self) -> tuple[int, float]:
        """The percentile, and what it should be at most, in ms."""
        name, value = next((n, v) for n, v in vars(self).items() if v is not None)
        return int(name[1:3]), value

    def __call__(self, signals: Signals) -> Wanted:
        """Replicas, by how far the latency is from the objective."""
        percentile, limit = self.objective
        have = signals.current_num_replicas
        if have and not signals.latest.get("rate"):
            why = "no replica has said how long it takes (with observe=False none does)"
            return Wanted(signals.target_num_replicas, why, note="nothing read")
        latency = signals.latency_ms(percentile)
        if latency is None:
            idle = signals.total_num_requests < 0.1
            return Wanted(0 if idle else have, "no request lately" if idle else "none answered yet")
        said = f"p{percentile} {latency:.0f} ms, objective {limit:g} ms"
        if latency > limit:
            if signals.ongoing_per_replica <= 1.0:
                said += f", but only {signals.ongoing_per_replica:.1f} ongoing per replica"
                return Wanted(have, f"{said}: more replicas would not help", note="would not help")
            return Wanted(have * min(latency / limit, MOST_AT_ONCE), said)
        spare = latency < IDLE_SHARE * limit and have > 1
        if spare and signals.total_num_requests / (have - 1) <= 2.0:
            return Wanted(have - 1, said)
        return Wanted(have, said)


@dataclass(frozen=True)
class on_cpu:  # noqa: N801
    """Keep the processor use of each replica at a share of what it was given.

    Attributes:
        target: share of the replica's ``num_cpus`` (of one core where it has none).
    """

    target: float = 0.7

    def __post_init__(self) -> None:
        _positive("target", self.target)

    def __call__(self, signals: Signals) -> Wanted:
        """Replicas, in proportion."""
        cores = signals.mean("cpu")
        if cores is None:
            why = "no replica has said what it uses (with observe=False none does)"
            return Wanted(signals.current_num_replicas, why, note="nothing read")
        given = signals.config.num_cpus or 1.0
        return Wanted(
            signals.current_num_replicas * (cores / given) / self.target,
            f"{cores:.2f} of {given:g} CPU used per replica, target {self.target:.0%}",
        )


@dataclass(frozen=True)
class on_gpu:  # noqa: N801
    """Keep the GPU use of each replica at a share of what it was given.

    It needs the extra ``gpu`` where replicas run; where no GPU is read, nothing changes.

    Attributes:
        target: share of the replica's ``num_gpus`` (of one GPU where it has none).
    """

    target: float = 0.7

    def __post_init__(self) -> None:
        _positive("target", self.target)

    def __call__(self, signals: Signals) -> Wanted:
        """Replicas, in proportion."""
        used = signals.mean("gpu")
        if used is None:
            why = "no replica reads a GPU: that takes torch on one, and mlkit[gpu]"
            return Wanted(signals.current_num_replicas, why, note="nothing read")
        given = signals.config.num_gpus or 1.0
        return Wanted(
            signals.current_num_replicas * (used / given) / self.target,
            f"{used:.2f} of {given:g} GPU used per replica, target {self.target:.0%}",
        )


class highest:  # noqa: N801
    """Whatever the most demanding of several policies wants."""

    def __init__(self, *policies: Policy) -> None:
        if not policies:
            raise DefinitionError("highest() takes policies: highest(on_cpu(), on_latency(...))")
        self.policies = policies

    def __call__(self, signals: Signals) -> Wanted:
        """The highest number, with its reason; each policy keeps its own state."""
        found = []
        for i, policy in enumerate(self.policies):
            mine = signals.policy_state.get(str(i), {})
            told = replace(signals, policy_state=mine)
            found.append(wanted_of(policy(told), getattr(policy, "__name__", repr(policy))))
        best = max(found, key=lambda one: one.replicas)
        states = {str(i): one.state for i, one in enumerate(found)}
        return Wanted(best.replicas, best.why, states, best.note)

    def __repr__(self) -> str:
        return f"highest({', '.join(map(repr, self.policies))})"


def _is_number(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value)


def _positive(name: str, value: Any) -> None:
    if value is not None and not (_is_number(value) and value > 0):
        raise DefinitionError(f"{name} is a positive number", got=repr(value))
