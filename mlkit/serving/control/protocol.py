"""The protocol between a kernel and its session process: typed calls over HTTP on a Unix socket.

``POST /<PROTOCOL>/<call>`` with a `Call` as JSON returns lines of JSON: any number of
``{"progress": text}``, then one of ``{"result": ...}`` or ``{"error": ErrorReply}``. Closing the
connection before that cancels the call. The socket is in a folder that only this user can access;
code is passed as files in that folder, never over the socket.
"""

from __future__ import annotations

from typing import Any, ClassVar, Generic, Literal, TypeVar

from mlkit.errors import DeployConflict, DeployError, MlkitError, SessionError
from mlkit.serving.control.cluster import ApplicationStatus
from mlkit.serving.control.owner import Owner
from mlkit.serving.control.records import (
    AppRecord,
    AppSpec,
    Frozen,
    Replacement,
    StageSettings,
)
from mlkit.serving.grants import Grant
from mlkit.serving.limits import Limits

__all__ = [
    "CALLS",
    "PROTOCOL",
    "SOCKET",
    "About",
    "Call",
    "CreateToken",
    "DeleteApp",
    "DeployApp",
    "ErrorReply",
    "GetComparisons",
    "GetHealth",
    "GetMetrics",
    "GetPlacement",
    "GetTraces",
    "Own",
    "PeekInto",
    "PromoteTrial",
    "RevokeToken",
    "RollBack",
    "ScaleApp",
    "SessionInfo",
    "StopSession",
    "SwapResources",
]

PROTOCOL = 8
"""Version of the protocol; calls of another version are refused."""

SOCKET = "control"
"""Name of the socket in a session's folder."""

CALLS: dict[str, type[Call[Any]]] = {}
"""The calls by name."""

Reply = TypeVar("Reply")


class Call(Frozen, Generic[Reply]):
    """A call to a session; ``reply`` is the type of its result.

    Attributes:
        by: who makes it, for the audit log.
    """

    reply: ClassVar[Any]
    by: str = ""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        base: Any = cls.__base__
        if arguments := base.__pydantic_generic_metadata__["args"]:
            (cls.reply,) = arguments
            CALLS[cls.__name__] = cls


class SessionInfo(Frozen):
    """A session and its apps."""

    pid: int
    notebook: str
    owner: Owner
    address: str
    port: int
    apps: dict[str, AppRecord]


class About(Call[SessionInfo]):
    """Describe the session."""


class Own(Call[None]):
    """Make a process the session's owner."""

    pid: int


class DeployApp(Call[AppRecord]):
    """Deploy or update an app, whatever its generation: a deployment is declarative."""

    spec: AppSpec


class ScaleApp(Call[AppRecord]):
    """Change how an app runs, if its generation is still the given one."""

    app: str
    generation: int
    settings: dict[str, StageSettings]
    limits: Limits
    batch_sizes: dict[str, int]


class SwapResources(Call[AppRecord]):
    """Replace resources of an app, if its generation is still the given one.

    Attributes:
        replacements: the new resources by ``graph.node.keyword``; the others stay as they are.
        canary: share of the requests that the new version answers, on trial.
        shadow: share of the requests that it sees a copy of, on trial. With neither, it takes over.
        how: what to call it in the app's versions.
    """

    app: str
    generation: int
    replacements: dict[str, Replacement]
    canary: float
    shadow: float
    how: Literal["swapped", "updated"] = "swapped"


class PromoteTrial(Call[AppRecord]):
    """Have the version on trial take over, if it is still the given one."""

    app: str
    version: str


class RollBack(Call[AppRecord]):
    """End a trial, or go back to a version, if the version on trial or serving is the given one.

    Attributes:
        to: name of the version; "" to end the trial, or for the version that answered before.
    """

    app: str
    version: str
    to: str = ""


class CreateToken(Call[AppRecord]):
    """Have a named token be accepted; only its digest is sent."""

    app: str
    grant: Grant


class RevokeToken(Call[AppRecord]):
    """Have a named token be refused from now on."""

    app: str
    name: str


class DeleteApp(Call[list[str]]):
    """Delete an app, if it exists; return the names of the remaining apps.

    Attributes:
        last_ends: whether the session ends if none remain. It then responds before it has ended.
    """

    app: str
    last_ends: bool = False


class GetHealth(Call[dict[str, ApplicationStatus]]):
    """Return the status by stage; empty if the app does not exist."""

    app: str


class GetPlacement(Call[dict[str, Any]]):
    """Return the fields of `mlkit.serving.kernel.status.Placement`, except the plan."""

    app: str


class GetMetrics(Call[tuple[int, list[dict[str, Any]], dict[str, Any]]]):
    """Return the last delta's number, and the deltas and scaling log after the given numbers."""

    app: str
    since: int = 0
    scaling: int = 0


class GetTraces(Call[list[Any]]):
    """Return packed traces: the slowest, or the one with an id."""

    app: str
    slowest: int = 0
    id: str = ""


class GetComparisons(Call[dict[str, Any]]):
    """Return the fields of `mlkit.metrics.compare.Disagreements`, of the last shadow."""

    app: str


class PeekInto(Call[list[dict[str, Any]]]):
    """Return samples of a step, and have its replicas take more for ``for_s`` seconds."""

    app: str
    step: str
    for_s: float


class StopSession(Call[None]):
    """End the session."""


_ERRORS: dict[str, type[MlkitError]] = {
    "deploy": DeployError,
    "conflict": DeployConflict,
    "protocol": SessionError,
}


class ErrorReply(Frozen):
    """An error with the parts of an `MlkitError`."""

    kind: Literal["deploy", "conflict", "protocol"] = "deploy"
    what: str
    where: str | None = None
    expected: str | None = None
    got: str | None = None
    fix: str | None = None

    @classmethod
    def of(cls, error: BaseException) -> ErrorReply:
        """Describe the error that a call raised."""
        if not isinstance(error, MlkitError):
            return cls(what=f"{type(error).__name__}: {error}")
        parts = {part: getattr(error, part) for part in ("what", "where", "expected", "got", "fix")}
        return cls(kind="conflict" if isinstance(error, DeployConflict) else "deploy", **parts)

    def error(self) -> MlkitError:
        """Return the exception to raise in the kernel."""
        return _ERRORS[self.kind](**self.model_dump(exclude={"kind"}))
