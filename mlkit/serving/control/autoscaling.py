"""``autoscaling_config`` as plain data: validated in the kernel, completed in the session."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pkgutil import resolve_name
from typing import Any

from mlkit.autoscale import ScalingConfig
from mlkit.define.shipping import dumps
from mlkit.errors import DefinitionError
from mlkit.serving.control.records import StageSettings

__all__ = ["OURS", "PLACED", "autoscaling_settings", "autoscaling_spec"]

DEFAULTS: Mapping[str, Any] = {
    "metrics_interval_s": 0.5,
    "look_back_period_s": 2.0,
    "upscale_delay_s": 0.5,
    "downscale_delay_s": 30.0,
}
"""Defaults that react within seconds; Serve's own take up to a minute."""

PLACED = ("num_cpus", "num_gpus")
OURS = {field.name for field in fields(ScalingConfig)} - set(PLACED)
SERVES = {"initial_replicas", "metrics_interval_s", "aggregation_function"}


def autoscaling_settings(
    config: Mapping[str, Any], where: str, store: Callable[[bytes], str]
) -> StageSettings:
    """Validate an autoscaling configuration and store its policy.

    Args:
        config: options by Serve's names. ``policy`` is a policy of `mlkit.autoscale`, a function,
            or in Serve's form ``{"policy_function": ..., "policy_kwargs": ...}``.
        where: name of the stage, for errors.
        store: stores the pickled policy and returns its key.

    Raises:
        DefinitionError: an option is unknown or has an invalid value.
    """
    plain = {name: value for name, value in config.items() if name != "policy"}
    unknown = sorted(set(plain) - OURS - SERVES)
    if unknown:
        raise DefinitionError(
            f"unknown autoscaling option {', '.join(map(repr, unknown))}",
            where=f"stage {where!r}",
            expected=f"one of {', '.join(sorted(OURS | SERVES))}, policy",
        )
    for name, value in plain.items():
        _check(name, value, where)
    minimum, maximum = plain.get("min_replicas", 1), plain.get("max_replicas", 1)
    if minimum > maximum:
        raise DefinitionError(
            "min_replicas exceeds max_replicas",
            where=f"stage {where!r}",
            got=f"{minimum} and {maximum}",
        )
    policy = _policy(config.get("policy"), where)
    return StageSettings(
        num_replicas=None,
        autoscaling_config=plain,
        policy="" if policy is None else store(dumps(policy)),
        policy_name="" if policy is None else getattr(policy, "__name__", repr(policy)),
    )


def autoscaling_spec(
    settings: StageSettings,
    ray_actor_options: Mapping[str, Any],
    locations: Mapping[str, str],
) -> dict[str, Any]:
    """Return the complete configuration of an autoscaled stage, including defaults."""
    return {
        **DEFAULTS,
        **(settings.autoscaling_config or {}),
        **{name: float(ray_actor_options.get(name, 0)) for name in PLACED},
        "policy": locations[settings.policy] if settings.policy else None,
        "policy_name": settings.policy_name,
    }


def _check(name: str, value: Any, where: str) -> None:
    if name == "aggregation_function" or (name == "downscale_to_zero_delay_s" and value is None):
        return
    integral = name in ("min_replicas", "max_replicas", "initial_replicas")
    kind: Any = int if integral else (int, float)
    minimum = 0 if "delay" in name or name in ("min_replicas", "initial_replicas") else 1e-9
    if not isinstance(value, kind) or isinstance(value, bool) or not value >= minimum:
        sign = "positive" if minimum else "non-negative"
        raise DefinitionError(
            f"invalid {name}",
            where=f"stage {where!r}",
            expected=f"a {sign} {'integer' if integral else 'number'}",
            got=repr(value),
        )


def _policy(policy: Any, where: str) -> Any:
    arguments: dict[str, Any] = {}
    if isinstance(policy, Mapping):
        arguments = dict(policy.get("policy_kwargs") or {})
        policy = policy.get("policy_function")
    if isinstance(policy, str):
        policy = resolve_name(policy)
    if isinstance(policy, type):
        policy = policy(**arguments)
    if policy is not None and not callable(policy):
        raise DefinitionError(
            "invalid autoscaling policy",
            where=f"stage {where!r}",
            expected="on_latency(p95_ms=150), or a function that returns a number of replicas",
            got=repr(policy),
        )
    return policy
