"""What the measurements of faults and overload compute, from recorded data."""

import json
import math
from types import SimpleNamespace

import httpx2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import flaky, kills, leaks, lifecycle, overload, sessions, trust
from benchmarks.kills import Call
from mlkit.errors import Cancelled
from mlkit.serving.control import folders


def run(rows, void=()):
    """A load test of (intended, finished, status)."""
    intended, finished, status = (np.array(column, float) for column in zip(*rows, strict=True))
    columns = {"intended": intended, "finished": finished, "status": status.astype(int)}
    return SimpleNamespace(columns=columns, void=void)


# ---- overload ------------------------------------------------------------------------------------


def test_each_answer_of_an_overload_is_told_apart() -> None:
    normal = [(second / 10, second / 10 + 0.02, 200) for second in range(100)]
    over = [
        (10.1, 10.2, 200),
        (10.2, 10.21, 503),
        (10.3, 10.33, 429),
        (10.4, 14.0, 200),  # past its deadline, and finished after the overload
        (10.5, 10.6, 500),
        (10.6, 10.7, 0),
    ]
    phases = overload.Phases(10.0, 12.0)
    figures = overload.after_overload(run(normal + over), phases, deadline_s=2.0)
    assert {name: figures[name] for name in ("requests", "answered", "rejected", "late")} == {
        "requests": 6,
        "answered": 2,
        "rejected": 2,
        "late": 1,
    }
    assert figures["others"] == {"500": 1, "0": 1}
    assert figures["goodput"] == 0.5
    assert 10 < figures["reject_p99_ms"] <= 30.001
    assert figures["p99_before_ms"] == pytest.approx(20)
    assert figures["recovered_s"] == 0.0


@pytest.mark.parametrize(("slow_until_s", "expected"), [(0.0, 0.0), (0.3, 0.5), (1.9, 2.0)])
def test_recovery_is_the_end_of_the_last_slow_window(slow_until_s, expected) -> None:
    due = np.arange(0, 10, 0.01)
    latency = np.where((due >= 5) & (due < 5 + slow_until_s), 90.0, 10.0)
    assert overload.recovery_s(due, latency, 5.0, 15.0) == expected


def test_what_fails_after_the_overload_is_no_recovery() -> None:
    assert overload.recovery_s(np.array([5.1, 6.0]), np.array([math.inf, 1.0]), 5.0, 15.0) == 0.5
    assert overload.recovery_s(np.array([1.0]), np.array([math.inf]), 5.0, 15.0) == 0.0


# ---- kills ---------------------------------------------------------------------------------------


def test_lost_calls_are_counted_by_error() -> None:
    calls = [Call(0, 1, ""), Call(0, 1, "http 502"), Call(0, 1, "http 502"), Call(0, 1, "gone")]
    assert kills.lost(calls) == {"http 502": 2, "gone": 1}


@pytest.mark.parametrize(
    ("answered", "expected"),
    [
        ([1.0, 2.0, 3.5, 9.0, 9.5], 5.5),
        ([1.0, 2.5, 3.5], 1.0),
        ([0.5, 2.9], math.inf),
        ([4.0, 4.5], 1.0),
    ],
)
def test_the_gap_is_around_the_kill(answered, expected) -> None:
    calls = [Call(done, done, "") for done in answered] + [Call(5, 5, "http 502")]
    assert kills.gap_s(calls, at_s=3.0) == expected


# ---- hosts ---------------------------------------------------------------------------------------


def test_only_requests_for_healthy_hosts_are_compared() -> None:
    mixed = SimpleNamespace(
        columns={"payload": np.array([0, 1, 2, 2])}, latency_ms=np.array([11.0, 12.0, 1e4, np.inf])
    )
    alone = SimpleNamespace(
        columns={"payload": np.array([0, 1])}, latency_ms=np.array([10.0, 10.0])
    )
    figures = flaky.ratio([mixed], [alone], healthy=2)
    assert figures["p99_ratio"] == pytest.approx(1.2)
    assert (figures["requests_beside"], figures["failed_beside"]) == (2, 0)


