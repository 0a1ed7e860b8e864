"""A measurement of swaps ends: what is late is named, and what was started is ended."""

import threading
from types import SimpleNamespace

import pytest

from benchmarks import swap
from mlkit.errors import MlkitError


class Run:
    """A load test that goes on until it is stopped or killed."""

    duration_s = 10.0
    progress = SimpleNamespace(elapsed_s=1.0)

    def __init__(self) -> None:
        self.ended_by = ""

    @property
    def done(self) -> bool:
        return bool(self.ended_by)

    def stop(self) -> str:
        self.ended_by = "stop"
        return "the records"

    def kill(self) -> None:
        self.ended_by = "kill"

    def __repr__(self) -> str:
        return "<LoadRun>"


@pytest.fixture
def run(monkeypatch) -> Run:
    run = Run()
    monkeypatch.setattr(swap, "load_test", lambda *args, **options: run)
    for name in ("SWAP_EVERY_S", "GRACE_S"):
        monkeypatch.setattr(swap, name, 0.02)
    return run


def test_the_load_lasts_until_the_last_swap(run) -> None:
    loads = []
    app = SimpleNamespace(swap=lambda step, resource: loads.append(run.done))
    records, took = swap._while_swapping(app, rate=10.0)
    assert (records, run.ended_by) == ("the records", "stop")
    assert len(took) == swap.SWAPS
    assert loads == [False] * swap.SWAPS


def test_a_swap_that_hangs_is_named_and_the_load_is_killed(run, monkeypatch) -> None:
    monkeypatch.setattr(swap, "SWAP_S", 0.05)
    forever = threading.Event()
    swaps = iter([lambda: None, forever.wait])
    app = SimpleNamespace(swap=lambda step, resource: next(swaps)())
    with pytest.raises(MlkitError, match=r"swap 2 of 20 has not ended after 0.05 s"):
        swap._while_swapping(app, rate=10.0)
    assert run.ended_by == "kill"
    forever.set()


def test_a_swap_that_fails_ends_the_load(run) -> None:
    def fail(step, resource) -> None:
        raise TimeoutError("no answer")

    with pytest.raises(TimeoutError, match="no answer"):
        swap._while_swapping(SimpleNamespace(swap=fail), rate=10.0)
    assert run.ended_by == "kill"


@pytest.mark.parametrize("wait", ["end", "warm-up"])
def test_a_load_test_that_does_not_go_on_is_named(run, monkeypatch, wait) -> None:
    if wait == "end":
        run.duration_s = 0.0
        with pytest.raises(MlkitError, match=r"<LoadRun> has not ended after 0.02 s"):
            swap.ended(run)
    else:
        run.progress = SimpleNamespace(elapsed_s=-1.0)
        with pytest.raises(MlkitError, match="the warm-up has not ended"):
            swap._while_swapping(SimpleNamespace(), rate=10.0)
        assert run.ended_by == "kill"
