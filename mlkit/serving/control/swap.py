"""Deployments, swaps and rollbacks: the resulting target state, computed from the app's record.

A swap takes over at once, or is on trial until it is promoted or rolled back::

    serving ── swap ──────────────────────▶ serving ── rollback ──▶ serving
       └────── swap with a share ▶ on trial ┬ promote ▶ serving ── rollback ──▶ serving
                                            └ rollback ▶ serving

A deployment ends a trial, and all swaps; scaling keeps them. While a version is on trial, a
rollback ends the trial; otherwise it goes back to the version that answered before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlkit.errors import DeployConflict, DeployError
from mlkit.serving.control.records import AppRecord, AppSpec, AppVersion, Replacement, Trial
from mlkit.serving.control.versions import before, named
from mlkit.serving.grants import Grant

__all__ = ["Desired", "allowed", "deployed", "promoted", "rolled_back", "swapped"]


@dataclass(frozen=True)
class Desired:
    """The target state; see the attributes of `AppRecord`.

    Attributes:
        how: as `AppVersion.how`, or "scaled".
        deployment: as `AppVersion.deployment`.
        back_to: the version that a rollback goes to.
        check: whether a version that fails on a recent request is refused. What was deployed
            before, or is deployed now, is wanted anyway.
        grants: those of the named tokens; None for those that there are.
    """

    spec: AppSpec
    how: str
    deployment: int
    trial: Trial | None = None
    back_to: AppVersion | None = None
    check: bool = False
    grants: tuple[Grant, ...] | None = None


def deployed(record: AppRecord | None, spec: AppSpec) -> Desired:
    """Deploy a specification, whatever serves."""
    if record is None:
        return Desired(spec, "deployed", 1)
    # After fresh=True, a deployment without changes rebuilds nothing.
    spec = spec.model_copy(update={"fresh": spec.fresh or record.spec.fresh})
    number = 1 + max((v.deployment for v in record.versions), default=0)
    return Desired(spec, "deployed", number)


def allowed(record: AppRecord, grants: tuple[Grant, ...]) -> Desired:
    """Have an app accept these named tokens, and change nothing else."""
    return Desired(record.spec, "scaled", record.deployment, record.trial, grants=grants)


def swapped(
    record: AppRecord,
    replacements: Mapping[str, Replacement],
    canary: float,
    shadow: float,
    how: str = "swapped",
) -> Desired:
    """Replace resources, at once or on trial.

    Raises:
        DeployError: another version is on trial, or these resources serve already.
    """
    spec, trial = record.spec, record.trial
    changed = _without_originals(spec, {**spec.replacements, **replacements})
    if trial is not None and trial.replacements != changed:
        raise DeployError(
            f"version {trial.version} is on trial",
            where=f"app {record.app!r}",
            fix="app.promote() or app.rollback() first",
        )
    if not (canary or shadow):
        if changed == spec.replacements:
            return Desired(spec, how, record.deployment)
        return Desired(_with(spec, changed), how, record.deployment, check=True)
    if changed == spec.replacements:
        raise DeployError(
            "the version that serves cannot be on trial: nothing differs from it",
            where=f"app {record.app!r}",
        )
    on_trial = Trial(replacements=changed, canary=canary, shadow=shadow)
    return Desired(spec, how, record.deployment, on_trial, check=True)


def promoted(record: AppRecord, version: str) -> Desired:
    """Have the version on trial take over.

    Raises:
        DeployError: no version is on trial.
        DeployConflict: another version is.
    """
    trial = record.trial
    if trial is None:
        raise DeployError(
            "no version is on trial",
            where=f"app {record.app!r}",
            fix="start one: app.swap(step, model, canary=0.1)",
        )
    _require(record, "on trial", trial.version, version)
    return Desired(_with(record.spec, trial.replacements), "promoted", record.deployment)


def rolled_back(record: AppRecord, version: str, to: str = "") -> Desired:
    """End the trial; without one, or with a name, go back to an earlier version.

    A version of another deployment has its code, resources and limits again. Replicas and
    autoscaling stay as they are now, and so do the token and the levels of loggers: a rollback must
    not bring back a token that was replaced.

    Args:
        record: the app.
        version: the version on trial, or else that serves, as the caller has seen it.
        to: name of the version to go to; "" for the one that answered before.

    Raises:
        DeployError: there is no such version.
        DeployConflict: the version on trial, or that serves, is another one.
    """
    if record.trial is not None:
        _require(record, "on trial", record.trial.version, version)
        if not to:
            return Desired(record.spec, "rolled back", record.deployment)
    else:
        _require(record, "serving", record.version, version)
    target = named(record, to) if to else before(record)
    if target is None:
        raise DeployError(
            "there is no earlier version",
            where=f"app {record.app!r}",
            fix="app.versions lists those that can be named: app.rollback(version)",
        )
    return Desired(_restored(record, target), "rolled back", target.deployment, back_to=target)


def _restored(record: AppRecord, target: AppVersion) -> AppSpec:
    now, then = record.spec, target.spec
    assert then is not None  # one that failed is not listed
    if target.deployment == record.deployment:
        return _with(now, then.replacements)
    settings = {stage.name: stage.settings for stage in now.stages}
    stages = tuple(
        stage.model_copy(update={"settings": settings.get(stage.name, stage.settings)})
        for stage in then.stages
    )
    kept = ("token", "exact_key", "log_levels")
    return then.model_copy(update={"stages": stages, **{name: getattr(now, name) for name in kept}})


def _with(spec: AppSpec, replacements: Mapping[str, Replacement]) -> AppSpec:
    return spec.model_copy(update={"replacements": dict(replacements)})


def _without_originals(
    spec: AppSpec, replacements: Mapping[str, Replacement]
) -> dict[str, Replacement]:
    """Replacements that differ from the resources in the bundles."""
    digests: dict[str, str] = {}
    for stage in spec.stages:
        digests |= {key: digest for key, (digest, _) in stage.manifest.configuration.items()}
        digests |= stage.manifest.resources
    return {key: new for key, new in replacements.items() if new.digest != digests.get(key)}


def _require(record: AppRecord, role: str, version: str, expected: str) -> None:
    if version != expected:
        raise DeployConflict(
            f"another version is {role} by now",
            where=f"app {record.app!r}",
            expected=expected,
            got=version,
            fix="look at app.version and app.trial, and try again",
        )
