"""The adaptive limit before a simulated queue, in virtual time."""

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from mlkit import InputError, pipeline, step
from mlkit.errors import DefinitionError, Overloaded
from mlkit.execute.priority import Priority
from mlkit.serving import Limits
from mlkit.serving.http.adaptive import LEAST, START, AdaptiveLimit

WORKERS, SERVICE_S = 4, 0.02
CAPACITY = WORKERS / SERVICE_S


@step
def add_one(x: int) -> int:
    return x + 1


@pipeline
def plus(x: int) -> int:
    return add_one(x)


class Seen(NamedTuple):
    answered: int
    rejected: int
    latencies: list[float]
    limits: list[int]


def simulated(
    limit, rate, seconds, service_s=lambda at: SERVICE_S, seed=0, workers=WORKERS
) -> Seen:
    """Poisson arrivals at workers that share a queue; what is beyond the limit is rejected."""
    draw, queue, busy, ends = random.Random(seed), deque(), 0, []
    ongoing, rejected, latencies, limits = 0, 0, [], []
    at = draw.expovariate(rate)

    def begin(now):
        nonlocal busy
        while queue and busy < workers:
            busy += 1
            took = service_s(now) * draw.uniform(0.8, 1.2)
            heapq.heappush(ends, (now + took, queue.popleft()))

    while at < seconds or ends:
        if ends and (at >= seconds or ends[0][0] <= at):
            now, arrived = heapq.heappop(ends)
            if isinstance(limit, AdaptiveLimit):
                limit.add(now - arrived, ongoing, now)
                limits.append(limit.now)
            latencies.append(now - arrived)
            busy, ongoing = busy - 1, ongoing - 1
            begin(now)
            continue
        if ongoing < (limit.now if isinstance(limit, AdaptiveLimit) else limit):
            ongoing += 1
            queue.append(at)
            begin(at)
        else:
            rejected += 1
        at += draw.expovariate(rate)
    return Seen(len(latencies), rejected, latencies, limits)


def p99(latencies) -> float:
    return sorted(latencies)[int(0.99 * len(latencies))]


@pytest.mark.parametrize("seed", range(3))
def test_overload_costs_no_throughput_and_no_long_waits(seed) -> None:
    adaptive = simulated(AdaptiveLimit(256), 5 * CAPACITY, 20, seed=seed)
    fixed = simulated(256, 5 * CAPACITY, 20, seed=seed)
    assert adaptive.answered >= 0.97 * 20 * CAPACITY
    assert p99(adaptive.latencies) < 0.5 * p99(fixed.latencies)


@pytest.mark.parametrize("load", [0.2, 0.5, 0.7])
def test_ordinary_load_is_admitted(load) -> None:
    seen = simulated(AdaptiveLimit(256), load * CAPACITY, 30)
    assert seen.rejected <= 0.003 * seen.answered


@pytest.mark.parametrize("slower", [1.5, 3, 8])
@pytest.mark.parametrize("workers", [1, 4, 16])
def test_a_pipeline_that_becomes_slower_keeps_its_throughput(workers, slower) -> None:
    limit, rate = AdaptiveLimit(256), 3 * workers / SERVICE_S
    seen = simulated(
        limit, rate, 60, lambda at: SERVICE_S * (slower if at > 20 else 1), workers=workers
    )
    assert seen.answered >= 0.9 * workers / SERVICE_S * (20 + 40 / slower)


def test_the_limit_stays_within_its_bounds() -> None:
    limit = AdaptiveLimit(8)
    seen = simulated(limit, 5 * CAPACITY, 5)
    assert set(seen.limits) <= set(range(LEAST, 9))
    assert AdaptiveLimit(2).now == 2


def test_what_no_request_has_tried_is_not_raised() -> None:
    limit = AdaptiveLimit(256)
    before = limit.now
    for number in range(1000):
        limit.add(0.01, 1, number / 100)
    assert limit.now == before


def test_late_requests_lower_it() -> None:
    limit = AdaptiveLimit(256)
    for number in range(40):
        limit.add(0.01, START, number / 100)
    before = limit.now
    for number in range(40, 80):
        limit.add(1.0, before, number / 100, late=True)
    assert limit.now < before


def test_it_is_asked_for() -> None:
    assert not Limits().adaptive
    with pytest.raises(DefinitionError, match="adaptive must be True or False"):
        Limits(adaptive=1)


def test_a_pipeline_admits_no_more_than_its_limit_unless_it_streams(face) -> None:
    @step
    def count(x: int) -> Iterator[int]:
        yield from range(x)

    @pipeline
    def counting(x: int) -> Iterator[int]:
        return count(x)

    def full(pipe, **options) -> list[bool]:
        served = face(pipe, limits=Limits(max_ongoing_requests=64, **options)).served
        return [served.is_full(Priority.INTERACTIVE) for served.ongoing in (START - 1, START, 64)]

    assert full(plus, adaptive=True) == [False, True, True]
    assert full(plus) == full(counting) == full(counting, adaptive=True) == [False, False, True]


@pytest.mark.parametrize(
    ("error", "added"),
    [
        (None, True),
        (InputError("no"), False),
        (Overloaded("a stage is full"), False),
        (ValueError("no"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_requests_that_are_run_are_added_to_it_unless_they_fail(face, error, added) -> None:
    @step
    def fail(x: int) -> int:
        if error is not None:
            raise error
        return x

    @pipeline
    def failing(x: int) -> int:
        return fail(x)

    client = face(failing, limits=Limits(adaptive=True))
    client.post("/failing", json={"x": 1})
    assert len(client.served._adaptive._window) == added


@pytest.mark.parametrize(("usual_s", "added"), [(0.001, True), (10.0, False)])
def test_late_requests_are_added_to_it_unless_they_had_less_time_than_others_take(
    face, usual_s, added
) -> None:
    @step
    async def wait(x: int) -> int:
        await asyncio.sleep(60)
        return x

    @pipeline
    def late(x: int) -> int:
        return wait(x)

    client = face(late, limits=Limits(adaptive=True, request_timeout_s=0.01))
    limit = client.served._adaptive
    limit._least_s = usual_s
    assert client.post("/late", json={"x": 1}).status_code == 504
    assert len(limit._window) == added
