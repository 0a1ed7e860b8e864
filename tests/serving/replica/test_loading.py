"""Resources over the versions of a replica: what is reused, and when it is closed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from mlkit import pipeline, resource, step
from mlkit.plan import plan
from mlkit.serving.bundle import pack
from mlkit.serving.replica.loading import Loader

EVENTS: list[str] = []


def pipe(name: str, offset: int = 0, *, fails: bool = False) -> bytes:
    """The bundle of a pipeline whose step has a resource of this name."""

    async def load() -> AsyncIterator[Any]:
        from tests.serving.replica.test_loading import EVENTS

        EVENTS.append(f"open {name}")
        yield asyncio.get_running_loop()
        EVENTS.append(f"close {name}")

    def load_other() -> int:
        if fails:
            raise ValueError("no network")
        return 1

    @step
    async def use(x: int, *, loop: Any = resource(load), other: int = resource(load_other)) -> int:
        return x + offset

    @pipeline
    def served(x: int) -> int:
        return use(x)

    packed, *_ = pack(plan(served))
    return packed.data


@pytest.fixture
def run() -> Callable[..., list[str]]:
    def run(scenario: Callable[[Loader], Any], **bundles: bytes) -> list[str]:
        EVENTS.clear()
        asyncio.run(scenario(Loader(bundles.__getitem__)))
        return EVENTS

    return run


def test_what_the_next_version_uses_as_well_stays_open(run) -> None:
    async def change(loader: Loader) -> None:
        old = await loader.load("old")
        new = await loader.load("new")
        await loader.free(old)
        assert EVENTS == ["open a"]
        await loader.free(new)

    assert run(change, old=pipe("a"), new=pipe("a", 1)) == ["open a", "close a"]


def test_what_no_version_uses_is_closed_when_the_last_has_ended(run) -> None:
    async def change(loader: Loader) -> None:
        first, second = await loader.load("v1"), await loader.load("v2")
        await loader.load("v3")
        await loader.free(second)
        assert EVENTS == ["open a", "open b"]
        await loader.free(first)

    bundles = {"v1": pipe("a"), "v2": pipe("a", 1), "v3": pipe("b")}
    assert run(change, **bundles) == ["open a", "open b", "close a"]


def test_a_replica_that_stops_closes_everything(run) -> None:
    async def stop(loader: Loader) -> None:
        await loader.load("v1")
        await loader.load("v2")
        await loader.close()

    events = run(stop, v1=pipe("a"), v2=pipe("b"))
    assert sorted(events) == ["close a", "close b", "open a", "open b"]


def test_a_version_that_cannot_be_loaded_leaves_nothing_open(run) -> None:
    async def fail(loader: Loader) -> None:
        with pytest.raises(ValueError, match="no network"):
            await loader.load("bad")

    assert run(fail, bad=pipe("a", fails=True)) == ["open a", "close a"]


def test_it_is_opened_on_the_loop_of_the_replica(run) -> None:
    async def load(loader: Loader) -> None:
        loaded = await loader.load("v1")
        [task] = loaded.programs["served"].tasks
        assert task.resources["loop"] is asyncio.get_running_loop()
        await loader.close()

    run(load, v1=pipe("a"))
