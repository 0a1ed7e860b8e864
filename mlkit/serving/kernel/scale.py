"""Changing a running app: replicas, bounds, batch sizes and admission, as `App.scale` has it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mlkit.define.options import StepOptions
from mlkit.define.shipping import dumps
from mlkit.define.step import BatchedStep
from mlkit.errors import DefinitionError, DeployError
from mlkit.plan import Plan, Stage
from mlkit.serving.control.rollout import Change
from mlkit.serving.kernel.session import Session
from mlkit.serving.limits import Limits
from mlkit.serving.port.scaling import OURS, as_spec

__all__ = ["Scaled", "changes_of", "options_of", "scale_to", "scaled", "store"]

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


def scale_to(session: Session, new: Scaled) -> dict[str, Any]:
    """Bring an app of a session to it."""
    name = new.plan.graph.name
    about: dict[str, Any] = session.call(
        "scale",
        app=name,
        plan=store(session.folder, f"{name}-{secrets.token_hex(4)}.plan", dumps(new.plan)),
        options={one.name: options_of(session, name, one) for one in new.plan.stages},
        limits=asdict(new.limits),
        sizes=dict(new.sizes),
    )
    return about


def changes_of(about: Mapping[str, Any]) -> tuple[Change, ...]:
    """What a session says that it changed."""
    return tuple(Change(**{**one, "built": tuple(one["built"])}) for one in about["changes"])


def options_of(session: Session, app: str, stage: Stage) -> dict[str, Any]:
    """Serve's options of a stage as plain data; its policy goes into a file of the session's."""
    options = stage.serve_options()
    scaling = options.get("autoscaling_config")
    if scaling is not None:

        def keep(name: str, data: bytes) -> str:
            return store(session.folder, f"{app}.{name}", data)

        options["autoscaling_config"] = as_spec(
            scaling, stage.name, keep, num_cpus=stage.num_cpus, num_gpus=stage.num_gpus
        )
    return options


def store(folder: Path, name: str, data: bytes) -> str:
    """Put a file where a session's process finds it, whole or not at all.

    An interrupted write must not leave a truncated file under a name that stands for its contents.
    """
    path = folder / "bundles" / f"{name}.pkl"
    if not path.exists():
        partial = path.with_suffix(f".{secrets.token_hex(4)}.partial")
        try:
            partial.write_bytes(data)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    return str(path)


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
