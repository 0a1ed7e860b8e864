"""What a replica needs of the cluster that it runs in, as an interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

__all__ = ["Runtime"]


class Runtime(Protocol):
    """Ray, as far as a replica uses it; `mlkit.serving.port.replicas` implements it."""

    def fetch(self, location: str) -> bytes:
        """A bundle, from where it was published."""

    def handle(self, application: str, deployment: str) -> Any:
        """What calls a deployment, as Serve's ``DeploymentHandle``."""

    def push(self, gatherer: str, app: str, delta: Mapping[str, Any]) -> list[str]:
        """Hand counts on and wait until they are taken; the steps to take samples of."""

    async def exposition(self, gatherer: str, app: str) -> bytes:
        """The counts of all replicas of an app, in Prometheus's text format."""
