"""The classes that Serve runs: replicas of `mlkit.serving.replica`, with Ray as their runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlkit.serving.port import depot, gathering, handles
from mlkit.serving.replica.front import Replica
from mlkit.serving.replica.stage import StageReplica

__all__ = ["RayFront", "RayRuntime", "RayStage"]


class RayRuntime:
    """`mlkit.serving.replica.runtime.Runtime` on Ray."""

    def fetch(self, location: str) -> bytes:
        """A bundle, from a file or a depot."""
        return depot.fetch(location)

    def handle(self, application: str, deployment: str) -> Any:
        """Serve's handle of a deployment."""
        return handles.handle_of(application, deployment)

    def push(self, gatherer: str, app: str, delta: Mapping[str, Any]) -> list[str]:
        """Hand counts to the session's actor."""
        return gathering.push(gatherer, app, delta)

    async def exposition(self, gatherer: str, app: str) -> bytes:
        """Ask the session's actor for the counts of an app."""
        return await gathering.exposition(gatherer, app)


class RayFront(Replica):
    """A front, as Serve starts it."""

    async def __init__(self, *arguments: Any) -> None:  # type: ignore[misc]  # Serve awaits it
        await super().__init__(*arguments, runtime=RayRuntime())


class RayStage(StageReplica):
    """A stage, as Serve starts it."""

    async def __init__(self, *arguments: Any) -> None:  # type: ignore[misc]  # Serve awaits it
        await super().__init__(*arguments, runtime=RayRuntime())
