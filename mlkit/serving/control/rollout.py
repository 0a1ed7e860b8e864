"""From the specification of an app to the desired state of Serve, and the changes between two.

The name of a stage's application has a digest of all that running replicas cannot change. If that
changes, a new application starts beside the old one, and the front switches over when it is ready.
Changed code is loaded into running replicas.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic_core import to_jsonable_python

from mlkit.serving.bundle import Origin
from mlkit.serving.control.autoscaling import autoscaling_spec
from mlkit.serving.control.cluster import ApplicationTarget
from mlkit.serving.control.records import (
    AppSpec,
    Replacement,
    StageSettings,
    StageSpec,
    Trial,
)
from mlkit.serving.grants import Grant, share
from mlkit.serving.replica.front import Shipment

__all__ = ["Environment", "Rollout", "StageTarget", "rollout"]


@dataclass(frozen=True)
class Environment:
    """The parts of the session's environment that a rollout depends on.

    Attributes:
        logs: folder of the replicas' output.
        gatherer: name of the actor that gathers metrics and scaling decisions.
        route_prefix: route prefix of the front.
        locations: location of each stored object, by key.
        grants: those of the app's named tokens.
    """

    logs: str
    gatherer: str
    route_prefix: str
    locations: Mapping[str, str]
    grants: tuple[Grant, ...] = ()


@dataclass(frozen=True)
class StageTarget:
    """Desired state of a stage.

    Attributes:
        version: identifies its code, resources and batch sizes.
        spec: its specification.
        states: what each replica reports as loaded once it is up to date.
        batch_sizes: maximum batch size by step, where it differs from the step's own.
        resources: digest of each resource by ``graph.node.keyword``.
        values: text of each plain value that `App.update` can change, likewise.
        trial: the trial as text, with its version; "" where it changes nothing.
        trial_resources: as ``resources``, of the version on trial.
    """

    name: str
    target: ApplicationTarget
    version: str
    spec: StageSpec
    states: tuple[str, ...]
    batch_sizes: Mapping[str, int] = field(default_factory=dict)
    resources: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)
    trial: str = ""
    trial_resources: Mapping[str, str] = field(default_factory=dict)


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
    def trial_version(self) -> str:
        """Version on trial; "" if there is none."""
        trial = self.front.target.user_config["trial"]
        return "" if trial is None else str(trial["version"])

    @property
    def locations(self) -> set[str]:
        """Locations of its bundles, including those of previous versions that still serve."""
        config = self.front.target.user_config
        versions = [v for s in self.stages for v in s.target.user_config["versions"].values()]
        replaced = [resources for _, _, resources in versions]
        replaced += [each["replaced"] for each in (config, config["trial"]) if each is not None]
        return (
            {config["bundle"]}
            | {bundle for bundle, _, _ in versions}
            | {location for resources in replaced for location, _ in resources.values()}
        )


def rollout(
    spec: AppSpec,
    environment: Environment,
    last: Rollout | None,
    trial: Trial | None = None,
    *,
    check: bool = False,
) -> Rollout:
    """Compute the desired state, given the previous one.

    Args:
        spec: the specification to serve.
        environment: that of the session.
        last: the previous state.
        trial: the version to put on trial.
        check: whether a new version that fails on a recent request is refused.
    """
    before = {stage.name: stage for stage in last.stages} if last else {}
    stages = tuple(
        _stage(spec, stage, environment, before.get(stage.name), trial) for stage in spec.stages[1:]
    )
    return Rollout(stages, _front(spec, environment, stages, trial, check))


def _stage(
    spec: AppSpec,
    stage: StageSpec,
    environment: Environment,
    before: StageTarget | None,
    trial: Trial | None,
) -> StageTarget:
    options = _options(spec, stage, environment)
    gatherer = environment.gatherer if spec.observe else ""
    actor_options = options["ray_actor_options"]
    origin, workers = _origin_of(spec, stage), spec.workers or stage.workers
    fixed = _digest([origin, spec.fresh, workers, gatherer, actor_options, stage.name])
    name = f"{spec.app}.{stage.name}.{fixed[:8]}"
    sizes = _sizes(spec, stage)
    replaced = _replaced(stage, spec.replacements)
    on_trial = replaced if trial is None else _replaced(stage, trial.replacements)
    version, trial_version = (_version(stage, sizes, each) for each in (replaced, on_trial))
    bundle = environment.locations[stage.bundle]
    wanted = {
        name: [bundle, sizes, _locations(each, environment)]
        for name, each in ((version, replaced), (trial_version, on_trial))
    }
    versions = wanted
    if before is not None and before.target.name == name:
        # The front calls the old version until it switches over; requests in flight end there.
        old = before.target.user_config["versions"]
        versions = {**{state: old[state] for state in before.states}, **wanted}
        if wanted.keys() <= old.keys():
            versions = dict(old)
    target = ApplicationTarget(
        name=name,
        deployment=stage.name,
        kind="stage",
        arguments=(spec.app, origin, environment.logs, workers, stage.name, gatherer),
        version=fixed,
        user_config={
            "versions": versions,
            "request_timeout_s": spec.limits.request_timeout_s,
            "log_levels": spec.log_levels,
            "max_busy_workers": _max_busy_workers(spec, stage),
        },
        options=options,
        has_pools=stage.has_pools,
    )
    return StageTarget(
        stage.name,
        target,
        version,
        stage,
        tuple(dict.fromkeys((version, trial_version))),
        sizes,
        _resources(stage, replaced),
        _values(stage, replaced),
        trial_version if trial_version != version else "",
        _resources(stage, on_trial),
    )


def _front(
    spec: AppSpec,
    environment: Environment,
    stages: Sequence[StageTarget],
    trial: Trial | None,
    check: bool,
) -> StageTarget:
    front = spec.stages[0]
    limits = to_jsonable_python(spec.limits)
    sizes = _sizes(spec, front)
    origin, workers = _origin_of(spec, front), spec.workers or front.workers

    def differing(replaced: Mapping[str, Replacement], routes: dict[str, Any]) -> dict[str, Any]:
        """What differs between versions of the same code."""
        parts = [front.digest, limits, workers, routes, spec.fresh, sizes]
        digests = _digests(replaced)
        return {
            "version": _digest([*parts, digests] if digests else parts),
            "routes": routes,
            "replaced": _locations(replaced, environment),
        }

    replaced = _replaced(front, spec.replacements)
    served = differing(replaced, {s.name: _route(s, s.version) for s in stages})
    version = state = served["version"]
    on_trial, trial_route = replaced, None
    if trial is not None:
        on_trial = _replaced(front, trial.replacements)
        trial_route = differing(on_trial, {s.name: _route(s, s.states[-1]) for s in stages})
        trial_route |= {"canary": trial.canary, "shadow": trial.shadow}
        state = f"{version}, {trial} of {trial_route['version']}"
    gatherer = environment.gatherer if spec.observe else ""
    grants = to_jsonable_python(share(environment.grants, _most_replicas(front.settings)))
    granted = f"grants {_digest(grants)}"
    shipment = Shipment(
        app=spec.app,
        origin=origin,
        logs=environment.logs,
        token=spec.token,
        exact_key=spec.exact_key,
        gatherer=gatherer,
        fresh=spec.fresh,
        idempotent=spec.idempotent,
    )
    target = ApplicationTarget(
        name=spec.app,
        deployment=spec.app,
        kind="front",
        arguments=(shipment,),
        version=_digest(
            [origin, spec.token, spec.exact_key, spec.fresh, gatherer, spec.idempotent]
        ),
        user_config={
            **served,
            "state": state,
            "bundle": environment.locations[front.bundle],
            "limits": limits,
            "workers": workers,
            "sizes": sizes,
            "log_levels": spec.log_levels,
            "max_busy_workers": _max_busy_workers(spec, front),
            "trial": trial_route,
            "check": check,
            "keep_inputs": spec.keep_inputs,
            "grants": grants,
            "granted": granted,
        },
        route_prefix=environment.route_prefix,
        options=_options(spec, front, environment),
    )
    return StageTarget(
        spec.app,
        target,
        version,
        front,
        (state, granted),
        sizes,
        _resources(front, replaced),
        _values(front, replaced),
        "" if trial_route is None else f"{trial} of {trial_route['version']}",
        _resources(front, on_trial),
    )


def _most_replicas(settings: StageSettings) -> int:
    """Replicas that a stage has at most."""
    if settings.autoscaling_config is None:
        return max(1, settings.num_replicas or 1)
    return max(1, settings.autoscaling_config.get("max_replicas") or 1)


def _route(stage: StageTarget, version: str) -> list[str]:
    return [stage.target.name, stage.target.deployment, version]


def _replaced(stage: StageSpec, replacements: Mapping[str, Replacement]) -> dict[str, Replacement]:
    """The replacements of a stage's resources and configuration."""
    manifest = stage.manifest
    known = manifest.resources.keys() | manifest.configuration.keys()
    return {key: r for key, r in replacements.items() if key in known}


