"""Interface of the cluster that a replica runs in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

__all__ = ["Runtime"]


class Runtime(Protocol):
    """The part of Ray that replicas use; `mlkit.serving.port.replicas` implements it."""

    def fetch(self, location: str) -> memoryview:
        """Return the bundle published at a location."""

    def handle(self, application: str, deployment: str) -> Any:
        """Return a handle of a deployment, like Serve's ``DeploymentHandle``."""

    def push(self, gatherer: str, app: str, delta: Mapping[str, Any]) -> list[str]:
        """Send metrics, wait for the acknowledgement, and return the steps to sample."""

    async def exposition(self, gatherer: str, app: str, openmetrics: bool) -> bytes:
        """Return the metrics of all replicas of an app; see `mlkit.metrics.prometheus`."""
