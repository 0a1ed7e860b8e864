"""From what somebody wants of an app to what Serve is told, and what changes by it.

A stage's application is named after what its processes cannot change while they run; so one that
has to be replaced starts beside the one that serves, and the front is told to call it when it is
ready. Changed code goes into running processes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from mlkit.serving.control.autoscaling import autoscaling_spec
from mlkit.serving.control.cluster import Target
from mlkit.serving.control.records import AppSpec, Change, StageSpec
from mlkit.serving.replica.front import Shipment

__all__ = ["Environment", "Rollout", "StageTarget", "changes", "rollout", "set_replicas"]


@dataclass(frozen=True)
class Environment:
    """What a rollout takes from the session.

    Attributes:
        logs: folder for what replicas print.
        gatherer: name of the actor that gathers counts and scaling decisions.
        route_prefix: of the front.
        locations: where replicas find each object of the store, by key.
    """

    logs: str
    gatherer: str
    route_prefix: str
    locations: Mapping[str, str]


@dataclass(frozen=True)
class StageTarget:
    """One stage as it should be.

    Attributes:
        version: of its code and resources.
        spec: what it is made from.
    """

    name: str
    target: Target
    version: str
    spec: StageSpec
    batch_sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Rollout:
    """A whole app as it should be: the front last, since it calls the others."""

    stages: tuple[StageTarget, ...]
    front: StageTarget

    @property
    def all(self) -> tuple[StageTarget, ...]:
        """The front first."""
        return (self.front, *self.stages)

    @property
    def applications(self) -> set[str]:
        """Names of its applications on Serve."""
        return {stage.target.name for stage in self.all}

    @property
    def locations(self) -> set[str]:
        """Where its replicas find their bundles, those of a version that goes on included."""
        versions = [stage.target.user_config["versions"] for stage in self.stages]
        locations = {location for wanted in versions for location, _ in wanted.values()}
        return locations | {self.front.target.user_config["bundle"]}


def rollout(spec: AppSpec, environment: Environment, last: Rollout | None) -> Rollout:
    """What Serve should have, given what it had last."""
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
    fixed = _digest(
        [
            _plain(spec.origin),
            spec.fresh,
            spec.workers,
            gatherer,
            options["ray_actor_options"],
            stage.name,
        ]
    )
    name = f"{spec.app}.{stage.name}.{fixed[:8]}"
    sizes = _sizes(spec, stage)
    version = _digest([stage.digest, sizes]) if sizes else stage.digest
    versions = {version: [environment.locations[stage.bundle], sizes]}
    if before is not None and before.target.name == name:
        # The front asks for the old one until it has changed over, and what it began ends there.
        old = before.target.user_config["versions"]
        versions = {before.version: old[before.version], **versions}
        if before.version == version:
            versions = dict(old)
    target = Target(
        name=name,
        deployment=stage.name,
        kind="stage",
        arguments=(spec.app, spec.origin, environment.logs, spec.workers, stage.name, gatherer),
        version=fixed,
        user_config={
            "versions": versions,
            "request_timeout_s": spec.limits.request_timeout_s,
        },
        options=options,
    )
    return StageTarget(stage.name, target, version, stage, sizes)


def _front(spec: AppSpec, environment: Environment, stages: Sequence[StageTarget]) -> StageTarget:
    front = spec.stages[0]
    limits = _plain(spec.limits)
    routes = {s.name: [s.target.name, s.target.deployment, s.version] for s in stages}
    sizes = _sizes(spec, front)
    version = _digest([front.digest, limits, spec.workers, routes, spec.fresh, sizes])
    gatherer = environment.gatherer if spec.observe else ""
    shipment = Shipment(
        app=spec.app,
        origin=spec.origin,
        logs=environment.logs,
        token=spec.token,
        gatherer=gatherer,
        fresh=spec.fresh,
    )
    target = Target(
        name=spec.app,
        deployment=spec.app,
        kind="front",
        arguments=(shipment,),
        version=_digest([_plain(spec.origin), spec.token, spec.fresh, gatherer]),
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
    """Sizes of batches that differ from the steps' own, of the steps of a stage."""
    steps = stage.manifest.steps
    return {name: size for name, size in spec.batch_sizes.items() if name in steps}


