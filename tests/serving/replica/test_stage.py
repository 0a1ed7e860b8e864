"""A replica of a stage, and what both kinds of replicas do with their executors; without Ray."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from mlkit import InputError, pipeline, step
from mlkit.errors import MlkitError
from mlkit.execute import Executor, compile_graph
from mlkit.metrics import Recorder
from mlkit.serving import Limits
from mlkit.serving.http.lifecycle import Served
from mlkit.serving.http.lifespan import Lifespan
from mlkit.serving.replica import retire
from mlkit.serving.replica.front import Replica, _Version
from mlkit.serving.replica.remote import Answer, pack, unpack
from mlkit.serving.replica.stage import StageReplica


@step
def double(x: int) -> int:
    if x < 0:
        raise InputError("nothing below zero")
    return 2 * x


@pipeline
def twice(x: int) -> int:
    return double(x)


class Stage(StageReplica):
    def __del__(self) -> None:
        """Serve awaits the one of a replica that it ends."""


@asynccontextmanager
async def stage(**pipelines) -> AsyncIterator[tuple]:
    """A replica of a stage, and a function that tells it which versions there are to be."""
    one = Stage.__new__(Stage)
    origin = SimpleNamespace(enter=lambda: None)
    await one.__init__(
        "app", origin, "/nowhere", 1, "models", "", runtime=SimpleNamespace(push=print, fetch=print)
    )
    one._observer.recorder = Recorder("models", front=False)

    async def load(bundle, sizes):
        if bundle not in pipelines:
            raise OSError(f"no such bundle: {bundle}")
        return SimpleNamespace(programs={"twice": compile_graph(pipelines[bundle].graph)})

    one._loader = SimpleNamespace(load=load, keep=lambda *loaded: None)

    async def want(*versions, request_timeout_s=60.0) -> None:
        await one.reconfigure(
            {
                "versions": {version: [version, {}] for version in versions},
                "request_timeout_s": request_timeout_s,
            }
        )
        await asyncio.gather(*one._loading.values())

    yield one, want
    for version in one._versions.values():
        for executor in version.executors.values():
            executor.close(wait=False)


async def ask(one: StageReplica, version: str, x: int, segment: str = "twice") -> Answer:
    answer: Answer = unpack(await one(version, segment, pack({"x": x})))
    return answer


def counted(one: StageReplica) -> dict[str, int]:
    return one._observer.recorder.take()["status"]


@pytest.fixture
def held():
    """A pipeline whose step waits for ``go``."""
    go = threading.Event()

    @step
    def hold(x: int) -> int:
        assert go.wait(20)
        return x

    @pipeline
    def holding(x: int) -> int:
        return hold(x)

    holding.go = go
    yield holding
    go.set()


def test_calls_are_answered_and_counted_by_how_they_ended() -> None:
    async def main() -> None:
        async with stage(a=twice) as (one, want):
            await want("a")
            assert (await ask(one, "a", 4)).values == 8
            refused = await ask(one, "a", -1)
            assert (refused.fault.status, refused.fault.step) == (422, "double")
            assert counted(one) == {"200": 1, "422": 1}

    asyncio.run(main())


@pytest.mark.parametrize(
    ("version", "segment", "words"),
    [
        ("b", "twice", "no such version"),
        ("a", "thrice", "no such segment"),
        ("broken", "twice", "no such bundle: broken"),
    ],
)
def test_what_it_does_not_have_is_told_with_what_it_has(version, segment, words) -> None:
    async def main() -> None:
        async with stage(a=twice) as (one, want):
            await want("a", "broken")
            with pytest.raises(MlkitError, match=words) as caught:
                await ask(one, version, 1, segment)
            assert caught.value.where == "stage 'models'"
            assert caught.value.expected == "a: twice"
            assert caught.value.got == f"{version}: {segment}"

    asyncio.run(main())


def test_a_version_is_retired_when_its_longest_request_must_be_over(held, monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(retire, "perf_counter", lambda: now[0])

    async def main() -> None:
        async with stage(a=held, b=twice) as (one, want):
            await want("a", "b", request_timeout_s=60.0)
            asked = asyncio.create_task(ask(one, "a", 1))
            await asyncio.sleep(0.05)
            await want("b", request_timeout_s=10.0)  # the new limit is not for what was begun
            await asyncio.sleep(0)  # it begins to wait
            now[0] = 64.0
            await asyncio.sleep(0.12)
            assert not asked.done()
            now[0] = 66.0
            answer = await asyncio.wait_for(asked, 5)
            assert answer.fault.status == 499
            await asyncio.wait_for(asyncio.gather(*one._tasks), 5)  # though its step goes on

    asyncio.run(main())


# ---- workers that do not come back ---------------------------------------------------------------


def test_a_front_whose_workers_do_not_come_back_is_unhealthy(held, monkeypatch) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        executor = Executor(compile_graph(held.graph), workers=1, loop=loop)
        served = Served(executor, Limits(request_timeout_s=0.05))
        old = _Version("old", None, (served,), Lifespan(None, None), SimpleNamespace())
        replica = SimpleNamespace(_version=old)
        await Replica.check_health(replica)
        with pytest.raises(MlkitError, match="exceeded its deadline"):
            await served(1)
        await Replica.check_health(replica)  # it may come back yet
        monkeypatch.setattr(retire, "STUCK_S", -0.05)
        with pytest.raises(MlkitError, match="hold all of its workers"):
            await Replica.check_health(replica)
        held.go.set()
        while executor.abandoned():
            await asyncio.sleep(0.002)
        await Replica.check_health(replica)
        executor.close()

    asyncio.run(main())


def test_a_stage_whose_workers_do_not_come_back_is_unhealthy(held, monkeypatch) -> None:
    async def main() -> None:
        async with stage(a=held) as (one, want):
            await want("a", request_timeout_s=0.05)
            with pytest.raises(TimeoutError):  # as the front gives up what is late
                await asyncio.wait_for(ask(one, "a", 1), 0.05)
            await one.check_health()
            monkeypatch.setattr(retire, "STUCK_S", -0.05)
            with pytest.raises(MlkitError, match="hold all of its workers"):
                await one.check_health()

    asyncio.run(main())


def test_a_replica_with_a_worker_left_is_healthy(held, monkeypatch) -> None:
    monkeypatch.setattr(retire, "STUCK_S", -60.0)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        executor = Executor(compile_graph(held.graph), workers=2, loop=loop)
        first, second = (asyncio.create_task(executor.run({"x": x})) for x in (1, 2))
        await asyncio.sleep(0.05)
        first.cancel()
        await asyncio.wait({first})
        retire.check_workers([executor], 60.0)
        second.cancel()
        await asyncio.wait({second})
        with pytest.raises(MlkitError, match="hold all of its workers"):
            retire.check_workers([executor], 60.0)
        executor.close(wait=False)

    asyncio.run(main())
