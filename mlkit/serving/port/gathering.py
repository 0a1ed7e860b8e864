"""The actor that gathers the metrics of a session, and its clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from mlkit.autoscale import ScalingLog
from mlkit.metrics import Gatherer
from mlkit.metrics.prometheus import exposition as exposition_of

__all__ = ["RayTelemetry", "exposition", "push", "scaled"]

_NAMESPACE = "mlkit"
CALL_TIMEOUT_S = 10.0
_gatherers: dict[str, Any] = {}


class _Gatherers:
    """Actor with the metrics and scaling logs of all apps of a session."""

    def __init__(self) -> None:
        self.apps: dict[str, Gatherer] = {}
        self.scalings: dict[str, ScalingLog] = {}

    def push(self, app: str, delta: dict[str, Any]) -> list[str]:
        return self._of(app).push(delta)

    def peek(self, app: str, step: str, until: float) -> list[dict[str, Any]]:
        return self._of(app).peek(step, until)

    def comparisons(self, app: str) -> dict[str, Any]:
        return self._of(app).comparisons()

    def since(
        self, app: str, number: int, scaling: int
    ) -> tuple[int, list[dict[str, Any]], dict[str, Any]]:
        last, deltas = self._of(app).since(number)
        return last, deltas, self.scalings.setdefault(app, ScalingLog()).since(scaling)

    def scaled(
        self, app: str, decisions: list[dict[str, Any]], counts: list[dict[str, Any]]
    ) -> None:
        self.scalings.setdefault(app, ScalingLog()).push(decisions, counts)

    def traces(self, app: str, slowest: int, id: str) -> list[Any]:
        return self._of(app).traces(slowest=slowest, id=id)

    def exposition(self, app: str, openmetrics: bool) -> bytes:
        return exposition_of(self._of(app), app, time.time(), openmetrics=openmetrics)

    def forget(self, app: str) -> None:
        self.apps.pop(app, None)
        self.scalings.pop(app, None)

    def _of(self, app: str) -> Gatherer:
        return self.apps.setdefault(app, Gatherer())


def _gatherer(name: str) -> Any:
    import ray

    if name not in _gatherers:
        _gatherers[name] = ray.get_actor(name, namespace=_NAMESPACE)
    return _gatherers[name]


def push(gatherer: str, app: str, delta: Mapping[str, Any]) -> list[str]:
    """Push metrics and wait until they are received; blocks.

    Returns:
        the steps to sample; see `App.peek`.
    """
    import ray

    peeked: list[str] = ray.get(_gatherer(gatherer).push.remote(app, delta), timeout=10)
    return peeked


def scaled(
    gatherer: str,
    app: str,
    *,
    decisions: Sequence[Mapping[str, Any]] = (),
    counts: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Push scaling decisions and replica counts of an app."""
    import ray

    ray.get(_gatherer(gatherer).scaled.remote(app, list(decisions), list(counts)), timeout=10)


class RayTelemetry:
    """The session's client of the actor, which it starts and keeps alive.

    Args:
        name: name by which replicas look up the actor.
    """

    def __init__(self, name: str) -> None:
        import ray

        self.name = name
        kind: Any = ray.remote(_Gatherers)
        options = kind.options(name=name, namespace=_NAMESPACE, num_cpus=0, max_restarts=-1)
        self._actor = options.remote()

    async def _call(self, method: str, *arguments: Any) -> Any:
        async with asyncio.timeout(CALL_TIMEOUT_S):
            return await getattr(self._actor, method).remote(*arguments)

    async def since(self, app: str, number: int, scaling: int) -> tuple[int, list[Any], Any]:
        """Return the last number, the deltas after `number`, and decisions after `scaling`."""
        last, deltas, decided = await self._call("since", app, number, scaling)
        return last, deltas, decided

    async def traces(self, app: str, slowest: int, id: str) -> list[Any]:
        """Return packed traces: the slowest, or those with an id."""
        return list(await self._call("traces", app, slowest, id))

    async def peek(self, app: str, step: str, until: float) -> list[dict[str, Any]]:
        """Return samples of a step; replicas keep sampling it until then."""
        return list(await self._call("peek", app, step, until))

    async def comparisons(self, app: str) -> dict[str, Any]:
        """Return the comparisons with the last shadow version."""
        return dict(await self._call("comparisons", app))

    async def record_scaling(
        self, app: str, decisions: Sequence[Mapping[str, Any]], counts: Sequence[Mapping[str, Any]]
    ) -> None:
        """Append to the scaling log of an app."""
        await self._call("scaled", app, list(decisions), list(counts))

    async def forget(self, app: str) -> None:
        """Delete the metrics of an app."""
        await self._call("forget", app)


async def exposition(gatherer: str, app: str, openmetrics: bool) -> bytes:
    """Return the metrics of an app; see `mlkit.metrics.prometheus`."""
    actor = await asyncio.to_thread(_gatherer, gatherer)  # the first lookup blocks
    text: bytes = await actor.exposition.remote(app, openmetrics)
    return text
