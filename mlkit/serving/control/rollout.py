"""From what a kernel wants of an app to what Serve is told, and what changes by it.

A stage's application is named after what its processes cannot change while they run; so one that
has to be replaced starts beside the one that serves, and the front is told to call it when it is
ready. Changed code goes into running processes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlkit.serving.bundle import Origin
from mlkit.serving.port import rayserve
from mlkit.serving.replica.front import Replica, Shipment
from mlkit.serving.replica.stage import StageReplica

__all__ = ["Change", "Rollout", "StageTarget", "changes", "rollout", "set_replicas"]


@dataclass(frozen=True)
class StageTarget:
    """One stage as it should be.

    Attributes:
        version: of its code and resources.
        manifest: digests of its steps and resources.
    """

    name: str
    target: rayserve.Target
    version: str
    bundle: str
    manifest: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Rollout:
    """A whole app as it should be: the front last, since it calls the others."""

    stages: tuple[StageTarget, ...]
    front: StageTarget

    @property
    def all(self) -> tuple[StageTarget, ...]:
        """The front first."""
        return (self.front, *self.stages)


@dataclass(frozen=True)
class Change:
    """What a deployment does to one stage.

    Attributes:
        action: "kept", "started", "restarted", "new code in place", "scaled" or "removed".
        why: in words.
        built: resources that are built for it.
    """

    stage: str
    action: str
    why: str
    built: tuple[str, ...] = ()


def rollout(spec: Mapping[str, Any], logs: str, route_prefix: str, last: Rollout | None) -> Rollout:
    """What Serve should have, given what it had last."""
    before = {stage.name: stage for stage in last.stages} if last else {}
    stages = tuple(
        _stage(spec, stage, logs, before.get(stage["name"])) for stage in spec["stages"][1:]
    )
    return Rollout(stages, _front(spec, logs, route_prefix, stages))


def _stage(
    spec: Mapping[str, Any], stage: Mapping[str, Any], logs: str, before: StageTarget | None
) -> StageTarget:
    limits = spec["limits"]
    options = {
        # The front's own limit answers at once; this one only bounds what is on its way.
        "max_ongoing_requests": 2 * limits["max_ongoing_requests"],
        **_options(spec, stage),
    }
    fixed = _digest(
        [
            spec["origin"],
            spec["fresh"],
            spec["workers"],
            spec["gatherer"],
            options["ray_actor_options"],
            stage["name"],
        ]
    )
    name = f"{spec['app']}.{stage['name']}.{fixed[:8]}"
    sizes = _sizes(spec, stage)
    digest = _digest([stage["digest"], sizes]) if sizes else stage["digest"]
    versions = {digest: [stage["bundle"], sizes]}
    if before is not None and before.target.name == name:
        # The front asks for the old one until it has changed over, and what it began ends there.
        old = before.target.user_config["versions"]
        versions = {before.version: old[before.version], **versions}
        if before.version == digest:
            versions = dict(before.target.user_config["versions"])
    target = rayserve.Target(
        name=name,
        deployment=stage["name"],
        kind=StageReplica,
        arguments=(
            spec["app"],
            _origin(spec),
            logs,
            spec["workers"],
            stage["name"],
            spec["gatherer"],
        ),
        version=fixed,
        user_config={"versions": versions, "request_timeout_s": limits["request_timeout_s"]},
        options=options,
    )
    return StageTarget(stage["name"], target, digest, stage["bundle"], stage["manifest"])


def _front(
    spec: Mapping[str, Any], logs: str, route_prefix: str, stages: Sequence[StageTarget]
) -> StageTarget:
    front, limits = spec["stages"][0], spec["limits"]
    routes = {s.name: [s.target.name, s.target.deployment, s.version] for s in stages}
    sizes = _sizes(spec, front)
    version = _digest([front["digest"], limits, spec["workers"], routes, spec["fresh"], sizes])
    shipment = Shipment(
        app=spec["app"],
        origin=_origin(spec),
        logs=logs,
        token=spec["token"],
        gatherer=spec["gatherer"],
        fresh=spec["fresh"],
    )
    target = rayserve.Target(
        name=spec["app"],
        deployment=spec["app"],
        kind=Replica,
        arguments=(shipment,),
        version=_digest([spec["origin"], spec["token"], spec["fresh"], spec["gatherer"]]),
        user_config={
            "version": version,
            "bundle": front["bundle"],
            "limits": limits,
            "workers": spec["workers"],
            "routes": routes,
            "sizes": sizes,
        },
        route_prefix=route_prefix,
        options={
            "max_ongoing_requests": 2 * limits["max_ongoing_requests"],
            **_options(spec, front),
        },
    )
    return StageTarget(spec["app"], target, version, front["bundle"], front["manifest"])


def _sizes(spec: Mapping[str, Any], stage: Mapping[str, Any]) -> dict[str, int]:
    """Sizes of batches that differ from the steps' own, of the steps of a stage."""
    steps = stage["manifest"]["steps"]
    return {name: size for name, size in spec.get("sizes", {}).items() if name in steps}


