"""Whole load tests: a generator process against a real server on loopback."""

import asyncio
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from mlkit.errors import LoadError
from mlkit.load import LoadRun, closed, constant, last_result, load_test, poisson, steered
from mlkit.load.arrivals import arrivals_from_dict
from mlkit.load.requests import HttpRequest


def quick(port, arrivals=None, **options):
    """A short run without a progress bar."""
    arguments = {"duration_s": 0.5, "warmup_s": 0.1, "progress": False, **options}
    payloads = arguments.pop("payloads", [b"a", b"b", b"c"])
    return load_test(
        f"http://127.0.0.1:{port}/x", payloads, arrivals or constant(rate=100), **arguments
    )


def test_an_open_loop_sends_its_schedule_and_nothing_else(hello):
    result = quick(hello, poisson(rate=200, seed=5), duration_s=1.0)
    assert np.array_equal(result.columns["intended"], poisson(rate=200, seed=5).times(1.0))
    assert result.ok.all()
    assert (result.columns["sent"] >= result.columns["intended"] - 1e-6).all()
    assert result.records[0].phases == {"a": 1.0}
    assert result.records[0].bytes == 2
    assert last_result() is result


@pytest.mark.timing
def test_a_closed_loop_finds_the_throughput(serve, read_request):
    async def ten_milliseconds(reader, writer):
        while True:
            await read_request(reader)
            await asyncio.sleep(0.01)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    result = quick(serve(ten_milliseconds), closed(concurrency=4), duration_s=1.0)
    assert result.client.most_in_flight == 4
    assert result.client.connections == 4
    # 4 clients, each at most 100 requests a second; the machine may be busy.
    assert 150 < result.ok_rate <= 404


@pytest.mark.timing
def test_a_server_that_stalls_is_seen_to_stall(serve, read_request):
    """The coordinated omission test: one second of silence is in p99, and sending goes on."""
    began = []

    async def stalls(reader, writer):
        while True:
            await read_request(reader)
            began.append(time.monotonic())
            since = began[-1] - began[0]
            if 1.0 < since < 2.0:
                await asyncio.sleep(2.0 - since)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    result = quick(serve(stalls), constant(rate=100), duration_s=3.0, warmup_s=0)
    assert result.percentiles["p99"].value_ms > 850
    assert result.percentiles["p50"].value_ms < 100
    assert result.client.most_in_flight > 80
    assert np.median(result.lateness_ms) < 5


@pytest.fixture
def seen(serve, read_request):
    """A server that answers, and the bodies it got."""
    bodies = []

    async def keep(reader, writer):
        while True:
            bodies.append((await read_request(reader))[1])
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    return serve(keep), bodies


def test_payloads_go_round_in_a_seeded_order_that_warm_up_does_not_change(seen):
    port, bodies = seen
    payloads = [bytes([65 + k]) for k in range(7)]
    results = [quick(port, payloads=payloads, warmup_s=w, seed=3) for w in (0.0, 0.2)]
    first, second = (result.columns["payload"].tolist() for result in results)
    assert first == second
    assert sorted(first[:7]) == list(range(7)) != first[:7]
    assert first[7:14] == first[:7]
    assert bodies[: len(first)] == [payloads[k] for k in first]
    assert quick(port, payloads=payloads, seed=4).columns["payload"].tolist() != first


def test_only_as_many_requests_are_made_as_are_sent(hello):
    class Target:
        made = 0

        def prepare(self, payload):
            self.made += 1
            return HttpRequest(url=f"http://127.0.0.1:{hello}/", body=payload)

    target = Target()
    load_test(target, [b"x"] * 5000, constant(rate=20), duration_s=0.5, progress=False, warmup_s=0)
    assert target.made == 10


def test_failures_are_counted_and_quoted(serve, read_request):
    async def refuses(reader, writer):
        while True:
            _, body = await read_request(reader)
            status = b"200 OK" if body == b"a" else b"422 No"
            writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 8\r\n\r\nno image")

    result = quick(serve(refuses), payloads=[b"a", b"b"])
    assert result.errors == {"http 422": 25}
    sample = result.failures[0]
    assert (sample.error, sample.payload, sample.detail) == ("http 422", 1, "no image")
    assert result.columns["status"][~result.ok].tolist() == [422] * 25


def test_requests_that_are_never_answered_time_out(serve, read_request):
    async def silent(reader, writer):
        await asyncio.sleep(30)

    result = quick(serve(silent), constant(rate=20), timeout_s=0.3)
    assert result.errors == {"timeout": 10}
    taken = result.columns["finished"] - result.columns["sent"]
    assert taken == pytest.approx(0.3, abs=0.1)


def test_nothing_listening_is_said_at_once():
    with pytest.raises(
        LoadError, match=r"nothing answers at http://127.0.0.1:9/x\n.*connection refused"
    ):
        quick(9)


