"""From the specification of an app to the desired state of Serve, and the changes between two.

The name of a stage's application has a digest of all that running replicas cannot change. If that
changes, a new application starts beside the old one, and the front switches over when it is ready.
Changed code is loaded into running replicas.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import to_jsonable_python

from mlkit.serving.control.autoscaling import autoscaling_spec
from mlkit.serving.control.cluster import ApplicationTarget
from mlkit.serving.control.records import AppSpec, Change, StageSpec
from mlkit.serving.replica.front import Shipment

__all__ = ["Environment", "Rollout", "StageTarget", "changes", "rollout", "set_replicas"]


@dataclass(frozen=True)
class Environment:
    """What a rollout takes from the session.

    Attributes:
        logs: folder of the replicas' output.
        gatherer: name of the actor that gathers metrics and scaling decisions.
        route_prefix: route prefix of the front.
        locations: location of each stored object, by key.
    """

    logs: str
    gatherer: str
    route_prefix: str
    locations: Mapping[str, str]


@dataclass(frozen=True)
class StageTarget:
    """Desired state of a stage; ``version`` identifies its code, resources and batch sizes."""

    name: str
    target: ApplicationTarget
    version: str
    spec: StageSpec
    batch_sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Rollout:
    """Desired state of an app."""

    stages: tuple[StageTarget, ...]
    front: StageTarget

    @property
    def all(self) -> tuple[StageTarget, ...]:
        """All stages, the front first."""
        return (self.front, *self.stages)

    @property
    def applications(self) -> set[str]:
        """Names of its Serve applications."""
        return {stage.target.name for stage in self.all}

    @property
    def locations(self) -> set[str]:
        """Locations of its bundles, including those of previous versions that still serve."""
        versions = [stage.target.user_config["versions"] for stage in self.stages]
        locations = {location for bundles in versions for location, _ in bundles.values()}
        return locations | {self.front.target.user_config["bundle"]}


def rollout(spec: AppSpec, environment: Environment, last: Rollout | None) -> Rollout:
    """Compute the desired state, given the previous one."""
    before = {stage.name: stage for stage in last.stages} if last else {}
    stages = tuple(
        _stage(spec, stage, environment, before.get(stage.name)) for stage in spec.stages[1:]
    )
    return Rollout(stages, _front(spec, environment, stages))


def _stage(
    spec: AppSpec, stage: StageSpec, environment: Environment, before: StageTarget | None
) -> StageTarget:
    options = _options(spec, stage, environment)
    gatherer = environment.gatherer if spec.observe else ""
    actor_options = options["ray_actor_options"]
    fixed = _digest([spec.origin, spec.fresh, spec.workers, gatherer, actor_options, stage.name])
    name = f"{spec.app}.{stage.name}.{fixed[:8]}"
    sizes = _sizes(spec, stage)
    version = _digest([stage.digest, sizes]) if sizes else stage.digest
    versions = {version: [environment.locations[stage.bundle], sizes]}
    if before is not None and before.target.name == name:
        # The front calls the old version until it switches over; requests in flight end there.
        old = before.target.user_config["versions"]
        versions = {before.version: old[before.version], **versions}
        if before.version == version:
            versions = dict(old)
    target = ApplicationTarget(
        name=name,
        deployment=stage.name,
        kind="stage",
        arguments=(spec.app, spec.origin, environment.logs, spec.workers, stage.name, gatherer),
        version=fixed,
        user_config={"versions": versions, "request_timeout_s": spec.limits.request_timeout_s},
        options=options,
    )
    return StageTarget(stage.name, target, version, stage, sizes)


def _front(spec: AppSpec, environment: Environment, stages: Sequence[StageTarget]) -> StageTarget:
    front = spec.stages[0]
    limits = to_jsonable_python(spec.limits)
    routes = {s.name: [s.target.name, s.target.deployment, s.version] for s in stages}
    sizes = _sizes(spec, front)
    version = _digest([front.digest, limits, spec.workers, routes, spec.fresh, sizes])
    gatherer = environment.gatherer if spec.observe else ""
    shipment = Shipment(
        app=spec.app,
        origin=spec.origin,
        logs=environment.logs,
        token=spec.token,
        exact_key=spec.exact_key,
        gatherer=gatherer,
        fresh=spec.fresh,
    )
    target = ApplicationTarget(
        name=spec.app,
        deployment=spec.app,
        kind="front",
        arguments=(shipment,),
        version=_digest([spec.origin, spec.token, spec.exact_key, spec.fresh, gatherer]),
        user_config={
            "version": version,
            "bundle": environment.locations[front.bundle],
            "limits": limits,
            "workers": spec.workers,
            "routes": routes,
            "sizes": sizes,
        },
        route_prefix=environment.route_prefix,
        options=_options(spec, front, environment),
    )
    return StageTarget(spec.app, target, version, front, sizes)


def _sizes(spec: AppSpec, stage: StageSpec) -> dict[str, int]:
    steps = stage.manifest.steps
    return {name: size for name, size in spec.batch_sizes.items() if name in steps}


def _options(spec: AppSpec, stage: StageSpec, environment: Environment) -> dict[str, Any]:
    settings = stage.settings
    options: dict[str, Any] = {
        # The front enforces its limit itself, by an immediate 503; this is only an upper bound.
        "max_ongoing_requests": 2 * spec.limits.max_ongoing_requests,
        "ray_actor_options": dict(stage.ray_actor_options),
        **stage.options,
    }
    for name in ("max_ongoing_requests", "max_queued_requests"):
        if (value := getattr(settings, name)) is not None:
            options[name] = value
    if settings.autoscaling_config is None:
        options["num_replicas"] = settings.num_replicas
    else:
        options["autoscaling_config"] = autoscaling_spec(
            settings, stage.ray_actor_options, environment.locations
        ) | {"app": spec.app, "stage": stage.name, "gatherer": environment.gatherer}
    return options


def _digest(value: Any) -> str:
    text = json.dumps(to_jsonable_python(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def changes(old: Rollout | None, new: Rollout) -> list[Change]:
    """Return the change of each stage from one rollout to another."""
    before = {stage.name: stage for stage in old.all} if old else {}
    removed = [name for name in before if name not in {stage.name for stage in new.all}]
    return [_change(before.get(stage.name), stage) for stage in new.all] + [
        Change(stage=name, action="removed", why="no step uses it") for name in removed
    ]


def _change(old: StageTarget | None, new: StageTarget) -> Change:
    resources = new.spec.manifest.resources
    built: dict[str, str] = {}
    if old is None:
        action, why, built = "started", "new stage", resources
    elif old.target.options["ray_actor_options"] != new.target.options["ray_actor_options"]:
        action, why, built = "restarted", "ray_actor_options changed", resources
    elif (old.target.name, old.target.version) != (new.target.name, new.target.version):
        why = "the folder, search path, token, workers=, observe= or fresh= changed"
        action, built = "restarted", resources
    elif old.version != new.version:
        known = set(old.spec.manifest.resources.values())
        built = {name: digest for name, digest in resources.items() if digest not in known}
        action, why = "new code in place", _code_reason(old, new)
    elif old.target.options != new.target.options:
        action, why = "scaled", _option_reason(old, new)
    else:
        action, why = "kept", "unchanged"
    # Each resource once, by the first step that uses it.
    first = {digest: name for name, digest in reversed(built.items())}
    return Change(stage=new.name, action=action, why=why, built=tuple(sorted(first.values())))


def _code_reason(old: StageTarget, new: StageTarget) -> str:
    steps, old_steps = new.spec.manifest.steps, old.spec.manifest.steps
    changed = [name for name, digest in steps.items() if old_steps.get(name) != digest]
    removed = [name for name in old_steps if name not in steps]
    parts = [f"{', '.join(changed)} changed"] if changed else []
    parts += [f"{', '.join(removed)} removed"] if removed else []
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
