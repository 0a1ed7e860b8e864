"""How long a call holds the interpreter."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from mlkit.define import batched_step, each, step
from mlkit.pipelines import Pipeline, pipeline
from mlkit.plan import profile
from mlkit.plan.interpreter import held_s, least_held_s

BUFFER = bytes(5 << 20)


def hold(ms: float) -> None:
    """Compute with the interpreter locked."""
    until = time.thread_time() + ms / 1e3
    while time.thread_time() < until:
        pass


def let_go() -> float:
    """Compute without, for some milliseconds, and return how many."""
    began = time.thread_time()
    hashlib.sha256(BUFFER)
    return 1e3 * (time.thread_time() - began)


@pytest.mark.timing
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_only_time_with_the_interpreter_counts(share: float) -> None:
    free_ms = min(let_go() for _ in range(3)) if share < 1 else 0.0
    held_ms = share / (1 - share) * free_ms if share < 1 else 3.0

    def call(i: int) -> None:
        hold(held_ms)
        if free_ms:
            let_go()

    for _ in range(20):  # it measures too much while no core is free, and never too little
        measured = 1e3 * held_s(call, 0.1, time.perf_counter) / (held_ms + free_ms)
        assert measured > share - 0.2
        if measured < share + 0.2:
            return
    raise AssertionError(f"{measured:.0%} of a call hold the interpreter")


def test_waiting_holds_nothing() -> None:
    assert held_s(lambda i: time.sleep(0.02), 0.0, time.perf_counter) < 0.005


def test_a_call_that_fails_ends_the_measurement() -> None:
    def fail(i: int) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        held_s(fail, 0.0, time.perf_counter)


def test_calls_that_seem_to_hold_it_because_the_machine_is_busy_do_not_count() -> None:
    quiet = [(0.010, 0.007)] * 2
    assert least_held_s(quiet + [(0.010, 0.001)] * 30) == pytest.approx(0.003)


def test_a_call_without_cpu_time_holds_nothing() -> None:
    assert least_held_s([(0.0, 0.0)] * 3) == 0.0


@step
def spell(number: int) -> list[int]:
    hold(1)
    return list(range(number))


@batched_step(max_batch_size=4)
def look(numbers: list[int]) -> list[int]:
    let_go()
    return numbers


@step
async def fetch(number: int) -> int:
    await asyncio.sleep(0.004)
    hold(1)
    return number


@step
def count(number: int) -> Iterator[int]:
    for i in range(number):
        hold(1)
        yield i


@step
async def count_async(number: int) -> AsyncIterator[int]:
    for i in range(number):
        hold(1)
        yield i


@pipeline
def counted(number: int) -> Iterator[int]:
    return count(number)


@pipeline
def counted_async(number: int) -> AsyncIterator[int]:
    return count_async(number)


@pytest.mark.timing
@pytest.mark.parametrize("pipe", [counted, counted_async])
def test_a_step_that_streams_is_measured_to_its_last_item(pipe: Pipeline[..., Any]) -> None:
    (cost,) = profile(pipe, [4], seconds=0.02).costs
    assert 3.5 < cost.held_ms < 8


@pipeline
def spelled(number: int) -> list[int]:
    return each(look, spell(fetch(number)))


@pytest.mark.timing
def test_a_profile_has_what_each_step_adds_to_a_request() -> None:
    measured = profile(spelled, [1, 3], batch_sizes=[1, 4], seconds=0.02)
    costs = {cost.step: cost for cost in measured.costs}
    assert 0.8 < costs["spell"].held_ms < 3
    # Two items a request, in batches of four.
    assert 0.25 < costs["look"].cpu_ms / let_go() < 1
    # It computes on the event loop, whose thread is another.
    assert 0.8 < costs["fetch"].held_ms < 4
    assert costs["fetch"].ms > 4
    assert measured.memory > 10 * 2**20
    assert "held" in measured.to_frame().columns