def _options(spec: AppSpec, stage: StageSpec, environment: Environment) -> dict[str, Any]:
    """Serve's options of a stage."""
    settings = stage.settings
    options: dict[str, Any] = {
        # The front's own limit answers at once; this one only bounds what is on its way.
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


def _plain(value: Any) -> Any:
    """A dataclass as JSON has it."""
    return TypeAdapter(type(value)).dump_python(value, mode="json")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def changes(old: Rollout | None, new: Rollout) -> list[Change]:
    """What going from one to the other does, stage by stage."""
    before = {stage.name: stage for stage in old.all} if old else {}
    found = [_change(before.get(stage.name), stage) for stage in new.all]
    gone = [name for name in before if name not in {stage.name for stage in new.all}]
    return found + [
        Change(stage=name, action="removed", why="no step asks for it any more") for name in gone
    ]


def _change(old: StageTarget | None, new: StageTarget) -> Change:
    resources = new.spec.manifest.resources
    if old is None:
        return Change(
            stage=new.name, action="started", why="it was not there", built=_names(resources)
        )
    if _fixed(old) != _fixed(new):
        return Change(
            stage=new.name,
            action="restarted",
            why=_fixed_reason(old, new),
            built=_names(resources),
        )
    if old.version != new.version:
        known = set(old.spec.manifest.resources.values())
        built = {name: digest for name, digest in resources.items() if digest not in known}
        return Change(
            stage=new.name,
            action="new code in place",
            why=_code_reason(old, new),
            built=_names(built),
        )
    if old.target.options != new.target.options:
        return Change(stage=new.name, action="scaled", why=_option_reason(old, new))
    return Change(stage=new.name, action="kept", why="nothing of it changed")


def _fixed(stage: StageTarget) -> tuple[Any, ...]:
    return stage.target.name, stage.target.version, stage.target.options.get("ray_actor_options")


def _fixed_reason(old: StageTarget, new: StageTarget) -> str:
    if old.target.options.get("ray_actor_options") != new.target.options.get("ray_actor_options"):
        return "its resources changed"
    return "the folder, search path, token or fresh= changed"


def _code_reason(old: StageTarget, new: StageTarget) -> str:
    steps, were = new.spec.manifest.steps, old.spec.manifest.steps
    changed = [name for name, digest in steps.items() if were.get(name) != digest]
    gone = [name for name in were if name not in steps]
    parts = [f"{', '.join(changed)} changed"] if changed else []
    parts += [f"{', '.join(gone)} left"] if gone else []
    calls = new.target.user_config.get("routes", {}), old.target.user_config.get("routes", {})
    parts += ["it calls new code"] if calls[0] != calls[1] else []
    was, now = old.batch_sizes, new.batch_sizes
    parts += [
        f"max_batch_size of {name} → {now.get(name, 'its own')}"
        for name in {**was, **now}
        if was.get(name) != now.get(name)
    ]
    return "; ".join(parts) or "the graph, its types or the limits changed"


def set_replicas(before: Rollout, new: Rollout) -> list[tuple[str, int | None, int]]:
    """Stages that have another fixed number of replicas from now on.

    Returns:
        each with its number before, None where it scaled by itself, and the number from now on.
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
    return ", ".join(_said(key, was.get(key), now.get(key)) for key in keys)


def _flat(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options one by one, those of autoscaling among them."""
    flat = {name: value for name, value in options.items() if name != "autoscaling_config"}
    config = options.get("autoscaling_config") or {}
    return flat | {n: v for n, v in config.items() if n not in ("app", "stage", "gatherer")}


def _said(key: str, was: Any, now: Any) -> str:
    if key == "policy":
        return "another policy"
    return f"{key} {'-' if was is None else was} → {'-' if now is None else now}"


def _names(resources: Mapping[str, str]) -> tuple[str, ...]:
    """Each resource once, by the first step that uses it."""
    first = {digest: name for name, digest in reversed(list(resources.items()))}
    return tuple(sorted(first.values()))
