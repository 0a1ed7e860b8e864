"""Swaps of resources: what is to serve after each, decided from the record of an app.

A swap takes over at once, or is on trial until it is promoted or rolled back::

    serving ── swap ──────────────────────▶ serving ── rollback ──▶ serving
       └────── swap with a share ▶ on trial ┬ promote ▶ serving ── rollback ──▶ serving
                                            └ rollback ▶ serving

A deployment ends a trial, and all swaps; scaling keeps them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlkit.errors import DeployConflict, DeployError
from mlkit.serving.control.records import AppRecord, AppSpec, Replacement, Trial

__all__ = ["Desired", "promoted", "rolled_back", "swapped"]


@dataclass(frozen=True)
class Desired:
    """What is to serve; see the attributes of `AppRecord`.

    Attributes:
        check: whether a version that fails on a recent request is refused. What was deployed
            before, or is deployed now, is wanted anyway.
    """

    spec: AppSpec
    trial: Trial | None = None
    previous: Mapping[str, Replacement] | None = None
    check: bool = False


def swapped(
    record: AppRecord, replacements: Mapping[str, Replacement], canary: float, shadow: float
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
            return Desired(spec, None, record.previous)
        return Desired(_with(spec, changed), None, spec.replacements, check=True)
    if changed == spec.replacements:
        raise DeployError(
            "the version that serves cannot be on trial: nothing differs from it",
            where=f"app {record.app!r}",
        )
    on_trial = Trial(replacements=changed, canary=canary, shadow=shadow)
    return Desired(spec, on_trial, record.previous, check=True)


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
    return Desired(_with(record.spec, trial.replacements), None, record.spec.replacements)


def rolled_back(record: AppRecord, version: str) -> Desired:
    """End the trial; without one, undo the last swap or promotion.

    Raises:
        DeployError: there is neither.
        DeployConflict: the version on trial, or that serves, is another one.
    """
    if record.trial is not None:
        _require(record, "on trial", record.trial.version, version)
        return Desired(record.spec, None, record.previous)
    if record.previous is None:
        raise DeployError(
            "nothing was swapped since it was deployed, or since the last rollback",
            where=f"app {record.app!r}",
            fix="for an earlier version of the code, run its deploy cell",
        )
    _require(record, "serving", record.version, version)
    return Desired(_with(record.spec, record.previous))


def _with(spec: AppSpec, replacements: Mapping[str, Replacement]) -> AppSpec:
    return spec.model_copy(update={"replacements": dict(replacements)})


def _without_originals(
    spec: AppSpec, replacements: Mapping[str, Replacement]
) -> dict[str, Replacement]:
    """Replacements other than by what is in the bundles."""
    digests = {
        key: digest for stage in spec.stages for key, digest in stage.manifest.resources.items()
    }
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
