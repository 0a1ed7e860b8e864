"""What the session process knows of an app: its specification, its state and its generation.

One `AppRecord` per app, owned by the session process. `App` in a kernel is a view of it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from mlkit.errors import DeployError
from mlkit.serving.bundle import Manifest, Origin
from mlkit.serving.limits import Limits

__all__ = ["AppRecord", "AppSpec", "AppState", "Change", "Frozen", "StageSettings", "StageSpec"]


class Frozen(BaseModel):
    """Base of what crosses the control protocol: immutable, and strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class StageSettings(Frozen):
    """How a stage runs, and nothing of what it runs: what `App.scale` changes.

    Attributes:
        num_replicas: None where autoscaling decides.
        autoscaling_config: as the user wrote it, without the policy; None for a fixed number.
        policy: key of the pickled policy in the session's store; "" for Serve's own rule.
        policy_name: what decisions call the policy.
        max_ongoing_requests: Serve's option; None for mlkit's default.
        max_queued_requests: likewise.
    """

    num_replicas: int | None = 1
    autoscaling_config: dict[str, Any] | None = None
    policy: str = ""
    policy_name: str = ""
    max_ongoing_requests: int | None = None
    max_queued_requests: int | None = None


class StageSpec(Frozen):
    """One stage of an app.

    Attributes:
        digest: changes when its code, types or resources do.
        bundle: key of the pickled `mlkit.serving.bundle.Bundle` in the session's store.
        ray_actor_options: of one replica, by Ray's names.
        options: further deployment options by Serve's names.
    """

    name: str
    digest: str
    bundle: str
    manifest: Manifest
    ray_actor_options: dict[str, Any]
    options: dict[str, Any]
    settings: StageSettings


class AppSpec(Frozen):
    """An app as somebody wants it.

    Attributes:
        stages: the front first.
        plan: key of the pickled `mlkit.plan.Plan` in the session's store.
        origin: where the pipeline was written.
        token: None where none is asked for.
        workers: threads of a replica that run steps; None for the default.
        observe: whether requests are counted and timed.
        fresh: changes when every resource is to be built again.
        batch_sizes: largest batch by step, where it differs from the step's own.
    """

    app: str
    stages: tuple[StageSpec, ...]
    plan: str
    origin: Origin
    limits: Limits
    token: str | None = Field(repr=False)
    workers: int | None = None
    observe: bool = True
    fresh: str = ""
    batch_sizes: dict[str, int] = {}

    @property
    def objects(self) -> set[str]:
        """Keys of everything in the session's store that it refers to."""
        policies = {stage.settings.policy for stage in self.stages} - {""}
        return {self.plan} | {stage.bundle for stage in self.stages} | policies


class Change(Frozen):
    """What a rollout does to one stage.

    Attributes:
        action: "kept", "started", "restarted", "new code in place", "scaled" or "removed".
        why: in words.
        built: resources that are built for it.
    """

    stage: str
    action: str
    why: str
    built: tuple[str, ...] = ()


class AppState(StrEnum):
    """Where an app is in its life."""

    STARTING = "starting"
    SERVING = "serving"
    UPDATING = "updating"
    ROLLING_BACK = "rolling back"
    STOPPED = "stopped"


_NEXT = {
    AppState.STARTING: {AppState.SERVING, AppState.STOPPED},
    AppState.SERVING: {AppState.UPDATING, AppState.STOPPED},
    AppState.UPDATING: {AppState.SERVING, AppState.ROLLING_BACK, AppState.STOPPED},
    AppState.ROLLING_BACK: {AppState.SERVING, AppState.UPDATING, AppState.STOPPED},
    AppState.STOPPED: set(),
}
"""A rollback that fails leaves an app rolling back; the next rollout starts from there."""


class AppRecord(Frozen):
    """An app of the session.

    Attributes:
        generation: grows with each change that succeeded.
        spec: what serves, or is being brought up for the first time.
        root: whether it answers at ``/`` too.
        url: where its pipeline takes POST requests.
        base: prefix of its other paths.
        since: when this generation began to serve, in seconds since the epoch.
        changes: what the last rollout did.
    """

    spec: AppSpec
    state: AppState
    generation: int
    root: bool
    url: str
    base: str
    since: float
    changes: tuple[Change, ...] = ()

    @property
    def app(self) -> str:
        """Name of the app."""
        return self.spec.app

    def moved(self, state: AppState, **changes: Any) -> AppRecord:
        """A copy in another state.

        Raises:
            DeployError: that state does not follow from this one.
        """
        if state not in _NEXT[self.state]:
            raise DeployError(f"an app that is {self.state} cannot become {state}", where=self.app)
        return self.model_copy(update={"state": state, **changes})
