"""The contract between a kernel and its session process: typed calls over HTTP on a Unix socket.

``POST /<PROTOCOL>/<call>`` with a `Call` as JSON is answered with lines of JSON: any number of
``{"progress": text}``, then one of ``{"result": ...}`` or ``{"error": ErrorReply}``. Closing the
connection before that gives the call up. The socket lies in a folder that only this user can enter;
code travels as files in that folder, never over the socket.
"""

from __future__ import annotations

from typing import Any, ClassVar, Generic, Literal, TypeVar

from mlkit.errors import DeployConflict, DeployError, MlkitError, SessionError
from mlkit.serving.control.cluster import ApplicationStatus
from mlkit.serving.control.owner import Owner
from mlkit.serving.control.records import AppRecord, AppSpec, Frozen, StageSettings
from mlkit.serving.limits import Limits

__all__ = [
    "CALLS",
    "PROTOCOL",
    "SOCKET",
    "About",
    "AppHealth",
    "Call",
    "DeleteApp",
    "DeployApp",
    "ErrorReply",
    "GetHealth",
    "GetMetrics",
    "GetPlacement",
    "GetTraces",
    "MetricsReply",
    "Own",
    "PeekInto",
    "PlacementReply",
    "ScaleApp",
    "SessionInfo",
    "StopSession",
]

PROTOCOL = 1
"""Version; both sides have the same, or the call is refused."""

SOCKET = "control"
"""Name of the socket in a session's folder."""

Reply = TypeVar("Reply")


class Call(Frozen, Generic[Reply]):
    """What a kernel asks of a session; ``reply`` is the type of the answer."""

    reply: ClassVar[Any]


class SessionInfo(Frozen):
    """What a session is and has."""

    pid: int
    notebook: str
    owner: Owner
    address: str
    port: int
    apps: dict[str, AppRecord]


class About(Call[SessionInfo]):
    """Describe the session."""

    reply = SessionInfo


class Own(Call[None]):
    """Live for another process from now on."""

    reply = None
    pid: int


class DeployApp(Call[AppRecord]):
    """Bring an app to what it says, whatever its generation: a deploy cell is declarative."""

    reply = AppRecord
    spec: AppSpec


class ScaleApp(Call[AppRecord]):
    """Change how an app runs, if it still is at this generation."""

    reply = AppRecord
    app: str
    generation: int
    settings: dict[str, StageSettings]
    limits: Limits
    batch_sizes: dict[str, int]


class DeleteApp(Call[list[str]]):
    """Remove an app; one that is not there is no error. Returns the apps that remain."""

    reply = list[str]
    app: str


class AppHealth(Frozen):
    """State of an app and of each of its stages, as Serve has it."""

    state: str
    message: str
    stages: dict[str, ApplicationStatus]


class GetHealth(Call[AppHealth]):
    """Ask how an app is."""

    reply = AppHealth
    app: str


class PlacementReply(Frozen):
    """Replicas, nodes and what is taken; see `mlkit.serving.kernel.placement.Placement`."""

    replicas: list[dict[str, Any]]
    nodes: list[dict[str, Any]]
    taken: dict[str, float]


class GetPlacement(Call[PlacementReply]):
    """Ask where the replicas of an app are."""

    reply = PlacementReply
    app: str


class MetricsReply(Frozen):
    """What was counted and decided; the next call goes on from ``last`` and ``scaling["last"]``."""

    last: int
    deltas: list[dict[str, Any]]
    scaling: dict[str, Any]


class GetMetrics(Call[MetricsReply]):
    """Ask for what was counted and decided after these numbers; 0 for all."""

    reply = MetricsReply
    app: str
    since: int = 0
    scaling: int = 0


class GetTraces(Call[list[Any]]):
    """Ask for packed traces: the slowest, or the one of an id."""

    reply = list[Any]
    app: str
    slowest: int = 0
    id: str = ""


class PeekInto(Call[list[dict[str, Any]]]):
    """Ask for samples of a step; its replicas take more for some seconds."""

    reply = list[dict[str, Any]]
    app: str
    step: str
    for_s: float


class StopSession(Call[None]):
    """End the session."""

    reply = None


CALLS: dict[str, type[Call[Any]]] = {
    kind.__name__: kind
    for kind in (
        About,
        DeleteApp,
        DeployApp,
        GetHealth,
        GetMetrics,
        GetPlacement,
        GetTraces,
        Own,
        PeekInto,
        ScaleApp,
        StopSession,
    )
}

_ERRORS: dict[str, type[MlkitError]] = {
    "deploy": DeployError,
    "conflict": DeployConflict,
    "protocol": SessionError,
}


class ErrorReply(Frozen):
    """An error, with the parts that mlkit's have."""

    kind: Literal["deploy", "conflict", "protocol"] = "deploy"
    what: str
    where: str | None = None
    expected: str | None = None
    got: str | None = None
    fix: str | None = None

    @classmethod
    def of(cls, error: BaseException) -> ErrorReply:
        """Describe an error that a call ended in."""
        if not isinstance(error, MlkitError):
            return cls(what=f"{type(error).__name__}: {error}")
        parts = {part: getattr(error, part) for part in ("what", "where", "expected", "got", "fix")}
        return cls(kind="conflict" if isinstance(error, DeployConflict) else "deploy", **parts)

    def error(self) -> MlkitError:
        """The error again, in the kernel."""
        return _ERRORS[self.kind](**self.model_dump(exclude={"kind"}))
