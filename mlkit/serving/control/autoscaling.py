"""An ``autoscaling_config`` as plain data: validated in the kernel, completed in the session."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
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
"""What is left out reacts in seconds; Serve's own defaults take the better part of a minute."""

PLACED = ("num_cpus", "num_gpus")
OURS = {field.name for field in fields(ScalingConfig)} - set(PLACED)
SERVES = {"initial_replicas", "metrics_interval_s", "aggregation_function"}


def autoscaling_settings(
    config: Mapping[str, Any], where: str, store: Callable[[bytes], str]
) -> StageSettings:
    """Settings of a stage that scales by this.

    Args:
        config: by Serve's names. ``policy`` is a policy of `mlkit.autoscale`, a function, or in
            Serve's own form ``{"policy_function": ..., "policy_kwargs": ...}``.
        where: the stage, for errors.
        store: keeps the pickled policy; returns its key.

    Raises:
        DefinitionError: there is no such option, or a value cannot be.
    """
    plain = {name: value for name, value in config.items() if name != "policy"}
    unknown = sorted(set(plain) - OURS - SERVES)
    if unknown:
        raise DefinitionError(
            f"autoscaling_config has no {', '.join(map(repr, unknown))}",
            where=f"stage {where!r}",
            expected=f"of {', '.join(sorted(OURS | SERVES))}, policy",
        )
    for name, value in plain.items():
        _check(name, value, where)
    least, most = plain.get("min_replicas", 1), plain.get("max_replicas", 1)
    if least > most:
        raise DefinitionError(
            "min_replicas is more than max_replicas",
            where=f"stage {where!r}",
            got=f"{least} and {most}",
        )
    policy = _policy(config.get("policy"), where)
    return StageSettings(
        num_replicas=None,
        autoscaling_config=plain,
        policy="" if policy is None else store(dumps(policy)),
        policy_name="" if policy is None else _name_of(policy),
    )


def autoscaling_spec(
    settings: StageSettings,
    ray_actor_options: Mapping[str, Any],
    locations: Mapping[str, str],
) -> dict[str, Any]:
    """All that an autoscaled stage is told, defaults included."""
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
    counts = name in ("min_replicas", "max_replicas", "initial_replicas")
    kind: Any = int if counts else (int, float)
    least = 0 if "delay" in name or name in ("min_replicas", "initial_replicas") else 1e-9
    if not isinstance(value, kind) or isinstance(value, bool) or not value >= least:
        raise DefinitionError(
            f"{name} cannot be this",
            where=f"stage {where!r}",
            expected=f"{'a whole' if counts else 'a'} number, "
            + ("not negative" if not least else "positive"),
            got=repr(value),
        )


def _policy(given: Any, where: str) -> Any:
    """The policy itself, from any of the forms."""
    arguments: dict[str, Any] = {}
    if isinstance(given, Mapping):
        arguments = dict(given.get("policy_kwargs") or {})
        given = given.get("policy_function")
    if isinstance(given, str):
        from importlib import import_module

        module, _, name = given.replace(":", ".").rpartition(".")
        given = getattr(import_module(module), name)
    if isinstance(given, type):
        given = given(**arguments)
    if given is not None and not callable(given):
        raise DefinitionError(
            "a policy is a function of what is known of a stage",
            where=f"stage {where!r}",
            expected="on_latency(p95_ms=150), or a function that gives a number of replicas",
            got=repr(given),
        )
    return given


def _name_of(policy: Any) -> str:
    name = getattr(policy, "__name__", None)
    return "the lambda" if name == "<lambda>" else name or repr(policy)
