"""Specification, state and generation of an app.

The session process owns one `AppRecord` per app; `App` in a kernel is a view of it.
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
    """Base of the models of the control protocol: immutable, without extra fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class StageSettings(Frozen):
    """Settings of a stage that `App.scale` changes, independent of its code.

    Attributes:
        num_replicas: None if autoscaled.
        autoscaling_config: the user's options, without the policy; None if not autoscaled.
        policy: key of the pickled policy in the session's store; "" for the default policy.
        policy_name: name of the policy in decisions.
        max_ongoing_requests: Serve's option; None for the default.
        max_queued_requests: Serve's option; None for the default.
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
        digest: digest of its code, types and resources.
        bundle: key of the pickled `mlkit.serving.bundle.Bundle` in the session's store.
        ray_actor_options: resources of a replica, by Ray's names.
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
    """Specification of an app.

    Attributes:
        stages: its stages, the front first.
        plan: key of the pickled `mlkit.plan.Plan` in the session's store.
        origin: folder and search path of the notebook.
        token: bearer token; None if none is required.
        exact_key: secret of requests in the exact form, which notebooks of the session send.
        workers: worker threads of a replica; None for the default.
        observe: whether requests are counted and timed.
        fresh: a new value rebuilds every resource.
        batch_sizes: maximum batch size by step, where it differs from the step's own.
    """

    app: str
    stages: tuple[StageSpec, ...]
    plan: str
    origin: Origin
    limits: Limits
    token: str | None = Field(repr=False)
    exact_key: str = Field(repr=False)
    workers: int | None = None
    observe: bool = True
    fresh: str = ""
    batch_sizes: dict[str, int] = {}

    @property
    def objects(self) -> set[str]:
        """Keys of the objects in the session's store that it refers to."""
        policies = {stage.settings.policy for stage in self.stages} - {""}
        return {self.plan} | {stage.bundle for stage in self.stages} | policies


class Change(Frozen):
    """Change of one stage in a rollout.

    Attributes:
        action: "kept", "started", "restarted", "new code in place", "scaled" or "removed".
        why: the reason.
        built: resources that are built.
    """

    stage: str
    action: str
    why: str
    built: tuple[str, ...] = ()


class AppState(StrEnum):
    """State of an app's lifecycle."""

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
"""If a rollback fails, the app remains in this state until the next rollout."""


class AppRecord(Frozen):
    """An app of the session.

    Attributes:
        spec: the specification that serves, or is deployed for the first time.
        generation: number of successful changes.
        root: whether it is served at ``/``.
        url: URL of the pipeline, for POST requests.
        base: base URL of its other paths.
        since: start of this generation in seconds since the epoch.
        changes: changes of the last rollout.
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
        """Return a copy in another state.

        Raises:
            DeployError: the transition is invalid.
        """
        if state not in _NEXT[self.state]:
            raise DeployError(f"an app that is {self.state} cannot become {state}", where=self.app)
        return self.model_copy(update={"state": state, **changes})
