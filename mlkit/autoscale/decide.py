"""Scaling decisions: factors, bounds and delays applied to a policy's result, with reasons.

These work as in Serve (``ray/serve/autoscaling_policy.py``), which does not report whether and why
it holds a change back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

from mlkit.autoscale.policies import Policy, Wanted, on_ongoing_requests, wanted_of
from mlkit.autoscale.signals import ScalingConfig, Signals

__all__ = ["Decider", "Decision", "Kind"]

Kind: TypeAlias = Literal["scaled", "held", "limited", "blocked", "ready", "failed"]

_EPSILON_S = 1e-6
MIN_REPORTED_S = 1.0
"""Delays that are shorter, have just begun or are almost over are not recorded."""

NOTE_AFTER_S = 5.0
"""Minimum duration of a recorded note: missing or fluctuating readings are common at first."""
NOTE_AGAIN_S = 60.0
"""Time after which the same note is recorded again."""


@dataclass(frozen=True)
class Decision:
    """A decision on the number of a stage's replicas.

    Attributes:
        at: seconds since the epoch.
        kind: "scaled"; "held" by a delay, "limited" by a bound, "blocked" by the cluster; "ready"
            once all wanted replicas are; "failed" if the policy raised.
        before: target before the decision.
        after: target after the decision.
        why: the reason.
    """

    at: float
    stage: str
    kind: Kind
    before: int
    after: int
    why: str

    def __str__(self) -> str:
        time = datetime.fromtimestamp(self.at).strftime("%H:%M:%S")
        if self.kind == "scaled":
            return f"{time} {self.stage} {self.before} → {self.after}: {self.why}"
        return f"{time} {self.stage} {self.kind}: {self.why}"

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain data."""
        return asdict(self)


@dataclass
class Decider:
    """Applies a policy to a stage, with factors, bounds and delays.

    Attributes:
        name: name of the policy, for messages.
    """

    stage: str
    config: ScalingConfig
    policy: Policy | None = None
    name: str = "the policy"

    def decide(
        self, signals: Signals, state: Mapping[str, Any]
    ) -> tuple[int, dict[str, Any], list[Decision]]:
        """Decide how many replicas the stage should have.

        Args:
            signals: the state of the stage.
            state: state returned from the previous call; empty at first.

        Returns:
            the number, the state for the next call, and the decisions to record.
        """
        target, now = signals.target_num_replicas, signals.current_time
        decisions = self._external(signals, state)
        try:
            wanted = wanted_of((self.policy or on_ongoing_requests())(signals), self.name)
        except Exception as error:
            why = f"{self.name} raised {type(error).__name__}: {error}; target remains {target}"
            if state.get("reported") != why:
                decisions.append(Decision(now, self.stage, "failed", target, target, why))
            return target, {**state, "wanted": target, "reported": why}, decisions
        number, bound = self._bounded(wanted, signals)
        new = {"wanted": target, "user": dict(wanted.state), "reported": bound or None}
        note, since, noted_at = state.get("note") or ("", now, -math.inf)
        if note != wanted.note:
            note, since = wanted.note, now
        if number == target:
            if note and now - since >= NOTE_AFTER_S and now - noted_at >= NOTE_AGAIN_S:
                decisions.append(Decision(now, self.stage, "held", target, target, wanted.why))
                noted_at = now
            new["note"] = (note, since, noted_at)
            if bound and state.get("reported") != bound:
                why = f"{wanted.why}; wants {math.ceil(wanted.replicas)}, {bound}"
                decisions.append(Decision(now, self.stage, "limited", target, target, why))
            return target, new, decisions
        return self._delayed(number, bound, wanted, signals, state, new, decisions)

    def _external(self, signals: Signals, state: Mapping[str, Any]) -> list[Decision]:
        """Changes of the target by Serve or a deployment since the previous call."""
        last, target = state.get("wanted"), signals.target_num_replicas
        if last is None or last == target:
            return []
        if last == 0:
            why = "a request arrived while no replica was running"
        else:
            why = "set by a deployment or its bounds"
        at = min(signals.last_change_at or signals.current_time, signals.current_time)
        return [Decision(at, self.stage, "scaled", last, target, why)]

    def _delayed(
        self,
        number: int,
        bound: str,
        wanted: Wanted,
        signals: Signals,
        state: Mapping[str, Any],
        new: dict[str, Any],
        decisions: list[Decision],
    ) -> tuple[int, dict[str, Any], list[Decision]]:
        """Change the number, or hold it until it has been wanted for the delay."""
        target, now = signals.target_num_replicas, signals.current_time
        up = number > target
        if not up and target > 1:
            number = max(1, number)  # the last replica stops after a delay of its own
        since = state["since"] if state.get("up") == up else now
        delay_s, delay = self._delay(up, target)
        left_s = since + delay_s - now
        if left_s <= _EPSILON_S:
            waited = f", for {delay_s:g} s" if delay_s >= MIN_REPORTED_S else ""
            why = wanted.why + waited + (f"; {bound}" if bound else "")
            decisions.append(Decision(now, self.stage, "scaled", target, number, why))
            return number, {**new, "wanted": number}, decisions
        reported = state.get("reported") == delay
        # Brief fluctuations are not recorded.
        lasting = now - since >= min(MIN_REPORTED_S, delay_s / 2) and left_s >= MIN_REPORTED_S
        if lasting and not reported:
            why = f"{delay} has {left_s:.0f} s to go; {wanted.why}; wants {number}"
            decisions.append(Decision(now, self.stage, "held", target, target, why))
        held = delay if reported or lasting else None
        return target, {**new, "up": up, "since": since, "reported": held}, decisions

    def _bounded(self, wanted: Wanted, signals: Signals) -> tuple[int, str]:
        """Apply factors and bounds; return the number, and the bound that limits it."""
        current = signals.current_num_replicas
        number = math.ceil(wanted.replicas - 1e-9)
        if current:
            difference, config = wanted.replicas - current, self.config
            factor = config.upscaling_factor if difference > 0 else config.downscaling_factor
            scaled = math.ceil(current + factor * difference - 1e-9)
            # A small factor must not prevent scaling down forever.
            number = scaled - 1 if number < current == scaled else scaled
        maximum = signals.capacity_adjusted_max_replicas
        if number > maximum:
            return maximum, f"bounded by max_replicas {maximum}"
        # The minimum is the normal idle state, and needs no explanation.
        return max(number, signals.capacity_adjusted_min_replicas), ""

    def _delay(self, up: bool, target: int) -> tuple[float, str]:
        if up:
            # Without replicas, requests are waiting: scale up at once.
            return (self.config.upscale_delay_s if target else 0.0), "upscale_delay_s"
        zero_s = self.config.downscale_to_zero_delay_s
        if target == 1 and zero_s is not None:
            return zero_s, "downscale_to_zero_delay_s"
        return self.config.downscale_delay_s, "downscale_delay_s"
