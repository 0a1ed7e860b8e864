from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tools.demo import baseline, processes
from tools.demo.interrupts import Interrupts
from tools.demo.processes import Known, role, spent


def test_cpu_is_counted_by_role_also_of_processes_that_came_between() -> None:
    old, new = Known(1, 5.0, "replica"), Known(2, 9.0, "replica")
    proxy = Known(3, 5.0, "HAProxy")
    before = {old: 10.0, proxy: 1.0}
    after = {old: 12.5, new: 1.0, proxy: 1.5}
    assert spent(before, after) == {"replica": 3.5, "HAProxy": 0.5}


def test_a_process_id_that_is_used_again_is_another_process() -> None:
    assert spent({Known(1, 5.0, "x"): 90.0}, {Known(1, 8.0, "x"): 2.0}) == {"x": 2.0}


@pytest.mark.parametrize(
    ("name", "command", "called"),
    [
        ("ray::ServeRepli", ["ray::ServeReplica:tag:tag"], "replica"),
        ("ray::ServeContr", ["ray::ServeController.listen"], "Serve's controller"),
        ("haproxy", ["/usr/bin/haproxy", "-db"], "HAProxy"),
        ("raylet", ["/x/raylet/raylet", "--agent_command=x"], "raylet"),
        ("python", ["python", "-m", "mlkit.serving.port", "/tmp/x"], "session"),
        ("sleep", ["sleep", "9"], "other"),
    ],
)
def test_processes_are_called_what_they_are(name: str, command: list[str], called: str) -> None:
    assert role(name, command) == called


def test_marked_processes_are_found_and_ended() -> None:
    mark = f"test-{os.getpid()}"
    environment = {**os.environ, "MLKIT_TEST_MARK": mark}
    command = [sys.executable, "-c", "print(1, flush=True); import time; time.sleep(60)"]
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        assert [p.pid for p in processes.marked("MLKIT_TEST_MARK", mark)] == [child.pid]
        processes.end("MLKIT_TEST_MARK", mark, grace_s=5)
        assert not psutil.pid_exists(child.pid)
    assert processes.marked("MLKIT_TEST_MARK", mark) == []


def test_the_graph_to_compare_with_gets_none_of_our_settings() -> None:
    outside = {
        "PATH": "/bin",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_ADDRESS": "x",
        "MLKIT_SESSION": "y",
        "OMP_NUM_THREADS": "1",
    }
    inside = baseline.environment(outside, "mark")
    assert inside["PATH"] == "/bin"
    assert inside[baseline.MARK] == "mark"
    own = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED"}
    assert {name for name in inside if name.startswith("RAY_")} == own
    assert not {"MLKIT_SESSION", "OMP_NUM_THREADS"} & set(inside)


def test_a_graph_that_does_not_come_up_is_an_error_with_its_words(
    tmp_path: Path, monkeypatch
) -> None:
    start = subprocess.Popen

    def broken(command: list[str], **options):
        code = "import sys; sys.exit('no room for Ray')"
        return start([sys.executable, "-c", code], **options)

    monkeypatch.setattr(baseline.subprocess, "Popen", broken)
    with pytest.raises(baseline.BaselineError) as caught, baseline.running(tmp_path / "log"):
        pass
    assert caught.value.got == "no room for Ray"


def test_titles_go_quoted_and_pictures_raw() -> None:
    (request,) = baseline.requests("http://h/tag", [{"image": b"x", "title": "a&b c"}])
    assert (request.url, request.body) == ("http://h/tag?title=a%26b%20c", b"x")


def test_an_interrupt_that_somebody_caught_still_ends_the_story() -> None:
    interrupts = Interrupts()
    before = signal.getsignal(signal.SIGTERM)
    with interrupts as check:
        check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)  # a second one does not disturb the ending
        with pytest.raises(KeyboardInterrupt):
            check()
    assert signal.getsignal(signal.SIGTERM) is before
