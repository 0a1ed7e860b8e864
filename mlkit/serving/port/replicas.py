"""The classes that Serve runs: replicas of `mlkit.serving.replica`, with Ray as their runtime."""

from __future__ import annotations

from typing import Any

from mlkit.serving.port import depot, gathering
from mlkit.serving.replica.front import Replica
from mlkit.serving.replica.stage import StageReplica

__all__ = ["RayFront", "RayRuntime", "RayStage", "handle_of"]


def handle_of(application: str, deployment: str) -> Any:
    """Return Serve's handle of a deployment, in a session or in a replica."""
    from ray import serve

    try:
        # It exists; asking the controller would block the event loop of a replica.
        return serve.get_deployment_handle(deployment, application, _check_exists=False)
    except TypeError:
        return serve.get_deployment_handle(deployment, application)


class RayRuntime:
    """`mlkit.serving.replica.runtime.Runtime` on Ray."""

    fetch = staticmethod(depot.fetch)
    handle = staticmethod(handle_of)
    push = staticmethod(gathering.push)
    exposition = staticmethod(gathering.exposition)


class RayFront(Replica):
    """A front, as Serve starts it."""

    async def __init__(self, *arguments: Any) -> None:  # type: ignore[misc]  # Serve awaits it
        await super().__init__(*arguments, runtime=RayRuntime())


class RayStage(StageReplica):
    """A stage, as Serve starts it."""

    async def __init__(self, *arguments: Any) -> None:  # type: ignore[misc]  # Serve awaits it
        await super().__init__(*arguments, runtime=RayRuntime())
