"""Which replica Serve's router sends a call to: with replicas that are none, and no Ray running."""

import asyncio
import itertools
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest

from mlkit.serving.control.cluster import ApplicationTarget
from mlkit.serving.replica.affinity import by_preference, model_key

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of pydantic, about Serve's own classes
    from ray.serve._private.common import DeploymentHandleSource, RequestMetadata
    from ray.serve._private.request_router.common import PendingRequest
    from ray.serve._private.test_utils import FAKE_REPLICA_DEPLOYMENT_ID, FakeRunningReplica

    from mlkit.serving.port.cluster import _application
    from mlkit.serving.port.routing import ModelRouter

MOST = 100
"""Requests that a replica accepts at a time."""

Choose = Callable[[str], Awaitable[str]]


@contextmanager
def routing(**in_flight: int) -> Iterator[Choose]:
    """A function that sends a call with the key of a model, and returns the replica it goes to."""
    numbers = itertools.count()
    router = ModelRouter(
        deployment_id=FAKE_REPLICA_DEPLOYMENT_ID,
        handle_source=DeploymentHandleSource.REPLICA,
        self_node_id="node",
        self_actor_id="actor",
        self_actor_handle=None,
        use_replica_queue_len_cache=True,
        get_curr_time_s=time.time,
    )
    replicas = [FakeRunningReplica(name, max_ongoing_requests=MOST) for name in in_flight]
    router.update_replicas(replicas)
    for replica, count in zip(replicas, in_flight.values(), strict=True):
        replica.set_queue_len_response(count)
        router.on_new_queue_len_info(replica.replica_id, count)

    async def choose(key: str) -> str:
        id = f"request-{next(numbers)}"
        metadata = RequestMetadata(id, id, multiplexed_model_id=key)
        request = PendingRequest(args=[], kwargs={}, metadata=metadata)
        chosen = await router._choose_replica_for_request(request)
        router.on_send_request(chosen.replica_id)
        return str(chosen.replica_id.unique_id)

    yield choose


def chosen(keys: list[str], **in_flight: int) -> list[str]:
    """The replicas that calls go to, one after the other."""

    async def main() -> list[str]:
        with routing(**in_flight) as choose:
            return [await choose(key) for key in keys]

    return asyncio.run(main())


def test_calls_with_a_model_go_to_the_replica_that_prefers_it() -> None:
    keys = [model_key(str(id)) for id in range(5)]
    first = [by_preference(key, dict.fromkeys("abc", 0))[0] for key in keys]
    assert chosen(2 * keys, a=0, b=0, c=0) == 2 * first
    assert len(set(first)) == 3


def test_calls_at_the_same_time_meet_their_models_as_well() -> None:
    keys = [model_key(str(id)) for id in range(5)] * 4

    async def main() -> list[str]:
        with routing(a=0, b=0, c=0) as choose:
            return await asyncio.gather(*map(choose, keys))

    assert set(zip(keys, asyncio.run(main()), strict=True)) == {
        (key, by_preference(key, dict.fromkeys("abc", 0))[0]) for key in keys
    }


def test_a_replica_that_is_full_or_busier_than_others_is_passed_over() -> None:
    key = model_key("shoes:v1")
    first, second, third = by_preference(key, dict.fromkeys("abc", 0))
    assert chosen([key], **{first: 60, second: 0, third: 0}) == [second]
    assert chosen([key], **{first: MOST, second: MOST, third: 99}) == [third]


def test_a_call_without_a_model_goes_where_the_fewest_are_in_flight() -> None:
    assert chosen(["", ""], a=9, b=2, c=0) == ["c", "c"]


@pytest.mark.parametrize("has_pools", [False, True])
def test_only_a_stage_with_pools_has_this_router(has_pools: bool) -> None:
    target = ApplicationTarget(
        name="shop.models.1",
        deployment="models",
        kind="stage",
        arguments=(),
        version="v1",
        user_config={},
        has_pools=has_pools,
    )
    config = _application(target)._bound_deployment._deployment_config.request_router_config
    assert (config.get_request_router_class() is ModelRouter) == has_pools
