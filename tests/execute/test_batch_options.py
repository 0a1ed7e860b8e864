"""What a batched step may ask for, and what is counted of its calls."""

import time

import pytest

from mlkit.define import batched_step, step
from mlkit.errors import StepError
from mlkit.pipelines import pipeline


@pytest.mark.timing
def test_a_batch_waits_for_more_where_its_step_asks_for_that(requests) -> None:
    calls = []

    @batched_step(max_batch_size=3, batch_wait_timeout_s=0.05)
    def patient(xs: list[int]) -> list[int]:
        calls.append(len(xs))
        return xs

    @pipeline
    def flow(x: int) -> int:
        return patient(x)

    sent = requests(flow)
    began = time.perf_counter()
    sent.submit(1, 2)
    sent.wait()
    assert time.perf_counter() - began >= 0.05
    sent.submit(3, 4, 5)
    full = time.perf_counter()
    sent.wait()
    assert time.perf_counter() - full < 0.045
    assert calls == [2, 3]


def test_who_is_woken_for_other_work_leaves_the_time_to_another(requests, gate) -> None:
    @step
    def hold(x: int) -> int:
        if x == 2:
            gate.pass_through()
        return x

    @batched_step(max_batch_size=8, batch_wait_timeout_s=0.05)
    def patient(xs: list[int]) -> list[int]:
        return xs

    @pipeline
    def flow(x: int) -> int:
        return patient(hold(x))

    sent = requests(flow, workers=3)
    sent.submit(1)
    while not sent.executor.queued()["patient"]:
        time.sleep(0.001)
    sent.submit(2)  # the worker that was last to fall asleep, and kept the time, holds this
    began = time.perf_counter()
    while sent.executor.in_flight > 1:
        assert time.perf_counter() - began < 5, "nobody took the batch that was due"
        time.sleep(0.001)
    gate.open()
    assert sent.outcomes() == [1, 2]


def test_a_batch_that_must_not_be_repeated_fails_as_a_whole(requests, gate) -> None:
    calls = []

    @step
    def hold(x: int) -> int:
        gate.pass_through()
        return x

    @batched_step(max_batch_size=4, split_failed_batches=False)
    def pay(xs: list[int]) -> list[int]:
        calls.append(sorted(xs))
        if 2 in xs:
            raise ValueError("declined")
        return xs

    @pipeline
    def flow(x: int) -> int:
        return pay(hold(x))

    sent = requests(flow, workers=4)
    sent.submit(1, 2, 3, 4)
    gate.open()
    outcomes = sent.outcomes()
    # Whatever batches they came in: nothing was paid twice.
    assert sorted(x for call in calls for x in call) == [1, 2, 3, 4]
    together = next(call for call in calls if 2 in call)
    assert [x for x, o in zip((1, 2, 3, 4), outcomes, strict=True) if o is StepError] == together


def test_calls_are_counted_by_size_those_that_split_a_batch_too(requests) -> None:
    @batched_step(max_batch_size=8)
    def fussy(xs: list[int]) -> list[int]:
        if any(x % 10 == 0 for x in xs):
            raise ValueError("bad")
        return [x + 1 for x in xs]

    @pipeline
    def flow(x: int) -> int:
        return fussy(x)

    sent = requests(flow)
    sent.submit(*range(2000))
    wanted = [x + 1 if x % 10 else StepError for x in range(2000)]
    assert sent.outcomes() == wanted
    sizes = sent.executor.batch_sizes()["fussy"]
    assert sum(size * count for size, count in sizes.items()) > 2000
    assert sizes[1] >= 200


def test_nodes_are_told_as_they_finish(requests) -> None:
    told = []

    @step
    def one(x: int) -> int:
        return x + 1

    @step
    async def two(x: int) -> int:
        return x * 2

    @pipeline
    def flow(x: int) -> int:
        return two(one(x))

    sent = requests(flow)
    sent.submit(1, on_node=lambda name, value: told.append((name, value)))
    sent.wait()
    assert told == [("one", 2), ("two", 4)]
