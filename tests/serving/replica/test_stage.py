"""A replica of a stage, and what both kinds of replicas do with their executors; without Ray."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from time import perf_counter
from types import SimpleNamespace

import pytest

from mlkit import InputError, pipeline, step
from mlkit.errors import MlkitError, Overloaded, StepError
from mlkit.execute import Executor, compile_graph
from mlkit.execute.items import Items
from mlkit.execute.priority import Priority
from mlkit.metrics import Recorder, traceparent
from mlkit.metrics.context import RequestContext
from mlkit.plan import plan
from mlkit.serving import Limits
from mlkit.serving.bundle import digest_of
from mlkit.serving.http.lifecycle import Served
from mlkit.serving.http.lifespan import Lifespan
from mlkit.serving.http.terms import TERMS, Terms
from mlkit.serving.replica import retire
from mlkit.serving.replica.front import Replica, _Version
from mlkit.serving.replica.remote import Answer, Route, Router, pack, unpack
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

    async def load(bundle, sizes, replaced):
        if bundle not in pipelines:
            raise OSError(f"no such bundle: {bundle}")
        return SimpleNamespace(programs={"twice": compile_graph(pipelines[bundle].graph)})

    async def free(version):
        one.freed.append(version)

    one.freed = []
    one._loader = SimpleNamespace(load=load, free=free)

    async def want(*versions, request_timeout_s=60.0, max_busy_workers=None) -> None:
        await one.reconfigure(
            {
                "versions": {version: [version, {}, {}] for version in versions},
                "request_timeout_s": request_timeout_s,
                "log_levels": {},
                "max_busy_workers": max_busy_workers,
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


def test_a_stage_knows_the_request_that_it_runs_for() -> None:
    @step
    def told(x: int) -> str:
        return traceparent()

    @pipeline
    def telling(x: int) -> str:
        return told(x)

    request = RequestContext("r1", "a" * 32, "b" * 16, "", True)

    async def main() -> None:
        async with stage(a=telling) as (one, want):
            await want("a")
            packed = await one("a", "twice", pack({"x": 1}), request)
            assert unpack(packed).values == request.traceparent
            assert (await ask(one, "a", 1)).values == ""

    asyncio.run(main())


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


def test_scaling_limits_the_workers_of_running_and_of_later_versions() -> None:
    async def main() -> None:
        async with stage(a=twice, b=twice) as (one, want):
            one._workers = 4
            await want("a")
            (running,) = one._executors()
            assert running.max_busy == 4
            await want("a", max_busy_workers=2)
            await want("a", "b", max_busy_workers=2)
            assert running in one._executors()
            assert [executor.max_busy for executor in one._executors()] == [2, 2]
            await want("a", max_busy_workers=9)  # more than it has threads
            assert running.max_busy == 4

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


def test_a_version_is_retired_though_a_generator_whose_client_has_left_goes_on() -> None:
    hangs, go = threading.Event(), threading.Event()

    @step
    def hang(x: int) -> Iterator[int]:
        yield x
        hangs.set()
        assert go.wait(20)

    @pipeline
    def hanging(x: int) -> Iterator[int]:
        return hang(x)

    async def main() -> None:
        executor = Executor(compile_graph(hanging.graph), workers=1)
        items = Items(executor, {"x": 1})
        try:
            assert await asyncio.to_thread(hangs.wait, 20)
            await items.aclose()
            await asyncio.wait_for(retire.close([executor]), 2)
            assert executor.streaming
        finally:
            go.set()

    asyncio.run(main())


# ---- workers that do not come back ---------------------------------------------------------------


def test_a_front_whose_workers_do_not_come_back_is_unhealthy(held, monkeypatch) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        executor = Executor(compile_graph(held.graph), workers=1, loop=loop)
        served = Served(executor, Limits(request_timeout_s=0.05))
        old = _Version("old", None, (served,), Lifespan(None, None), SimpleNamespace(), {})
        replica = SimpleNamespace(_version=old, _trial=None, _versions=lambda: [old])
        await Replica.check_health(replica)
        with pytest.raises(MlkitError, match="exceeded its deadline"):
            await served.call((1,), {}, {})
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


# ---- deadlines, priorities and retries across stages


def test_expired_calls_do_not_reach_the_step_of_a_stage(held) -> None:
    async def main() -> None:
        async with stage(a=held) as (one, want):
            await want("a")
            first = asyncio.create_task(ask(one, "a", 1))
            executor = one._versions["a"].executors["twice"]
            while not executor.in_flight or executor.queued()["hold"]:
                await asyncio.sleep(0.001)
            late = [one("a", "twice", pack({"x": x}), 0.01, 0) for x in range(2, 22)]
            answers = [unpack(packed) for packed in await asyncio.gather(*late)]
            assert {answer.fault.status for answer in answers} == {504}
            held.go.set()
            assert (await first).values == 1
            assert executor.batch_sizes() == {"hold": {1: 1}}

    asyncio.run(main())


class Response:
    """What Serve's handle returns for a call: an awaitable that can be cancelled."""

    def __init__(self, result: bytes | Exception) -> None:
        self.result = result

    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def segment_of(pipe):
    """The cut of a pipeline whose one step is in a stage, and its remote step."""
    parts = plan(pipe).cut
    (node,) = parts.front.nodes
    return parts.front, node.step