def _options(spec: Mapping[str, Any], stage: Mapping[str, Any]) -> dict[str, Any]:
    """Serve's options of a stage; how it scales is told with whom to tell of it."""
    options = dict(stage["options"])
    if "autoscaling_config" in options:
        whose = {"app": spec["app"], "stage": stage["name"], "gatherer": spec["watcher"]}
        options["autoscaling_config"] = options["autoscaling_config"] | whose
    return options


def _origin(spec: Mapping[str, Any]) -> Origin:
    return Origin(spec["origin"]["folder"], tuple(spec["origin"]["search_path"]))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def changes(old: Rollout | None, new: Rollout) -> list[Change]:
    """What going from one to the other does, stage by stage."""
    before = {stage.name: stage for stage in old.all} if old else {}
    found = [_change(before.get(stage.name), stage) for stage in new.all]
    gone = [name for name in before if name not in {stage.name for stage in new.all}]
    return found + [Change(name, "removed", "no step asks for it any more") for name in gone]


def _change(old: StageTarget | None, new: StageTarget) -> Change:
    resources = new.manifest["resources"]
    if old is None:
        return Change(new.name, "started", "it was not there", _names(resources))
    if _fixed(old) != _fixed(new):
        return Change(new.name, "restarted", _fixed_reason(old, new), _names(resources))
    if old.version != new.version:
        known = set(old.manifest["resources"].values())
        built = {name: digest for name, digest in resources.items() if digest not in known}
        return Change(new.name, "new code in place", _code_reason(old, new), _names(built))
    if old.target.options != new.target.options:
        return Change(new.name, "scaled", _option_reason(old, new))
    return Change(new.name, "kept", "nothing of it changed")


def _fixed(stage: StageTarget) -> tuple[Any, ...]:
    return stage.target.name, stage.target.version, stage.target.options.get("ray_actor_options")


def _fixed_reason(old: StageTarget, new: StageTarget) -> str:
    if old.target.options.get("ray_actor_options") != new.target.options.get("ray_actor_options"):
        return "its resources changed"
    return "the folder, search path, token or fresh= changed"


def _code_reason(old: StageTarget, new: StageTarget) -> str:
    steps, were = new.manifest["steps"], old.manifest["steps"]
    changed = [name for name, digest in steps.items() if were.get(name) != digest]
    gone = [name for name in were if name not in steps]
    parts = [f"{', '.join(changed)} changed"] if changed else []
    parts += [f"{', '.join(gone)} left"] if gone else []
    calls = new.target.user_config.get("routes", {}), old.target.user_config.get("routes", {})
    parts += ["it calls new code"] if calls[0] != calls[1] else []
    was, now = (dict(_sizes_of(one)) for one in (old, new))
    parts += [
        f"max_batch_size of {name} → {now.get(name, 'its own')}"
        for name in {**was, **now}
        if was.get(name) != now.get(name)
    ]
    return "; ".join(parts) or "the graph, its types or the limits changed"


def _sizes_of(stage: StageTarget) -> Mapping[str, int]:
    config = stage.target.user_config
    sizes: Mapping[str, int] = config.get("sizes", {})
    return sizes if "sizes" in config else config["versions"][stage.version][1]


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
