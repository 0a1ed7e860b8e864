"""From what a policy wants to how many replicas there are, with the reason for it in words.

Factors, bounds and delays work as in Serve (``ray/serve/autoscaling_policy.py``), and are done
here, because Serve does not say when it holds a change back, nor why.
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
WORTH_SAYING_S = 1.0
"""A delay that has less to go, or has just begun, is not put down as a decision of its own."""

NOTE_AFTER_S = 5.0
"""A policy that has nothing to go by yet, or whose reading crosses a line for a moment."""
NOTE_AGAIN_S = 60.0


@dataclass(frozen=True)
class Decision:
    """What was decided of a stage's replicas, and why.

    Attributes:
        at: seconds since the epoch.
        kind: "scaled"; "held" by a delay, "limited" by a bound, "blocked" by the cluster; "ready"
            when what was wanted is there; "failed" where a policy raised.
        before: replicas that were wanted until then.
        after: replicas that are wanted from then on.
        why: in words.
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
        """It as plain data."""
        return asdict(self)


@dataclass
class Decider:
    """Applies a policy to a stage, call after call.

    Attributes:
        name: of the policy, in words.
    """

    stage: str
    config: ScalingConfig
    policy: Policy | None = None
    name: str = "the policy"

    def decide(
        self, signals: Signals, state: Mapping[str, Any]
    ) -> tuple[int, dict[str, Any], list[Decision]]:
        """How many replicas there should be now.

        Args:
            signals: what is known of the stage.
            state: what was given back the last time; empty at first.

        Returns:
            the number, the state for the next time, and what there is to put down.
        """
        target, now = signals.target_num_replicas, signals.current_time
        found = self._noticed(signals, state)
        try:
            wanted = wanted_of((self.policy or on_ongoing_requests())(signals), self.name)
        except Exception as error:
            why = f"{self.name} raised {type(error).__name__}: {error}; {target} stay"
            if state.get("said") != why:
                found.append(Decision(now, self.stage, "failed", target, target, why))
            return target, {**state, "wanted": target, "said": why}, found
        number, bound = self._bounded(wanted, signals)
        new = {"wanted": target, "user": dict(wanted.state), "said": bound or None}
        note, since, said_at = state.get("noted") or ("", now, -math.inf)
        if note != wanted.note:
            note, since = wanted.note, now
        if number == target:
            if note and now - since >= NOTE_AFTER_S and now - said_at >= NOTE_AGAIN_S:
                found.append(Decision(now, self.stage, "held", target, target, wanted.why))
                said_at = now
            new["noted"] = (note, since, said_at)
            if bound and state.get("said") != bound:
                why = f"{wanted.why}; wants {math.ceil(wanted.replicas)}, {bound}"
                found.append(Decision(now, self.stage, "limited", target, target, why))
            return target, new, found
        return self._delayed(number, bound, wanted, signals, state, new, found)

    def _noticed(self, signals: Signals, state: Mapping[str, Any]) -> list[Decision]:
        """What Serve or a deployment changed since the last time."""
        last, target = state.get("wanted"), signals.target_num_replicas
        if last is None or last == target:
            return []
        if last == 0:
            why = "a request came and no replica was there"
        else:
            why = "asked for by a deployment or its bounds"
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
        found: list[Decision],
    ) -> tuple[int, dict[str, Any], list[Decision]]:
        """Change the number, or hold it until it was wanted for long enough."""
        target, now = signals.target_num_replicas, signals.current_time
        up = number > target
        if not up and target > 1:
            number = max(1, number)  # the last one goes alone, after a delay of its own
        since = state["since"] if state.get("up") == up else now
        delay_s, delay = self._delay(up, target)
        left_s = since + delay_s - now
        if left_s <= _EPSILON_S:
            waited = f", for {delay_s:g} s" if delay_s >= WORTH_SAYING_S else ""
            why = wanted.why + waited + (f"; {bound}" if bound else "")
            found.append(Decision(now, self.stage, "scaled", target, number, why))
            return number, {**new, "wanted": number}, found
        said = state.get("said") == delay
        # A dip of a moment is not worth a line.
        worth = now - since >= min(WORTH_SAYING_S, delay_s / 2) and left_s >= WORTH_SAYING_S
        if worth and not said:
            why = f"{delay} has {left_s:.0f} s to go; {wanted.why}; wants {number}"
            found.append(Decision(now, self.stage, "held", target, target, why))
        said = said or worth
        return target, {**new, "up": up, "since": since, "said": delay if said else None}, found

    def _bounded(self, wanted: Wanted, signals: Signals) -> tuple[int, str]:
        """What is wanted with the factors, within the bounds; and the bound that it ran into."""
        have = signals.current_num_replicas
        number = math.ceil(wanted.replicas - 1e-9)
        if have:
            difference = wanted.replicas - have
            factor = (
                self.config.upscaling_factor if difference > 0 else (self.config.downscaling_factor)
            )
            number = math.ceil(have + factor * difference - 1e-9)
            if math.ceil(wanted.replicas - 1e-9) < have == number:
                number -= 1  # a small factor must not keep it for ever
        least = signals.capacity_adjusted_min_replicas
        most = signals.capacity_adjusted_max_replicas
        if number > most:
            return most, f"bounded by max_replicas {most}"
        if number < least:
            return least, ""  # the usual rest, and nothing to explain
        return number, ""

    def _delay(self, up: bool, target: int) -> tuple[float, str]:
        if up:
            # From nothing a request waits: then there is no delay.
            return (self.config.upscale_delay_s if target else 0.0), "upscale_delay_s"
        zero_s = self.config.downscale_to_zero_delay_s
        if target == 1 and zero_s is not None:
            return zero_s, "downscale_to_zero_delay_s"
        return self.config.downscale_delay_s, "downscale_delay_s"