@step(stage="models")
def book(x: int) -> int:
    return x


@pipeline
def lookup(x: int) -> int:
    return book(x)


@pipeline(idempotent=False)
def booking(x: int) -> int:
    return book(x)


@pipeline
def outer(x: int) -> int:
    return booking(x)


def test_a_pipeline_that_calls_one_that_is_not_idempotent_is_not_either() -> None:
    pipelines = {p.name: p.graph.idempotent for p in (lookup, booking, outer)}
    assert pipelines == {"lookup": True, "booking": False, "outer": False}
    assert not booking.replace(book=book).graph.idempotent
    assert not plan(booking).cut.front.idempotent
    assert digest_of(booking.graph) != digest_of(replace(booking.graph, idempotent=True))


async def routed(pipe, results, terms: Terms | None = None):
    """Call a stage whose replicas respond with ``results``; return the calls, waits and outcome."""
    front, remote = segment_of(pipe)
    calls, waits = [], []

    def send(*arguments) -> Response:
        calls.append(arguments)
        return Response(results.pop(0))

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    handle = SimpleNamespace(remote=send)
    routes = {remote.stage: Route("x", "y", "v")}
    router = Router(pipe.name, routes, lambda *_: handle, sleep)
    router.connect({pipe.name: front})
    TERMS.set(terms)
    try:
        outcome = await router.call(remote, {"in_0": 1})
    except MlkitError as error:
        outcome = type(error)
    return calls, waits, outcome


DONE = pack(Answer(values=(7,)))


def raised(*names: str) -> Exception:
    """Stands for an error of Ray or Serve, by the names of its classes."""
    kind: type[Exception] = Exception
    for name in names:
        kind = type(name, (kind,), {})
    return kind("it is gone")


GONE = raised("RayError", "RayActorError", "ActorDiedError")
FULL = raised("RayServeException", "BackPressureError")
SLOW = raised("RayError", "GetTimeoutError")


@pytest.mark.parametrize(
    ("pipe", "results", "sent", "outcome"),
    [
        (lookup, [DONE], 1, (7,)),
        (lookup, [GONE, DONE], 2, (7,)),
        (lookup, [GONE, GONE, DONE], 3, (7,)),
        (lookup, [GONE, GONE, GONE, DONE], 3, Overloaded),
        (booking, [GONE, DONE], 1, Overloaded),
        (lookup, [FULL, DONE], 1, Overloaded),
        (lookup, [SLOW, DONE], 1, Overloaded),
        (lookup, [KeyError("a fault"), DONE], 1, MlkitError),
    ],
)
def test_a_call_whose_replica_died_goes_to_another_one(pipe, results, sent, outcome) -> None:
    calls, waits, got = asyncio.run(routed(pipe, list(results)))
    assert (len(calls), got) == (sent, outcome)
    assert len(waits) == sent - 1


def test_no_call_is_sent_again_past_the_deadline() -> None:
    terms = Terms(perf_counter() - 60.0, 60.001)
    calls, _, got = asyncio.run(routed(lookup, [GONE, DONE], terms))
    assert (len(calls), got) == (1, Overloaded)


def test_a_call_takes_its_remaining_time_and_its_priority_along() -> None:
    terms = Terms(perf_counter() - 50.0, 60.0, Priority.BULK)
    ((*_, left_s, priority),), _, _ = asyncio.run(routed(lookup, [DONE], terms))
    assert 0 < left_s <= 10.0
    assert priority == Priority.BULK
    (call,), _, _ = asyncio.run(routed(lookup, [DONE]))
    assert call == ("v", "book", pack({"in_0": 1}), None)


