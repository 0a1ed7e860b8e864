"""Inputs that a replica keeps of failed and slow requests, and how they are run again here."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
from types import SimpleNamespace

import pytest

from mlkit import batched_step, each, pipeline, step
from mlkit.define.resource import Resource
from mlkit.errors import InputError, StepError
from mlkit.execute import Executor, compile_graph
from mlkit.metrics import Trace
from mlkit.plan import plan
from mlkit.serving.http.observer import LAST
from mlkit.serving.http.problem import Failure
from mlkit.serving.kernel.reproduce import Reproduction
from mlkit.serving.replica import kept as kept_module
from mlkit.serving.replica.kept import (
    KEPT_FAILED,
    KEPT_SLOW,
    SLOW_FOR_S,
    Inputs,
    InputsOf,
    Kept,
    KeptFailures,
    read_inputs,
)


@step
def halve(x: float) -> float:
    return x / 2


@step
def invert(x: float, y: float = 1.0) -> float:
    return y / x


@batched_step(max_batch_size=4)
def root(xs: list[float]) -> list[float]:
    if any(x < 0 for x in xs):
        raise ValueError("a negative number")
    return [x**0.5 for x in xs]


@step
async def later(x: float) -> float:
    return 1 / x


@step
def ask(x: float) -> list[float]:
    return [x, x - 2]


@pipeline
def inverted(x: float) -> float:
    return invert(halve(x))


@pipeline
def rooted(x: float) -> float:
    return root(halve(x))


@pipeline
def awaited(x: float) -> float:
    return later(halve(x))


@pipeline
def every(x: float) -> list[float]:
    return each(root, ask(x))


@pytest.fixture(autouse=True)
def unhurried(monkeypatch) -> None:
    """A test must not have to wait until writing is a small part of the time."""
    monkeypatch.setattr(kept_module, "REST", 0)


def fail(folder, planned, **arguments) -> tuple[Failure, StepError]:
    """Has the front of a plan fail; what it records."""
    kept = Kept(folder, planned.graph.name)
    failures = KeptFailures(lambda failure: None, kept)

    async def run():
        program = compile_graph(planned.cut.front, loop=asyncio.get_running_loop())
        with Executor(program, workers=1, loop=asyncio.get_running_loop()) as executor:
            execution = await executor.run(arguments)
        LAST.set(execution)
        return failures.record(execution.error), execution.error

    return asyncio.run(run())


def nothing(node: str) -> dict[str, Resource]:
    return {}


@pytest.mark.parametrize(
    ("pipe", "x", "error"),
    [
        (inverted, 0.0, ZeroDivisionError),
        (rooted, -2.0, ValueError),
        (awaited, 0.0, ZeroDivisionError),
        (every, 1.0, ValueError),
    ],
)
def test_a_failed_step_raises_again_with_its_own_frames(tmp_path, pipe, x, error) -> None:
    planned = plan(pipe)
    failure, cause = fail(tmp_path, planned, x=x)
    again = Reproduction(tmp_path, planned, nothing).failed(failure)
    assert (again.id, again.step, again.error) == (failure.id, failure.step, failure.error)
    with pytest.raises(error) as caught:
        again.reproduce()
    assert str(caught.value) == str(cause.__cause__)
    frames = [entry.name for entry in caught.traceback]
    assert frames[-1] in {"invert", "root", "later"}


def test_what_was_updated_since_is_used_and_a_step_that_works_returns_its_result(tmp_path) -> None:
    planned = plan(inverted)
    failure, _ = fail(tmp_path, planned, x=0.0)

    def replaced(node: str) -> dict[str, Resource]:
        return {"y": Resource(None, 3.0, ())} if node == "invert" else {}

    inputs = InputsOf({}, {"halve": 2.0}, "invert")
    (file,) = tmp_path.glob("*.inputs")
    file.write_bytes(pickle.dumps(inputs))
    assert Reproduction(tmp_path, planned, replaced).failed(failure).reproduce() == 1.5


def test_a_step_in_another_stage_is_found_by_running_its_segment_here(tmp_path) -> None:
    planned = plan(inverted, layout="per_step")
    (segment,) = (s.name for s in planned.cut.segments if "invert" in s.nodes)
    failure = Failure("abc123", "now", "invert", "ZeroDivisionError", "")
    node = planned.cut.front[segment]
    results = dict.fromkeys(node.upstream, (0.0,))
    Inputs(tmp_path / "inverted.7", 1).keep(failure.id, InputsOf({}, results, segment))
    with pytest.raises(ZeroDivisionError) as caught:
        Reproduction(tmp_path, planned, nothing).failed(failure).reproduce()
    assert caught.traceback[-1].name == "invert"


@pytest.mark.parametrize("id", ["unknown", "../../etc/passwd", "*", ""])
def test_a_failure_whose_inputs_were_not_kept_says_so(tmp_path, id) -> None:
    failure = Failure(id, "now", "invert", "ZeroDivisionError", "")
    with pytest.raises(InputError, match="were not kept"):
        Reproduction(tmp_path, plan(inverted), nothing).failed(failure).reproduce()


def test_a_slow_request_is_run_again_as_a_whole(tmp_path) -> None:
    planned = plan(inverted)
    kept = Kept(tmp_path, "inverted")
    LAST.set(SimpleNamespace(arguments={"x": 4.0}))
    trace = Trace("abc123", 0.0, 1.5, 200, 0.0, 1.5, ())
    kept.add_slow(trace)
    again = Reproduction(tmp_path, planned, nothing).slow(trace)
    assert (again.id, again.total_s, again.phases_s) == ("abc123", 1.5, trace.phases_s)
    run = again.reproduce()
    assert (run.value, run["halve"].value) == (0.5, 2.0)


# ---- bounds -------------------------------------------------------------------------------------


def test_the_ten_slowest_of_the_last_minutes_are_kept(tmp_path) -> None:
    kept = Kept(tmp_path, "app")
    LAST.set(SimpleNamespace(arguments={}))

    def add(name: str, total_s: float, at: float) -> None:
        kept.add_slow(Trace(name, at, total_s, 200, 0.0, 0.0, ()))

    for i in range(100):
        add(f"r{i}", (i * 37 % 100) / 100, float(i))
    stored = {path.name.split(".")[2] for path in tmp_path.glob("*.inputs")}
    slowest = sorted(range(100), key=lambda i: i * 37 % 100)[-KEPT_SLOW:]
    assert stored == {f"r{i}" for i in slowest}
    add("new", 0.001, 100 + SLOW_FOR_S)  # the others are no longer of interest
    assert read_inputs(tmp_path, "app", "new") is not None
    assert len(list(tmp_path.glob("*.inputs"))) <= KEPT_SLOW


def test_the_slowest_stay_while_no_others_can_be_written(tmp_path) -> None:
    kept = Kept(tmp_path, "app")
    clock = [0.0]
    kept.slow = Inputs(tmp_path / "app.1", KEPT_SLOW, now=lambda: clock[0])
    LAST.set(SimpleNamespace(arguments={}))
    for i in range(KEPT_SLOW):
        kept.add_slow(Trace(f"r{i}", 0.0, 1.0 + i, 200, 0.0, 0.0, ()))
    before = sorted(tmp_path.iterdir())
    assert len(before) == KEPT_SLOW
    kept.slow._rests_until = 5.0
    for i in range(50):
        kept.add_slow(Trace(f"later{i}", 0.0, 20.0 + i, 200, 0.0, 0.0, ()))
    assert sorted(tmp_path.iterdir()) == before
    clock[0] = 6.0
    kept.add_slow(Trace("fast", 0.0, 0.5, 200, 0.0, 0.0, ()))
    assert sorted(tmp_path.iterdir()) == before
    kept.add_slow(Trace("slow", 0.0, 20.0, 200, 0.0, 0.0, ()))
    assert {path.name.split(".")[2] for path in tmp_path.iterdir()} == {
        "slow",
        *(f"r{i}" for i in range(1, KEPT_SLOW)),
    }


def test_only_the_last_failures_are_kept_and_none_once_it_is_switched_off(tmp_path) -> None:
    inputs = Inputs(tmp_path / "app.1", KEPT_FAILED)
    assert all(inputs.keep(f"f{i}", InputsOf({"x": i})) for i in range(KEPT_FAILED + 5))
    assert len(list(tmp_path.iterdir())) == KEPT_FAILED
    assert read_inputs(tmp_path, "app", "f4") is None
    assert read_inputs(tmp_path, "app", "f5").arguments == {"x": 5}
    kept = Kept(tmp_path, "app")
    kept.failed = inputs
    kept.enable(False)
    assert list(tmp_path.iterdir()) == []
    assert not inputs.keep("later", InputsOf({}))


def test_of_replicas_that_have_ended_only_the_last_are_kept(tmp_path) -> None:
    most = KEPT_FAILED + KEPT_SLOW
    for pid in (2**22 + 1, 2**22 + 2):  # above any process id
        for i in range(most):
            file = tmp_path / f"app.{pid}.{i}.inputs"
            file.touch()
            os.utime(file, (pid, pid))
    (tmp_path / f"app.{os.getpid()}.alive.inputs").touch()
    (tmp_path / f"other.{2**22 + 1}.0.inputs").touch()
    Kept(tmp_path, "app")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {
        f"app.{os.getpid()}.alive.inputs",
        f"other.{2**22 + 1}.0.inputs",
        *(f"app.{2**22 + 2}.{i}.inputs" for i in range(most)),
    }


def test_what_is_large_or_cannot_be_pickled_is_left_out(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(kept_module, "MAX_BYTES", 1000)
    inputs = Inputs(tmp_path / "app.1", 5)
    assert not inputs.keep("large", InputsOf({"x": b"x" * 1001}))
    assert not inputs.keep("lock", InputsOf({"x": threading.Lock()}))
    assert inputs.keep("small", InputsOf({"x": b"x" * 100}))
    assert len(list(tmp_path.iterdir())) == 1


def test_it_takes_a_small_part_of_the_time_at_most(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(kept_module, "REST", 10)
    clock = iter([0.0, 1.0, 5.0, 10.9, 11.0, 11.0])
    inputs = Inputs(tmp_path / "app.1", 5, now=lambda: next(clock))
    assert inputs.keep("first", InputsOf({}))  # it took a second, until 1.0
    assert not inputs.keep("at 5", InputsOf({}))
    assert not inputs.keep("at 10.9", InputsOf({}))
    assert inputs.keep("at 11", InputsOf({}))


def test_only_this_user_can_read_them_and_a_full_disk_fails_nothing(tmp_path) -> None:
    Inputs(tmp_path / "app.1", 5).keep("a", InputsOf({}))
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o077 == 0
    assert not Inputs(tmp_path / "gone" / "app.1", 5).keep("a", InputsOf({}))
    assert not Inputs(None, 5).keep("a", InputsOf({}))


def test_a_failure_that_is_reported_twice_is_kept_once(tmp_path) -> None:
    planned = plan(inverted)
    _, error = fail(tmp_path, planned, x=0.0)
    kept = Kept(tmp_path, "inverted")
    LAST.set(None)
    KeptFailures(lambda failure: None, kept).record(error)
    assert len(list(tmp_path.glob("*.inputs"))) == 1