def test_stub_hosts_do_as_they_are_told() -> None:
    with flaky.stub_host("healthy") as port, flaky.stub_host("fails") as failing:
        assert httpx2.get(f"http://127.0.0.1:{port}/picture").content == flaky.BODY
        assert httpx2.get(f"http://127.0.0.1:{failing}/picture").status_code == 500


# ---- growth --------------------------------------------------------------------------------------


@given(st.floats(-50, 50), st.floats(0, 1000), st.integers(3, 20))
def test_a_line_has_its_slope(slope, start, count) -> None:
    requests = [1e4 * number for number in range(count)]
    values = [start + slope * number for number in range(count)]
    assert leaks.slope_per_10k(requests, values) == pytest.approx(slope, abs=1e-6)


def test_one_outlier_does_not_move_the_slope() -> None:
    requests = [1e4 * number for number in range(10)]
    values = [100.0] * 10
    values[7] = 900.0
    assert leaks.slope_per_10k(requests, values) == 0.0
    assert leaks.slope_per_10k([5.0], [1.0]) == 0.0


def test_growth_is_that_from_the_first_look_to_the_last() -> None:
    looks = [
        {"requests": 1e4 * k, "mb": 100 + 2 * k, "fds": 50 + k, "threads": 9, "processes": 7}
        | {"disk_mb": 3.0}
        for k in range(1, 6)
    ]
    grown = leaks.growth(looks)
    assert grown["mb_per_10k"] == pytest.approx(2.0)
    assert grown["requests"] == 4e4
    assert grown["grown"] == {"fds": 4, "threads": 0, "processes": 0, "disk_mb": 0.0}


# ---- lifecycle -----------------------------------------------------------------------------------


def test_the_summary_is_the_worst_of_all_endings() -> None:
    endings = [
        lifecycle.Ending(1.23, 0.5, 3.0, 0, 0),
        lifecycle.Ending(4.0, 1.5, 2.0, 2, 1),
    ]
    assert lifecycle.summary(endings) == {
        "times": 2,
        "orphans": 2,
        "ports_taken": 1,
        "prompt_s": 1.5,
        "freed_s": 3.0,
        "at_s": [1.2, 4.0],
    }


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt(), Cancelled("deploying was interrupted")])
def test_the_script_goes_on_after_an_interrupt(interrupt, monkeypatch, capsys) -> None:
    def deploy(*arguments: object, **options: object) -> None:
        raise interrupt

    monkeypatch.setattr("mlkit.serving.deploy", deploy)
    monkeypatch.setattr("sys.argv", ["notebook.py", "deploy"])
    exec(compile(lifecycle.SCRIPT, "notebook.py", "exec"), {"__name__": "notebook"})
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["begin", "prompt"]


def test_a_session_that_has_only_begun_is_found(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(folders, "all_folders", lambda: sorted(tmp_path.iterdir()))
    for name, pid in (("mine", 7), ("theirs", 8)):
        (tmp_path / name).mkdir()
        settings = {"owner": {"pid": pid}, "port": 8000 + pid}
        (tmp_path / name / "settings.json").write_text(json.dumps(settings))
    (tmp_path / "empty").mkdir()
    script = object.__new__(lifecycle.Script)
    script.process = SimpleNamespace(pid=7)
    assert script.sessions() == [("mine", 8007)]


def test_what_is_left_is_waited_for_no_longer_than_asked(monkeypatch) -> None:
    now, left = 0.0, [3, 1, 0]

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(
        sessions, "processes_of", lambda name: [name] * (left.pop(0) if len(left) > 1 else left[0])
    )
    monkeypatch.setattr(sessions, "listens", lambda port: False)
    freed = sessions.left_after(10.0, "a", 1, sleep=sleep, clock=lambda: now)
    assert freed == (pytest.approx(0.4), 0, False)
    left[:] = [2]
    took_s, processes, _ = sessions.left_after(10.0, "a", 1, sleep=sleep, clock=lambda: now)
    assert took_s > 10.0
    assert processes == 2


def test_every_part_has_a_name_of_its_own() -> None:
    from benchmarks import engine, models, observe

    assert not {*engine.PARTS, *observe.PARTS, *models.PARTS} & {*trust.PARTS}