# ---- streams


async def collect(items: Items, into: list[int]) -> None:
    async for item in items:
        into.append(item)  # noqa: PERF401 - keeps those before a failure


class Messages:
    """What Serve's handle returns for a stream: an async iterator that can be cancelled."""

    def __init__(self, made: AsyncIterator[bytes]) -> None:
        self.made = made
        self.cancelled = False

    async def __anext__(self) -> bytes:
        return await anext(self.made)

    def cancel(self) -> None:
        self.cancelled = True
        asyncio.get_running_loop().create_task(self.made.aclose())


class Handle:
    """Serve's handle of one replica."""

    def __init__(self, replica: StageReplica) -> None:
        self.replica = replica

    def options(self, *, method_name: str, stream: bool) -> "Handle":
        assert (method_name, stream) == ("stream", True)
        return self

    def remote(self, *arguments) -> Messages:
        self.messages = Messages(self.replica.stream(*arguments))
        return self.messages


@pytest.fixture
def counting():
    """A pipeline that streams in a stage after a step there, cut; and when its generator closed."""
    closed = threading.Event()

    @step(stage="models")
    def prepare(n: int) -> int:
        return n + 1

    @step(stage="models")
    def count(n: int, fail_at: int) -> Iterator[int]:
        try:
            for i in range(n):
                if i == fail_at:
                    raise InputError(f"no item {i}")
                yield i
        finally:
            closed.set()

    @pipeline
    def counted(n: int, fail_at: int = -1) -> Iterator[int]:
        return count(prepare(n), fail_at)

    parts = plan(counted).cut
    return SimpleNamespace(front=parts.front, segments=parts.segments, closed=closed)


@asynccontextmanager
async def front_and_stage(parts) -> AsyncIterator[tuple]:
    """The front's executor, with its remote step connected to a stage, and the handle of that."""
    (segment,) = parts.segments
    async with stage(a=SimpleNamespace(graph=segment.graph)) as (one, want):
        await want("a")
        one._versions["a"].executors[segment.name] = one._versions["a"].executors["twice"]
        handle = Handle(one)
        router = Router("counted", {"models": Route("x", "y", "a")}, lambda *_: handle)
        router.connect({"counted": parts.front})
        loop = asyncio.get_running_loop()
        with Executor(compile_graph(parts.front), workers=1, loop=loop) as executor:
            yield executor, handle, one


def test_a_stream_comes_through_from_its_stage(counting) -> None:
    async def main() -> None:
        async with front_and_stage(counting) as (executor, handle, one):
            items = Items(executor, {"n": 40, "fail_at": -1})
            assert [item async for item in items] == list(range(41))
            assert not handle.messages.cancelled
            assert counted(one) == {"200": 1}
            execution = await executor.run({"n": 2, "fail_at": -1})
            assert execution.output == [0, 1, 2]

    asyncio.run(main())


def test_a_stream_fails_as_if_it_were_here(counting) -> None:
    async def main() -> None:
        async with front_and_stage(counting) as (executor, _, one):
            seen: list[int] = []
            failing = collect(Items(executor, {"n": 9, "fail_at": 2}), into=seen)
            with pytest.raises(StepError, match="no item 2") as caught:
                await failing
            assert (seen, caught.value.step, caught.value.status) == ([0, 1], "count", 422)
            assert counted(one) == {"422": 1}

    asyncio.run(main())


def test_closing_a_stream_closes_its_generator_in_the_stage(counting) -> None:
    async def main() -> None:
        async with front_and_stage(counting) as (executor, handle, _):
            items = Items(executor, {"n": 10**9, "fail_at": -1})
            assert await anext(items) == 0
            await items.aclose()
            async with asyncio.timeout(5):
                while not counting.closed.is_set():
                    await asyncio.sleep(0.002)
            assert handle.messages.cancelled

    asyncio.run(main())


def test_a_stage_that_breaks_off_is_an_error(counting) -> None:
    async def main() -> None:
        async with front_and_stage(counting) as (executor, _, one):

            async def broken(*_) -> AsyncIterator[bytes]:
                yield pack([1])

            one.stream = broken
            items = Items(executor, {"n": 3, "fail_at": -1})
            assert await anext(items) == 1
            with pytest.raises(MlkitError, match="models"):
                await anext(items)

    asyncio.run(main())
