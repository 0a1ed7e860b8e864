"""Changes of a running app's replicas, autoscaling, batch sizes and admission, for `App.scale`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mlkit.define.options import StepOptions
from mlkit.define.shipping import loads
from mlkit.define.step import BatchedStep
from mlkit.errors import DefinitionError, DeployError
from mlkit.plan import Plan, Stage
from mlkit.serving.bundle import Packed
from mlkit.serving.control.autoscaling import OURS, autoscaling_settings
from mlkit.serving.control.records import AppSpec, StageSettings, StageSpec
from mlkit.serving.limits import Limits

__all__ = ["Scaled", "scaled", "settings_of", "spec_of", "with_settings"]

ADMISSION = ("max_ongoing_requests", "max_queued_requests")
OPTIONS = ("num_replicas", *sorted(OURS), "policy", *ADMISSION, "max_batch_size")


@dataclass(frozen=True)
class Scaled:
    """Desired state of an app.

    Attributes:
        sizes: maximum batch size by step, where it differs from the step's own.
    """

    plan: Plan
    limits: Limits
    sizes: Mapping[str, int] = field(default_factory=dict)


def scaled(now: Scaled, name: str, changes: Mapping[str, Any]) -> Scaled:
    """Apply changes to an app's state.

    Args:
        now: the current state.
        name: name of a stage or step.
        changes: new values of `OPTIONS`.

    Raises:
        DeployError: there is no such step or option, or the step shares its stage with others.
        DefinitionError: a value is invalid.
    """
    where = f"app {now.plan.graph.name!r}"
    try:
        stage = now.plan[name]
    except KeyError as error:
        raise DeployError(str(error.args[0]), where=where) from None
    unknown = sorted(set(changes) - set(OPTIONS))
    if unknown or not changes:
        raise DeployError(
            f"unknown option {', '.join(map(repr, unknown))}" if unknown else "no changes",
            where=where,
            expected=f"one of {', '.join(OPTIONS)}",
        )
    options = dict(changes)
    sizes = dict(now.sizes)
    if "max_batch_size" in options:
        sizes[name] = _size(now.plan, name, options.pop("max_batch_size"))
    if not options:
        return replace(now, sizes=sizes)
    if name != stage.name and stage.nodes != (name,):
        others = [node for node in stage.nodes if node != name]
        raise DeployError(
            f"step {name!r} cannot be scaled on its own: it shares stage {stage.name!r}",
            where=where,
            got=f"stage {stage.name!r} also has {', '.join(others)}",
            fix=f"app.scale({stage.name!r}, ...), or give the step a stage of its own: deploy("
            f"{now.plan.graph.name}, options={{{name!r}: {{'stage': {name!r}}}}})",
        )
    limits = now.limits
    if stage.front and "max_ongoing_requests" in options:
        limits = replace(limits, max_ongoing_requests=options.pop("max_ongoing_requests"))
    changed = _changed(stage, options)
    stages = tuple(changed if other is stage else other for other in now.plan.stages)
    return Scaled(replace(now.plan, stages=stages), limits, sizes)


def settings_of(stage: Stage, store: Callable[[bytes], str]) -> StageSettings:
    """Return the settings of a planned stage; its autoscaling policy is stored."""
    fixed = {name: stage.options[name] for name in ADMISSION if name in stage.options}
    fixed["max_busy_workers"] = stage.workers
    if stage.autoscaling_config is None:
        return StageSettings(num_replicas=stage.num_replicas, **fixed)
    settings = autoscaling_settings(stage.autoscaling_config, stage.name, store)
    return settings.model_copy(update=fixed)


def spec_of(packed: Packed, store: Callable[[bytes], str]) -> StageSpec:
    """Return the specification of a packed stage; its bundle is stored."""
    stage = packed.stage
    return StageSpec(
        name=stage.name,
        digest=packed.digest,
        bundle=store(packed.data),
        manifest=packed.manifest,
        ray_actor_options=dict(stage.ray_actor_options),
        options={name: v for name, v in stage.options.items() if name not in ADMISSION},
        settings=settings_of(stage, store),
        threads=None if "MLKIT_THREADS" in os.environ else stage.threads,
        workers=stage.workers,
        has_pools=stage.has_pools,
    )


def with_settings(plan: Plan, spec: AppSpec, load: Callable[[str], bytes]) -> Plan:
    """Return a deployed plan with the current settings of a specification.

    Args:
        plan: the plan that was deployed.
        spec: the current specification.
        load: returns the stored policy with a key.
    """
    settings = {stage.name: stage.settings for stage in spec.stages}
    stages = tuple(_overlaid(stage, settings[stage.name], load) for stage in plan.stages)
    return replace(plan, stages=stages)


def _overlaid(stage: Stage, settings: StageSettings, load: Callable[[str], bytes]) -> Stage:
    options = {name: v for name, v in stage.options.items() if name not in ADMISSION}
    for name in ADMISSION:
        if (value := getattr(settings, name)) is not None:
            options[name] = value
    config = settings.autoscaling_config
    if config is not None and settings.policy:
        config = {**config, "policy": loads(load(settings.policy))}
    return replace(
        stage, options=options, num_replicas=settings.num_replicas, autoscaling_config=config
    )


def _size(plan: Plan, name: str, size: Any) -> int:
    batched = [node.name for node in plan.graph if isinstance(node.step, BatchedStep)]
    if name not in batched:
        raise DeployError(
            f"max_batch_size applies to batched steps only, and {name!r} is not one",
            where=f"app {plan.graph.name!r}",
            expected=f"one of {', '.join(batched)}" if batched else "the app has no batched step",
        )
    return int(StepOptions(max_batch_size=size).max_batch_size or 0)


def _changed(stage: Stage, changes: dict[str, Any]) -> Stage:
    admission = {name: changes.pop(name) for name in ADMISSION if name in changes}
    options = {**stage.options, **admission}
    StepOptions.of(options)  # validates them
    count = changes.pop("num_replicas", None)
    if count is not None and changes:
        raise DefinitionError("num_replicas and autoscaling options exclude each other")
    if count is not None:
        StepOptions(num_replicas=count)
        if count == "auto":
            raise DefinitionError("num_replicas must be a number here", got="'auto'")
        return replace(stage, options=options, num_replicas=count, autoscaling_config=None)
    if not changes:
        return replace(stage, options=options)
    before = dict(stage.autoscaling_config or {"min_replicas": stage.num_replicas or 1})
    if "max_replicas" not in {**before, **changes}:
        raise DefinitionError(
            "max_replicas is needed for autoscaling",
            where=f"stage {stage.name!r}",
            fix=f"app.scale({stage.name!r}, min_replicas=1, max_replicas=4)",
        )
    config = before | changes
    return replace(stage, options=options, num_replicas=None, autoscaling_config=config)
