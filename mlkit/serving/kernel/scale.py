"""Changing a running app: replicas, bounds, batch sizes and admission, as `App.scale` has it."""

from __future__ import annotations

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
POLICY = "policy"
TAKEN = ("num_replicas", *sorted(OURS), POLICY, *ADMISSION, "max_batch_size")


@dataclass(frozen=True)
class Scaled:
    """An app as it should be from now on.

    Attributes:
        sizes: most items of a batch, by step, where they differ from the steps' own.
    """

    plan: Plan
    limits: Limits
    sizes: Mapping[str, int] = field(default_factory=dict)


def scaled(now: Scaled, name: str, changes: Mapping[str, Any]) -> Scaled:
    """What is there now, changed.

    Args:
        now: what is there.
        name: of a stage, or of a step.
        changes: by the names in `TAKEN`.

    Raises:
        DeployError: there is no such step or option, or the step shares its stage with others.
        DefinitionError: a value cannot be.
    """
    stage = _stage(now.plan, name)
    unknown = sorted(set(changes) - set(TAKEN))
    if unknown or not changes:
        raise DeployError(
            f"there is nothing called {', '.join(map(repr, unknown))} to change"
            if unknown
            else "nothing to change was given",
            where=f"app {now.plan.graph.name!r}",
            expected=f"of {', '.join(TAKEN)}",
        )
    given = dict(changes)
    sizes = dict(now.sizes)
    if "max_batch_size" in given:
        sizes[name] = _size(now.plan, name, given.pop("max_batch_size"))
    if not given:
        return replace(now, sizes=sizes)
    if name != stage.name and stage.nodes != (name,):
        others = [node for node in stage.nodes if node != name]
        raise DeployError(
            f"step {name!r} does not scale by itself: it shares stage {stage.name!r}",
            where=f"app {now.plan.graph.name!r}",
            got=f"stage {stage.name!r} has also {', '.join(others)}",
            fix=f"app.scale({stage.name!r}, ...), or give the step a stage of its own: deploy("
            f"{now.plan.graph.name}, options={{{name!r}: {{'stage': {name!r}}}}})",
        )
    limits = now.limits
    if stage.front and "max_ongoing_requests" in given:
        limits = replace(limits, max_ongoing_requests=given.pop("max_ongoing_requests"))
    changed = _changed(stage, given)
    stages = tuple(changed if one is stage else one for one in now.plan.stages)
    return Scaled(replace(now.plan, stages=stages), limits, sizes)


def settings_of(stage: Stage, store: Callable[[bytes], str]) -> StageSettings:
    """Settings of a planned stage; the policy of its autoscaling is stored."""
    admission = {name: stage.options[name] for name in ADMISSION if name in stage.options}
    if stage.autoscaling_config is None:
        return StageSettings(num_replicas=stage.num_replicas, **admission)
    settings = autoscaling_settings(stage.autoscaling_config, stage.name, store)
    return settings.model_copy(update=admission)


def spec_of(packed: Packed, store: Callable[[bytes], str]) -> StageSpec:
    """A planned and packed stage, as the session is told of it."""
    stage = packed.stage
    return StageSpec(
        name=stage.name,
        digest=packed.digest,
        bundle=store(packed.data),
        manifest=packed.manifest,
        ray_actor_options=dict(stage.ray_actor_options),
        options={name: v for name, v in stage.options.items() if name not in ADMISSION},
        settings=settings_of(stage, store),
    )


def with_settings(plan: Plan, spec: AppSpec, load: Callable[[str], bytes]) -> Plan:
    """A plan whose stages run as a specification says.

    Args:
        plan: as it was deployed.
        spec: as it is now.
        load: the pickled policy of a key.
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


def _stage(plan: Plan, name: str) -> Stage:
    try:
        return plan[name]
    except KeyError as error:
        raise DeployError(str(error.args[0]), where=f"app {plan.graph.name!r}") from None


def _size(plan: Plan, name: str, size: Any) -> int:
    batched = [node.name for node in plan.graph if isinstance(node.step, BatchedStep)]
    if name not in batched:
        raise DeployError(
            f"max_batch_size is a batched step's, and {name!r} is none",
            where=f"app {plan.graph.name!r}",
            expected=f"one of {', '.join(batched)}" if batched else "the app has no batched step",
        )
    return int(StepOptions(max_batch_size=size).max_batch_size or 0)


def _changed(stage: Stage, given: dict[str, Any]) -> Stage:
    """The stage with other replicas, bounds or limits."""
    options = dict(stage.options)
    for name in ADMISSION:
        if name in given:
            options[name] = given.pop(name)
    StepOptions.of(options)  # or it raises
    count = given.pop("num_replicas", None)
    if count is not None and given:
        raise DefinitionError("num_replicas and autoscaling options exclude each other")
    if count is not None:
        StepOptions(num_replicas=count)
        if count == "auto":
            raise DefinitionError("num_replicas is a number here", got="'auto'")
        return replace(stage, options=options, num_replicas=count, autoscaling_config=None)
    if not given:
        return replace(stage, options=options)
    before = dict(stage.autoscaling_config or {"min_replicas": stage.num_replicas or 1})
    if "max_replicas" not in before and "max_replicas" not in given:
        raise DefinitionError(
            "max_replicas is needed for autoscaling",
            where=f"stage {stage.name!r}",
            fix=f"app.scale({stage.name!r}, min_replicas=1, max_replicas=4)",
        )
    config = before | given
    return replace(stage, options=options, num_replicas=None, autoscaling_config=config)
