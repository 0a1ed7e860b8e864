"""When a replica collects what an old version has left."""

import asyncio

import pytest

from mlkit.serving.replica.base import IDLE_S, SETTLE_S, until_idle


def waited_s(activity: dict[float, tuple[int, int]]) -> float:
    """Time until it is idle; activity by the time from which on it holds."""
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    def current() -> tuple[int, int]:
        return activity[max(time for time in activity if time <= now + 1e-9)]

    asyncio.run(until_idle(current, sleep))
    return now


def test_without_requests_it_is_idle_after_a_second() -> None:
    assert waited_s({0: (7, 0)}) == pytest.approx(IDLE_S, abs=0.25)


def test_a_request_in_flight_counts() -> None:
    assert waited_s({0: (8, 1), 5: (8, 0)}) == pytest.approx(5 + IDLE_S, abs=0.25)


def test_requests_between_two_looks_count() -> None:
    brief = {step / 20: (step, 0) for step in range(100)}  # none is in flight when it looks
    assert waited_s(brief) == pytest.approx(5 + IDLE_S, abs=0.25)


def test_it_does_not_wait_for_ever() -> None:
    assert waited_s({0: (8, 1)}) == pytest.approx(SETTLE_S)
