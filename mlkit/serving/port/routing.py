"""Serve's router of calls to a stage whose replicas keep pools of models."""

from __future__ import annotations

from typing import Any

from ray.serve.config import RequestRouterConfig
from ray.serve.request_router import (
    FIFOMixin,
    MultiplexMixin,
    PendingRequest,
    RequestRouter,
    RunningReplica,
)

from mlkit.serving.replica.affinity import by_preference

__all__ = ["ModelRouter", "StageRouting"]


class StageRouting(RequestRouterConfig):
    """The configuration of a stage's router.

    Serve refuses a router for the root of an application while HAProxy is on, which would go past
    it. A stage is such a root, but no HTTP request reaches it.
    """

    def is_default_request_router(self) -> bool:
        """Return what Serve accepts of a root."""
        return True


class ModelRouter(FIFOMixin, MultiplexMixin, RequestRouter):
    """Calls with a ``multiplexed_model_id`` prefer the replicas in the order of `by_preference`.

    All others go to the replica with the fewest requests in flight.
    """

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Return the replicas to try: one list after the other, each by requests in flight."""
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True  # once all of them are full
        key = pending_request.metadata.multiplexed_model_id
        if not key:
            return [candidate_replicas]
        replicas: dict[str, Any] = {r.replica_id.unique_id: r for r in candidate_replicas}
        cache = self.replica_queue_len_cache
        in_flight = {name: cache.get(r.replica_id) or 0 for name, r in replicas.items()}
        return [[replicas[name]] for name in by_preference(key, in_flight)]
