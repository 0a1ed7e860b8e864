"""Specification, state and generation of an app.

The session process owns one `AppRecord` per app; `App` in a kernel is a view of it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from mlkit.errors import DeployError
from mlkit.serving.bundle import Manifest, Origin
from mlkit.serving.grants import Grant
from mlkit.serving.limits import Limits

__all__ = [
    "AppRecord",
    "AppSpec",
    "AppState",
    "AppVersion",
    "Change",
    "Frozen",
    "Replacement",
    "StageSettings",
    "StageSpec",
    "Trial",
]


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
        max_busy_workers: worker threads of a replica that make calls at a time; None for all.
    """

    num_replicas: int | None = 1
    autoscaling_config: dict[str, Any] | None = None
    policy: str = ""
    policy_name: str = ""
    max_ongoing_requests: int | None = None
    max_queued_requests: int | None = None
    max_busy_workers: int | None = None


class StageSpec(Frozen):
    """One stage of an app.

    Attributes:
        digest: digest of its code, types and resources.
        bundle: key of the pickled `mlkit.serving.bundle.Bundle` in the session's store.
        ray_actor_options: resources of a replica, by Ray's names.
        options: further deployment options by Serve's names.
        threads: threads of a replica that compute at a time; None for as many as it has cores.
        workers: its worker threads, where the app does not set them; None for the default.
        has_pools: whether its steps take models from pools, by an id in their arguments.
    """

    name: str
    digest: str
    bundle: str
    manifest: Manifest
    ray_actor_options: dict[str, Any]
    options: dict[str, Any]
    settings: StageSettings
    threads: int | None = None
    workers: int | None = None
    has_pools: bool = False


class Replacement(Frozen):
    """A resource that takes the place of the one in a bundle.

    Attributes:
        digest: digest of the resource.
        object: key of the pickled resource in the session's store.
        text: the value, abbreviated, if it is plain; "" otherwise.
    """

    digest: str
    object: str
    text: str = ""


class AppSpec(Frozen):
    """Specification of an app.

    Attributes:
        stages: its stages, the front first.
        plan: key of the pickled `mlkit.plan.Plan` in the session's store.
        origin: folder, search path and environment variables of the notebook.
        log_levels: levels of loggers in the notebook, by name; "" is the root logger.
        token: bearer token; None if none is required.
        exact_key: secret of requests in the exact form, which notebooks of the session send.
        workers: worker threads of every replica; None for those of its stage.
        observe: whether requests are counted and timed.
        fresh: a new value rebuilds every resource.
        batch_sizes: maximum batch size by step, where it differs from the step's own.
        replacements: resources that were swapped since it was deployed, by ``graph.node.keyword``.
        keep_inputs: whether inputs of failed and slow requests are kept to reproduce them.
        code: digest of each node of the pipeline as it was in the notebook.
        idempotent: whether a request may be run twice.
    """

    app: str
    stages: tuple[StageSpec, ...]
    plan: str
    origin: Origin
    log_levels: dict[str, int] = {}
    limits: Limits
    token: str | None = Field(repr=False)
    exact_key: str = Field(repr=False)
    workers: int | None = None
    observe: bool = True
    fresh: str = ""
    batch_sizes: dict[str, int] = {}
    replacements: dict[str, Replacement] = {}
    keep_inputs: bool = True
    code: dict[str, str] = {}
    idempotent: bool = False

    @property
    def objects(self) -> set[str]:
        """Keys of the objects in the session's store that it refers to."""
        policies = {stage.settings.policy for stage in self.stages} - {""}
        replacements = {replacement.object for replacement in self.replacements.values()}
        return {self.plan} | {stage.bundle for stage in self.stages} | policies | replacements


class Trial(Frozen):
    """Another version of an app, which takes a share of its requests.

    Attributes:
        replacements: its resources, as `AppSpec.replacements`.
        canary: share of the requests that it answers.
        shadow: share of the other requests that it sees a copy of; its results are compared.
        version: its version; "" before it is loaded.
    """

    replacements: dict[str, Replacement]
    canary: float = Field(0.0, ge=0, le=1)
    shadow: float = Field(0.0, ge=0, le=1)
    version: str = ""

    def __str__(self) -> str:
        shares = (("canary", self.canary), ("shadow", self.shadow))
        return " and ".join(f"{name} {share:.3g}" for name, share in shares if share)


class Change(Frozen):
    """Change of one stage in a rollout.

    Attributes:
        action: "kept", "started", "restarted", "new code in place", "scaled", "reconfigured" or
            "removed".
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


class AppVersion(Frozen):
    """A version that an app has had, or that failed to start.

    Attributes:
        version: as in ``X-Mlkit-Version``.
        spec: its specification when it last served; None if it failed to start.
        since: when it began to answer, or failed, in seconds since the epoch.
        how: "deployed", "swapped", "promoted", "updated" or "rolled back".
        changed: what differs from the version before, and why, in one line.
        deployment: number of the deployment that it comes from; swaps and updates keep it.
        left: whether it was rolled back from.
        error: why it failed to start; "" if it has answered.
    """

    version: str
    spec: AppSpec | None = Field(repr=False)
    since: float
    how: str
    changed: str
    deployment: int
    left: bool = False
    error: str = ""


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
        version: version that answers, but for the share of a trial.
        trial: the version on trial, if any.
        versions: the last versions in the order in which they began to answer.
        grants: those of its named tokens; no rollback brings one back that was revoked.
    """

    spec: AppSpec
    state: AppState
    generation: int
    root: bool
    url: str
    base: str
    since: float
    changes: tuple[Change, ...] = ()
    version: str = ""
    trial: Trial | None = None
    versions: tuple[AppVersion, ...] = ()
    grants: tuple[Grant, ...] = ()

    @property
    def objects(self) -> set[str]:
        """Keys of the objects in the session's store that it refers to."""
        specs = [self.spec, *(v.spec for v in self.versions if v.spec is not None)]
        on_trial = self.trial.replacements.values() if self.trial else ()
        return set().union(*(spec.objects for spec in specs)) | {r.object for r in on_trial}

    @property
    def deployment(self) -> int:
        """Number of the deployment that serves."""
        return next((v.deployment for v in self.versions if v.version == self.version), 0)

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
