"""Steps that stream: items one by one, in bounded number ahead, and generators that are closed."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator

import numpy as np
import pytest
from pydantic import BaseModel

from mlkit import InputError, pipeline, step
from mlkit.errors import Cancelled, DeadlineExceeded, DefinitionError, StepError
from mlkit.execute import Executor, compile_graph
from mlkit.execute.buffer import AHEAD, Buffer
from mlkit.execute.items import Items


class Counter(BaseModel):
    numbers: list[float] = [0.0]


class Watched:
    """A pipeline that counts, with a record of what its generator did."""

    def __init__(self, kind: str) -> None:
        self.made: list[int] = []
        self.closed = threading.Event()
        self.go = threading.Event()
        self.go.set()

        @step
        def words(n: int, fail_at: int = -1) -> Iterator[str]:
            try:
                for i in range(n):
                    assert self.go.wait(10)
                    if i == fail_at:
                        raise InputError(f"no item {i}")
                    self.made.append(i)
                    yield f"w{i}"
            finally:
                self.closed.set()

        @step
        async def words_async(n: int, fail_at: int = -1) -> AsyncIterator[str]:
            try:
                for i in range(n):
                    await asyncio.sleep(0)
                    while not self.go.is_set():
                        await asyncio.sleep(0.002)
                    if i == fail_at:
                        raise InputError(f"no item {i}")
                    self.made.append(i)
                    yield f"w{i}"
            finally:
                self.closed.set()

        @step
        def lazily(n: int, fail_at: int = -1) -> Iterable[str]:
            return words.fn(n, fail_at)

        used = {"sync": words, "async": words_async, "returned": lazily}[kind]

        @pipeline
        def say(n: int, fail_at: int = -1) -> Iterator[str]:
            return used(n, fail_at)

        self.pipeline = say


@pytest.fixture(params=["sync", "async", "returned"])
def watched(request) -> Watched:
    return Watched(request.param)


def eventually(holds) -> None:
    until = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.002)


def test_a_call_returns_the_list_and_a_stream_its_items(watched) -> None:
    say = watched.pipeline
    assert say(3) == ["w0", "w1", "w2"] == list(say.stream(3))
    assert say(0) == [] == list(say.stream(0))
    assert say.map([1, 2], progress=False) == [["w0"], ["w0", "w1"]]


def test_a_run_has_the_list_and_the_time_of_the_first_item(watched) -> None:
    node = watched.pipeline.run(3).nodes[0]
    assert node.value == ["w0", "w1", "w2"]
    assert node.start_s <= node.first_item_s <= node.finish_s


def test_items_come_before_the_last_one_is_made(watched) -> None:
    items = watched.pipeline.stream(AHEAD + 5)
    assert next(items) == "w0"
    assert len(watched.made) < AHEAD + 5
    assert [*items][-1] == f"w{AHEAD + 4}"


def test_the_generator_runs_a_bounded_number_of_items_ahead(watched) -> None:
    items = watched.pipeline.stream(100 * AHEAD)
    next(items)
    eventually(lambda: len(watched.made) >= AHEAD)
    time.sleep(0.02)
    assert len(watched.made) <= 2 * AHEAD  # those taken together with the first, and as many again
    items.close()


def test_closing_the_iterator_closes_the_generator(watched) -> None:
    items = watched.pipeline.stream(10**9)
    next(items)
    items.close()
    assert watched.closed.wait(5)
    made = len(watched.made)
    time.sleep(0.01)
    assert len(watched.made) == made


def test_what_was_made_before_a_failure_still_comes(watched) -> None:
    items = watched.pipeline.stream(5, fail_at=2)
    assert [next(items), next(items)] == ["w0", "w1"]
    with pytest.raises(StepError, match="no item 2") as caught:
        next(items)
    assert caught.value.run.nodes[0].value == ["w0", "w1"]
    with pytest.raises(StepError, match="no item 2"):
        watched.pipeline(5, fail_at=2)


def test_other_requests_go_on_beside_streams(watched) -> None:
    @step
    def double(x: int) -> int:
        return 2 * x

    @pipeline
    def both(n: int) -> Iterator[str]:
        return watched.pipeline(double(n))

    with Executor(compile_graph(both.graph), workers=1) as executor:
        first = executor.submit({"n": 10**6}, print, buffer=Buffer(lambda: None))
        eventually(lambda: len(watched.made) >= AHEAD)  # it waits for its consumer
        done = threading.Event()
        executor.submit({"n": 1}, lambda _: done.set())
        assert done.wait(5)
        first.cancel()
        assert watched.closed.wait(5)


def streaming(executor: Executor, arguments, **limits):
    async def collect() -> list[str]:
        items = Items(executor, arguments, **limits)
        try:
            return [item async for item in items]
        finally:
            await items.aclose()

    return collect


def test_a_deadline_is_for_the_first_item_and_renewed_with_each(watched) -> None:
    with Executor(compile_graph(watched.pipeline.graph), workers=1) as executor:

        async def slowly() -> int:
            items = Items(
                executor, {"n": 6, "fail_at": -1}, deadline=time.perf_counter() + 0.4, idle_s=0.4
            )
            seen = 0
            async for _ in items:
                seen += 1
                watched.go.clear()
                asyncio.get_running_loop().call_later(0.1, watched.go.set)
            await items.aclose()
            return seen

        assert asyncio.run(slowly()) == 6  # in more than 0.4 s

        watched.go.clear()
        late = streaming(
            executor, {"n": 1, "fail_at": -1}, deadline=time.perf_counter() + 0.05, idle_s=60
        )
        with pytest.raises(DeadlineExceeded):
            asyncio.run(late())
        watched.go.set()


def test_a_consumer_that_takes_nothing_is_late_too(watched) -> None:
    with Executor(compile_graph(watched.pipeline.graph), workers=1) as executor:

        async def stalled() -> None:
            items = Items(executor, {"n": 10**6, "fail_at": -1}, idle_s=0.05)
            await items.batch()
            await asyncio.sleep(0.02)
            items.execution.deadline = time.perf_counter()  # as if it had taken long
            items._watch()
            assert watched.closed.wait(5)
            await items.batch()  # those before the deadline
            with pytest.raises(DeadlineExceeded):
                await items.batch()

        asyncio.run(stalled())


def test_cancelling_the_consumer_closes_the_generator(watched) -> None:
    with Executor(compile_graph(watched.pipeline.graph), workers=1) as executor:

        async def main() -> None:
            task = asyncio.create_task(streaming(executor, {"n": 10**9, "fail_at": -1})())
            while len(watched.made) < 3:
                await asyncio.sleep(0.002)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(main())
        assert watched.closed.wait(5)
        assert executor.in_flight == 0


def test_closing_the_executor_ends_its_streams(watched) -> None:
    executor = Executor(compile_graph(watched.pipeline.graph), workers=1)
    ended = []
    executor.submit({"n": 10**9, "fail_at": -1}, ended.append, buffer=Buffer(lambda: None))
    eventually(lambda: watched.made)
    executor.close()
    assert isinstance(ended[0].error, Cancelled)
    assert watched.closed.wait(5)


def test_a_generator_stays_in_one_thread_and_context() -> None:
    seen = set()

    @step
    def where(n: int) -> Iterator[int]:
        for i in range(n):
            seen.add(threading.get_ident())
            yield i

    @pipeline
    def run(n: int) -> Iterator[int]:
        return where(n)

    assert list(run.stream(100)) == list(range(100))
    assert len(seen) == 1


def test_a_step_outside_a_pipeline_is_an_iterator(watched) -> None:
    used = watched.pipeline.graph.nodes[0].step
    items = used(5)
    assert next(items) == "w0"
    items.close()
    assert watched.closed.wait(5)
    assert list(used(2)) == ["w0", "w1"]


def test_a_pipeline_that_does_not_stream_says_so() -> None:
    @step
    def one(x: int) -> int:
        return x

    @pipeline
    def single(x: int) -> int:
        return one(x)

    with pytest.raises(DefinitionError, match="does not stream"):
        single.stream(1)


@pytest.mark.parametrize("kind", ["array", "model", "list"])
@pytest.mark.parametrize("is_async", [False, True])
def test_an_item_that_is_changed_after_it_was_yielded_stays_as_it_was(kind, is_async) -> None:
    items = {
        "array": (np.ndarray, lambda: np.zeros(2), lambda x: float(x[0])),
        "model": (Counter, Counter, lambda x: x.numbers[0]),
        "list": (list[float], lambda: [0.0], lambda x: x[0]),
    }
    type_, make, read = items[kind]

    def change(item, i: int) -> None:
        (item.numbers if kind == "model" else item)[0] = float(i)

    def reuse(n: int) -> Iterator[type_]:
        item = make()
        for i in range(n):
            change(item, i)
            yield item

    async def reuse_async(n: int) -> AsyncIterator[type_]:
        for item in reuse(n):
            yield item

    frames = step(reuse_async if is_async else reuse)

    @pipeline
    def video(n: int) -> Iterator[type_]:
        return frames(n)

    assert [read(item) for item in video.stream(4)] == [0, 1, 2, 3]
    assert [read(item) for item in video(4)] == [0, 1, 2, 3]