def _version(
    stage: StageSpec, sizes: Mapping[str, int], replaced: Mapping[str, Replacement]
) -> str:
    if not (sizes or replaced):
        return stage.digest
    return _digest([stage.digest, sizes, _digests(replaced)])


def _digests(replaced: Mapping[str, Replacement]) -> dict[str, str]:
    return {key: replacement.digest for key, replacement in replaced.items()}


def _locations(
    replaced: Mapping[str, Replacement], environment: Environment
) -> dict[str, list[str]]:
    """Location and digest of each replacement, for the replicas."""
    return {key: [environment.locations[r.object], r.digest] for key, r in replaced.items()}


def _resources(stage: StageSpec, replaced: Mapping[str, Replacement]) -> dict[str, str]:
    own = stage.manifest.resources
    return {**own, **{key: digest for key, digest in _digests(replaced).items() if key in own}}


def _values(stage: StageSpec, replaced: Mapping[str, Replacement]) -> dict[str, str]:
    own = {key: text for key, (_, text) in stage.manifest.configuration.items()}
    return {**own, **{key: replacement.text for key, replacement in replaced.items()}}


def _origin_of(spec: AppSpec, stage: StageSpec) -> Origin:
    """Return the app's origin with the number of threads for models in this stage."""
    if stage.threads is None:
        return spec.origin
    variables = {**spec.origin.variables, "MLKIT_THREADS": str(stage.threads)}
    return replace(spec.origin, variables=variables)


def _max_busy_workers(spec: AppSpec, stage: StageSpec) -> int | None:
    """Return the limit that keeps the replicas of a stage from using more cores than it has."""
    return None if spec.workers is not None else stage.settings.max_busy_workers


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
