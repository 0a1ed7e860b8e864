"""What changes from one rollout to another, stage by stage, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlkit.serving.bundle import Origin
from mlkit.serving.control.cluster import ApplicationTarget
from mlkit.serving.control.records import Change
from mlkit.serving.control.rollout import Rollout, StageTarget
from mlkit.serving.replica.front import Shipment

__all__ = ["changes", "set_replicas"]


def changes(old: Rollout | None, new: Rollout) -> list[Change]:
    """Return the change of each stage from one rollout to another."""
    before = {stage.name: stage for stage in old.all} if old else {}
    removed = [name for name in before if name not in {stage.name for stage in new.all}]
    return [_change(before.get(stage.name), stage) for stage in new.all] + [
        Change(stage=name, action="removed", why="no step uses it") for name in removed
    ]


def _change(old: StageTarget | None, new: StageTarget) -> Change:
    resources = dict(new.resources)
    built: dict[str, str] = {}
    if old is None:
        action, why, built = "started", "new stage", resources
    elif old.target.options["ray_actor_options"] != new.target.options["ray_actor_options"]:
        action, why, built = "restarted", "ray_actor_options changed", resources
    elif (old.target.name, old.target.version) != (new.target.name, new.target.version):
        action, why, built = "restarted", _restart_reason(old, new), resources
    elif old.version != new.version:
        built = _built(old, new.resources)
        action, why = "new code in place", _code_reason(old, new)
    elif old.trial != new.trial and old.target != new.target:
        built = _built(old, new.trial_resources)
        action, why = "reconfigured", f"{new.trial} is on trial" if new.trial else "the trial ended"
    elif old.target.options != new.target.options:
        action, why = "scaled", _option_reason(old, new)
    elif old.target.user_config["log_levels"] != new.target.user_config["log_levels"]:
        action, why = "reconfigured", "logging levels changed"
    elif old.target.user_config.get("keep_inputs") != new.target.user_config.get("keep_inputs"):
        action, why = "reconfigured", "keep_inputs changed"
    elif old.target.user_config.get("grants") != new.target.user_config.get("grants"):
        action, why = "reconfigured", "tokens changed"
    else:
        action, why = "kept", "unchanged"
    # Each resource once, by the first step that uses it.
    first = {digest: name for name, digest in reversed(built.items())}
    return Change(stage=new.name, action=action, why=why, built=tuple(sorted(first.values())))


def _built(old: StageTarget, resources: Mapping[str, str]) -> dict[str, str]:
    """The resources that replicas have not loaded yet."""
    loaded = {*old.resources.values(), *old.trial_resources.values()}
    return {name: digest for name, digest in resources.items() if digest not in loaded}


def _restart_reason(old: StageTarget, new: StageTarget) -> str:
    was, now = (_origin(stage.target).variables for stage in (old, new))
    names = sorted({name for name, _ in was.items() ^ now.items()})
    if names:
        return f"environment variables changed: {', '.join(names)}"  # values may be secrets
    return "the folder, search path, token, workers=, observe=, fresh= or idempotent= changed"


def _origin(target: ApplicationTarget) -> Origin:
    arguments = target.arguments
    return next(
        argument.origin if isinstance(argument, Shipment) else argument
        for argument in arguments
        if isinstance(argument, (Shipment, Origin))
    )


def _code_reason(old: StageTarget, new: StageTarget) -> str:
    steps, old_steps = new.spec.manifest.steps, old.spec.manifest.steps
    changed = [name for name, digest in steps.items() if old_steps.get(name) != digest]
    removed = [name for name in old_steps if name not in steps]
    parts = [f"{', '.join(changed)} changed"] if changed else []
    parts += [f"{', '.join(removed)} removed"] if removed else []
    if new.spec.digest == old.spec.digest:
        updated = {
            name: f"{name.partition('.')[2]} {old.values[name]} → {text}"
            for name, text in new.values.items()
            if text and old.values.get(name) and old.values[name] != text
        }
        swapped = [
            name.partition(".")[2]
            for name, digest in new.resources.items()
            if old.resources.get(name, digest) != digest and name not in updated
        ]
        parts += [f"{', '.join(swapped)} swapped"] if swapped else []
        parts += updated.values()
    if old.target.user_config.get("routes") != new.target.user_config.get("routes"):
        parts.append("a called stage changed")
    was, now = old.batch_sizes, new.batch_sizes
    parts += [
        f"max_batch_size of {name} → {now.get(name, 'default')}"
        for name in {**was, **now}
        if was.get(name) != now.get(name)
    ]
    return "; ".join(parts) or "the graph, its types or the limits changed"


def set_replicas(before: Rollout, new: Rollout) -> list[tuple[str, int | None, int]]:
    """Return the stages whose fixed number of replicas changes, with the old and new number.

    The old number is None if the stage was autoscaled.
    """
    fixed = {stage.name: _fixed_count(stage) for stage in before.all}
    return [
        (stage.name, fixed[stage.name], now)
        for stage in new.all
        if stage.name in fixed
        and (now := _fixed_count(stage)) is not None
        and now != fixed[stage.name]
    ]


def _fixed_count(stage: StageTarget) -> int | None:
    if "autoscaling_config" in stage.target.options:
        return None
    return int(stage.target.options.get("num_replicas") or 1)


def _option_reason(old: StageTarget, new: StageTarget) -> str:
    was, now = _flat(old.target.options), _flat(new.target.options)
    keys = [key for key in {**was, **now} if was.get(key) != now.get(key)]
    return ", ".join(
        "policy changed" if key == "policy" else f"{key} {was.get(key, '-')} → {now.get(key, '-')}"
        for key in keys
    )


def _flat(options: Mapping[str, Any]) -> dict[str, Any]:
    flat = {**options, **options.get("autoscaling_config", {})}
    hidden = ("autoscaling_config", "app", "stage", "gatherer")
    return {n: "-" if v is None else v for n, v in flat.items() if n not in hidden}
