"""A replica whose event loop stands still ends."""

import asyncio
import subprocess
import sys
from types import SimpleNamespace

import pytest

from mlkit.serving.replica.base import BaseReplica
from mlkit.serving.replica.guard import PERIOD_S, STANDSTILL_S, LoopGuard


class Timer:
    """Records what it is told."""

    def __init__(self) -> None:
        self.told: list[float | None] = []

    def arm(self, seconds: float) -> None:
        self.told.append(seconds)

    def disarm(self) -> None:
        self.told.append(None)


def beats(limits: list[float | None]) -> list[float | None]:
    """What the timer is told if the limit is one after the other, and then the guard is ended."""
    timer, left = Timer(), iter(limits)
    now = next(left)

    async def sleep(seconds: float) -> None:
        nonlocal now
        assert seconds == PERIOD_S
        try:
            now = next(left)
        except StopIteration:
            raise asyncio.CancelledError from None

    async def main() -> None:
        with pytest.raises(asyncio.CancelledError):
            await LoopGuard(lambda: now, timer, sleep).run()

    asyncio.run(main())
    return timer.told


@pytest.mark.parametrize(
    "limits", [[65.0], [7.0, 7.0, 7.0], [7.0, None, 7.0], [None, None], [7.0, 65.0]]
)
def test_the_timer_is_set_at_each_beat_and_stopped_at_the_end(limits) -> None:
    assert beats(limits) == [*limits, None]


class Replica(BaseReplica):
    def __init__(self, longest_s: float | None) -> None:
        self.longest_s = longest_s
        self._guard, self._being_loaded = None, 0

    def _longest_request_s(self) -> float | None:
        return self.longest_s

    def _executors(self):
        return ()

    def __del__(self) -> None:
        """Serve awaits the one of a replica that it ends."""


@pytest.mark.parametrize(("longest_s", "limit_s"), [(None, None), (2.0, 2.0 + STANDSTILL_S)])
def test_the_limit_is_that_of_requests(longest_s, limit_s) -> None:
    assert Replica(longest_s).standstill_s() == limit_s


def test_nothing_is_ended_while_something_is_loaded() -> None:
    replica, timer = Replica(2.0), Timer()
    replica._guard = LoopGuard(replica.standstill_s, timer)
    with replica._unguarded():
        assert timer.told == [None]
        with pytest.raises(RuntimeError), replica._unguarded():
            raise RuntimeError("it cannot be loaded")
        assert replica.standstill_s() is None  # another one is still being loaded
    assert replica.standstill_s() == 2.0 + STANDSTILL_S


PROGRAM = """
import asyncio, re, time
from mlkit.serving.replica.guard import LoopGuard

async def main():
    task = asyncio.create_task(LoopGuard(lambda: 0.2).run())
    await asyncio.sleep(0)
    {hang}

asyncio.run(main())
"""


@pytest.mark.parametrize(
    "hang", ['re.match(r"(a+)+$", "a" * 60 + "b")', "time.sleep(60)"], ids=["held", "blocked"]
)
def test_a_process_that_hangs_ends_with_the_stacks_of_its_threads(hang) -> None:
    program = PROGRAM.format(hang=hang)
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False
    )
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr
    assert "in main" in ended.stderr


def test_a_process_that_goes_on_does_not_end() -> None:
    program = PROGRAM.format(hang="await asyncio.sleep(0.01)")
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=50, check=False
    )
    assert ended.returncode == 0


def test_a_replica_that_is_guarded_beats() -> None:
    async def main() -> None:
        replica, timer = Replica(2.0), Timer()
        spawned = []
        replica._spawn = lambda work: spawned.append(asyncio.ensure_future(work))
        replica.guard(LoopGuard(replica.standstill_s, timer))
        await asyncio.sleep(0)
        assert timer.told == [2.0 + STANDSTILL_S]
        spawned[0].cancel()
        await asyncio.wait(spawned)
        assert timer.told[-1] is None

    asyncio.run(main())


def test_a_replica_on_its_way_has_no_limit() -> None:
    from mlkit.serving.replica.front import Replica as Front
    from mlkit.serving.replica.stage import StageReplica

    front = SimpleNamespace(_versions=list)
    assert Front._longest_request_s(front) is None
    old, new = (SimpleNamespace(request_timeout_s=seconds) for seconds in (60.0, 2.0))
    assert Front._longest_request_s(SimpleNamespace(_versions=lambda: [old, new])) == 60.0
    stage = SimpleNamespace(_versions={}, _request_timeout_s=0.0)
    assert StageReplica._longest_request_s(stage) is None