def test_a_run_in_the_background_reports_and_stops(hello):
    run = quick(hello, constant(rate=50), duration_s=60, wait=False)
    assert isinstance(run, LoadRun)
    while run.progress.elapsed_s < 0.3:
        assert not run.wait(0.02)
    assert "60 s" in repr(run)
    with pytest.raises(TimeoutError):
        run.result(timeout=0.01)
    result = run.stop()
    assert result.interrupted
    assert 0.3 < result.duration_s < 30
    assert len(result) == pytest.approx(50 * result.duration_s, abs=2)
    assert run.done
    assert repr(run).endswith("done>")
    assert run.stop() is run.result() is result


def test_an_interrupt_ends_a_blocking_test_and_keeps_its_records(serve, read_request):
    answered = []

    async def interrupts(reader, writer):
        while True:
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            answered.append(1)
            if len(answered) == 20:
                signal.raise_signal(signal.SIGINT)

    result = quick(serve(interrupts), constant(rate=50), duration_s=60)
    assert result.interrupted
    assert len(result) > 5
    assert result is last_result()


def test_the_progress_bar_says_how_far_it_is(hello, capsys):
    quick(hello, progress=True, duration_s=1.0)
    shown = capsys.readouterr().err
    assert "/1 s" in shown
    assert "ok, " in shown


def children():
    return [c for c in psutil.Process().children() if "mlkit.load.worker" in " ".join(c.cmdline())]


def test_no_process_is_left_after_a_run(hello):
    quick(hello)
    assert children() == []


def test_the_rate_of_a_steered_run_is_changed_while_it_runs(hello):
    run = quick(hello, steered(rate=20, shape="constant"), duration_s=60, wait=False)
    while run.progress.elapsed_s < 1.0:
        assert not run.wait(0.02)
    run.rate = 200
    while run.progress.elapsed_s < 2.5:
        assert not run.wait(0.02)
    result = run.stop()
    gaps = np.diff(np.sort(result.columns["intended"]))
    assert gaps[:10] == pytest.approx(1 / 20, rel=0.01)
    assert gaps[-50:] == pytest.approx(1 / 200, rel=0.01)
    assert result.asked_rate == pytest.approx(len(result) / result.duration_s)
    assert arrivals_from_dict(result.arrivals.to_dict()) == result.arrivals
    assert np.array_equal(result.schedule().times(60), result.columns["intended"])
    assert result.plot() is not None
    with pytest.raises(LoadError, match="invalid rate"):
        run.rate = -1


def test_the_rate_of_other_arrivals_is_fixed(hello):
    run = quick(hello, constant(rate=20), duration_s=60, wait=False)
    with pytest.raises(LoadError, match="fixed"):
        run.rate = 5
    assert run.rate == 20
    run.kill()


def test_a_closed_loop_has_no_rate(hello):
    run = quick(hello, closed(concurrency=1), duration_s=60, wait=False)
    assert run.rate is None
    run.kill()


@pytest.mark.parametrize(
    "wrong", [{"rate": 0}, {"rate": 5, "shape": "even"}, {"rate": 5, "seed": -1}]
)
def test_a_steered_rate_that_cannot_be(wrong):
    with pytest.raises(LoadError):
        steered(**wrong)


def test_a_worker_that_is_killed_is_an_error_not_a_hang(hello):
    run = quick(hello, duration_s=60, wait=False)
    while run.progress.sent == 0:
        time.sleep(0.02)
    run.kill()
    with pytest.raises(LoadError, match="could not be run"):
        run.result(timeout=5)


def test_the_worker_dies_with_its_parent(hello):
    code = (
        "import os, sys; from mlkit.load import *; "
        f"run = load_test('http://127.0.0.1:{hello}/', [b'x'], constant(rate=5), "
        "duration_s=60, wait=False); "
        "print(run._worker.pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    )
    with parent:
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    worker.wait(timeout=5)


def test_the_worker_imports_nothing_heavy_and_nothing_from_the_working_folder(tmp_path):
    (tmp_path / "select.py").write_text("raise SystemExit('the wrong select')")
    heavy = ["numpy", "pandas", "ray", "torch", "matplotlib", "IPython"]
    code = f"import mlkit.load.worker, sys; print([m for m in {heavy!r} if m in sys.modules])"
    from mlkit.load.process import _environment

    out = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env=_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"duration_s": 0}, "duration_s"),
        ({"duration_s": float("inf")}, "duration_s"),
        ({"duration_s": None}, "no duration"),
        ({"warmup_s": -1}, "warmup_s"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"slo_ms": -5}, "slo_ms"),
        ({"seed": -1}, "seed"),
        ({"arrivals": 50}, "an arrival process"),
        ({"payloads": []}, "no payload"),
    ],
)
def test_arguments_are_checked_before_anything_starts(options, words):
    with pytest.raises(LoadError, match=words):
        quick(1, **options)


def test_one_test_asks_one_server():
    payloads = [HttpRequest(url="http://a/"), HttpRequest(url="http://b/")]
    with pytest.raises(LoadError, match="one target server"):
        quick(1, payloads=payloads)


def test_no_password_is_shown(hello):
    result = load_test(
        f"http://user:secret@127.0.0.1:{hello}/x?token=secret",
        [b"x"],
        constant(rate=20),
        duration_s=0.2,
        warmup_s=0,
        progress=False,
    )
    assert result.target == f"http://127.0.0.1:{hello}/x"
    assert "secret" not in repr(result) + result._repr_html_()
