"""Serve's router with replicas that are none: which it tries first; without a running Ray."""

import asyncio
import warnings
from types import SimpleNamespace

from mlkit.serving.replica.affinity import by_preference, model_key

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of pydantic, about Serve's own classes
    from mlkit.serving.port.routing import ModelRouter

REPLICAS = [
    SimpleNamespace(replica_id=SimpleNamespace(unique_id=name, name=name)) for name in "abc"
]


def tried(model: str | None, **in_flight: int) -> list[list[str]]:
    """The replicas that a call tries, the first ones first."""
    router = ModelRouter.__new__(ModelRouter)
    router._replica_queue_len_cache = SimpleNamespace(get=lambda id: in_flight.get(id.name))
    request = SimpleNamespace(
        metadata=SimpleNamespace(multiplexed_model_id=model),
        routing_context=SimpleNamespace(should_backoff=False),
    )
    ranks = asyncio.run(router.choose_replicas(REPLICAS, None if model is None else request))
    assert request.routing_context.should_backoff or model is None
    return [[replica.replica_id.unique_id for replica in rank] for rank in ranks]


def test_a_call_with_a_model_tries_one_replica_after_the_other() -> None:
    for id in map(str, range(20)):
        order = by_preference(model_key(id), dict.fromkeys("abc", 0))
        assert tried(model_key(id)) == [[name] for name in order]
        assert tried(model_key(id), **{order[0]: 100})[-1] == [order[0]]


def test_a_call_without_a_model_goes_to_any() -> None:
    assert tried("") == tried(None) == [["a", "b", "c"]]
