"""Autoscaling in Serve: mlkit's policies, bounds and delays inside a Serve policy.

Serve's controller calls a policy several times per second and then applies its own factors and
delays, without reporting suppressed decisions. So Serve's are disabled and applied in `Adapter`,
which pushes each decision and its reason to the session's gatherer.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import warnings
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from mlkit.autoscale import Decider, Decision, ScalingConfig, Signals
from mlkit.define.shipping import loads
from mlkit.serving.control.autoscaling import OURS, PLACED

__all__ = ["Adapter", "serve_config"]

logger = logging.getLogger(__name__)


def serve_config(spec: Mapping[str, Any], running: int) -> Any:
    """Create Serve's ``AutoscalingConfig``.

    Args:
        spec: what `autoscaling_spec` returned, with ``app``, ``stage`` and ``gatherer``.
        running: current number of replicas, which a new configuration does not change. A new
            deployment starts with at least one, to verify that it starts.
    """
    from ray import cloudpickle
    from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

    options = dict(spec)
    app, stage, gatherer = (options.pop(name) for name in ("app", "stage", "gatherer"))
    first = running or options.get("initial_replicas") or max(1, options.get("min_replicas", 1))
    bounds = options.get("min_replicas", 1), options.get("max_replicas", 1)
    options["initial_replicas"] = min(max(first, bounds[0]), bounds[1])
    data = Path(spec["policy"]).read_bytes() if spec["policy"] else b""
    config: dict[str, Any] = {name: spec[name] for name in OURS | set(PLACED) if name in spec}
    adapter = Adapter(app, stage, gatherer, config, data, spec["policy_name"])
    # Serve compares policies by name only.
    digest = hashlib.sha256(json.dumps(dict(spec), sort_keys=True, default=str).encode())
    policy = AutoscalingPolicy.from_serialized_policy_def(
        {"policy_function": f"{__name__}:{_NAMED}{digest.hexdigest()[:16]}"},
        cloudpickle.dumps(adapter),  # type: ignore[no-untyped-call]
    )
    ours = ("upscale_delay_s", "downscale_delay_s", "downscale_to_zero_delay_s")
    factors = ("upscaling_factor", "downscaling_factor", "policy", "policy_name")
    kept = {name: v for name, v in options.items() if name not in (*ours, *factors, *PLACED)}
    config = {**kept, **dict.fromkeys(ours, 0.0), "policy": policy}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # metrics_interval_s is deprecated, but still used
        return AutoscalingConfig(**config)


_NAMED = "policy_"


def __getattr__(name: str) -> Any:
    """Resolve the name of any policy: Serve imports it to return details."""
    if name.startswith(_NAMED):
        return shipped
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def shipped(context: Any) -> tuple[int, dict[str, Any]]:
    """Placeholder of a policy, which is shipped as a pickle; never called."""
    return context.target_num_replicas, context.policy_state


class Adapter:
    """Serve policy that runs a `Decider` on the signals of a stage."""

    def __init__(
        self, app: str, stage: str, gatherer: str, config: dict[str, Any], policy: bytes, name: str
    ) -> None:
        self.app = app
        self.stage = stage
        self.gatherer = gatherer
        self.config = config
        self.policy = policy
        self.name = name

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_decider"}

    @cached_property
    def _decider(self) -> Decider:
        policy = loads(self.policy) if self.policy else None
        return Decider(self.stage, ScalingConfig(**self.config), policy, self.name or "the policy")

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Return the target number of replicas, and the state for the next call."""
        state = context.policy_state.get("mlkit", {})
        decider = self._decider
        signals = _signals(context, decider.config, state.get("user", {}))
        number, state, decisions = decider.decide(signals, state)
        if decisions and self.gatherer:
            # Must not block the controller's event loop.
            threading.Thread(target=self._record, args=(decisions,), daemon=True).start()
        return number, {"mlkit": state}

    def _record(self, decisions: list[Decision]) -> None:
        from mlkit.serving.port.gathering import scaled

        try:
            scaled(
                self.gatherer, self.app, decisions=[decision.to_dict() for decision in decisions]
            )
        except Exception as error:
            logger.warning("cannot record a scaling decision: %s", error)


def _signals(context: Any, config: ScalingConfig, state: Mapping[str, Any]) -> Signals:
    changes = (context.last_scale_up_time, context.last_scale_down_time)
    return Signals(
        current_time=context.current_time,
        current_num_replicas=context.current_num_replicas,
        target_num_replicas=context.target_num_replicas,
        total_num_requests=context.total_num_requests,
        total_queued_requests=context.total_queued_requests or 0.0,
        capacity_adjusted_min_replicas=context.capacity_adjusted_min_replicas,
        capacity_adjusted_max_replicas=context.capacity_adjusted_max_replicas,
        config=config,
        policy_state=state,
        latest={
            name: {
                str(replica): float(series[-1].value)
                for replica, series in replicas.items()
                if series
            }
            for name, replicas in (context.raw_metrics or {}).items()
        },
        last_change_at=max((at for at in changes if at is not None), default=None),
        context=context,
    )
