"""The versions of an app: how many are kept, and which one a rollback restores.

They are listed in the order in which they began to answer. A rollback marks what it leaves, so that
the next one goes further back instead of returning to it::

    v1  v2  v3           serving v3
    v1  v3* v2           rolled back: v2 serves again, v3 was left
    v3* v2* v1           rolled back once more
"""

from __future__ import annotations

from collections.abc import Sequence

from mlkit.errors import DeployError
from mlkit.serving.control.records import AppRecord, AppVersion, Change

__all__ = ["KEPT", "before", "entered", "failed", "named", "summary"]

KEPT = 10
"""Versions that an app can be rolled back to, with the one that serves."""
KEPT_FAILED = 5
LEAST_PREFIX = 4
"""Digits of a version that name it, if no other begins with them."""

FIRST = "first deployment"


def before(record: AppRecord) -> AppVersion | None:
    """Return the version that served before the current one, or None.

    Versions that were rolled back from are skipped.
    """
    others = (v for v in reversed(record.versions) if v.version != record.version)
    return next((v for v in others if v.spec is not None and not v.left and not v.error), None)


def named(record: AppRecord, name: str) -> AppVersion:
    """Return the version of a name, or of the first digits of one.

    Raises:
        DeployError: there is no such version, or several.
    """
    known = [v for v in record.versions if v.spec is not None and not v.error]
    exact = [v for v in known if v.version == name]
    matches = exact or [
        v for v in known if len(name) >= LEAST_PREFIX and v.version.startswith(name)
    ]
    if len(matches) == 1:
        return matches[0]
    raise DeployError(
        f"several versions begin with {name!r}" if matches else f"there is no version {name!r}",
        where=f"app {record.app!r}",
        expected=f"one of {', '.join(v.version for v in known)}" if known else None,
        fix="see app.versions",
    )


def entered(
    versions: Sequence[AppVersion], serving: str, new: AppVersion, back_to: AppVersion | None = None
) -> tuple[AppVersion, ...]:
    """Return the versions after another one has begun to answer.

    Args:
        versions: the previous ones.
        serving: the version that has answered until now.
        new: the version that answers from now on.
        back_to: the entry of ``versions`` that a rollback went to.
    """
    if new.version == serving:  # the same, run in another way
        return tuple(_updated(v, new) if _serves(v, serving) else v for v in versions)
    left: set[str] = set()
    if back_to is not None and not back_to.left:  # going back
        left = {v.version for v in versions[list(versions).index(back_to) + 1 :]}
    past = [
        v.model_copy(update={"left": True}) if v.version in left and not v.error else v
        for v in versions
        if v.version not in _same(new, back_to)
    ]
    return _bounded([*past, new])


def scaled(versions: Sequence[AppVersion], serving: str, new: AppVersion) -> tuple[AppVersion, ...]:
    """Return the versions after the one that answers was changed in how it runs only.

    It may have another name by that, but is none to go back to.
    """
    others = [v for v in versions if v.version != new.version or v.version == serving]
    return tuple(_updated(v, new) if _serves(v, serving) else v for v in others)


def failed(versions: Sequence[AppVersion], new: AppVersion) -> tuple[AppVersion, ...]:
    """Return the versions with one that failed to start; its error replaces an earlier one."""
    past = [v for v in versions if not (v.error and v.version == new.version)]
    return _bounded([*past, new])


def summary(changes: Sequence[Change], first: bool) -> str:
    """Describe the changes of a rollout in one line."""
    if first:
        return FIRST
    changed: dict[str, list[str]] = {}
    for change in changes:
        if change.action != "kept" and change.why != "a called stage changed":
            changed.setdefault(change.why, []).append(change.stage)
    return "; ".join(f"{', '.join(stages)}: {why}" for why, stages in changed.items())


def _serves(version: AppVersion, serving: str) -> bool:
    return version.version == serving and not version.error


def _updated(version: AppVersion, new: AppVersion) -> AppVersion:
    return version.model_copy(
        update={"version": new.version, "spec": new.spec, "deployment": new.deployment}
    )


def _same(new: AppVersion, back_to: AppVersion | None) -> set[str]:
    return {new.version} | ({back_to.version} if back_to is not None else set())


def _bounded(versions: Sequence[AppVersion]) -> tuple[AppVersion, ...]:
    served = [v for v in versions if not v.error][-KEPT:]
    failures = [v for v in versions if v.error][-KEPT_FAILED:]
    kept = {id(v) for v in (*served, *failures)}
    return tuple(v for v in versions if id(v) in kept)
