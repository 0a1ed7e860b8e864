"""``mlkit load``: what it sends, what it prints, and its exit codes."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from mlkit import cli
from mlkit.load import LoadResult, closed, constant, poisson
from mlkit.load.records import ClientCost

URL = "http://127.0.0.1:9/x"


def made(latency_ms=5.0, count=1000, *, error="", late_s=0.0, **fields):
    """A result without a server, of requests that all took as long."""
    times = np.arange(count) / 100
    columns = {
        "intended": times,
        "sent": times + late_s,
        "first_byte": times + latency_ms / 1e3,
        "finished": times + latency_ms / 1e3,
        "status": np.full(count, 200),
        "bytes": np.full(count, 2),
        "payload": np.zeros(count, int),
        "error": np.full(count, error, dtype="U20"),
        "server_timing": np.full(count, "", dtype=np.str_),
    }
    plain = {
        "arrivals": constant(rate=100),
        "target": URL,
        "duration_s": count / 100,
        "warmup_s": 1.0,
        "timeout_s": 30.0,
        "slo_ms": None,
        "seed": 0,
        "payloads": 1,
        "started": 1.75e9,
        "interrupted": False,
        "carried": 0,
        "client": ClientCost(0.2, 10, 3, 4),
        "failures": (),
    }
    return LoadResult(**{**plain, **fields}, columns=columns)


@pytest.fixture
def asked(monkeypatch):
    """What `load_test` was called with; it returns ``asked.result``."""
    calls = SimpleNamespace(result=made(), payloads=None, arrivals=None, options=None)

    def load_test(url, payloads, arrivals, **options):
        calls.payloads, calls.arrivals, calls.options = payloads, arrivals, options
        return calls.result

    monkeypatch.setattr(sys.modules["mlkit.load"], "load_test", load_test)
    return calls


def exit_code(*arguments):
    try:
        return cli.main(["load", *arguments])
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize(
    ("result", "limit", "code"),
    [
        (made(), ["--slo-p99-ms", "100"], 0),
        (made(), ["--slo-p99-ms", "4"], 1),
        (made(), ["--slo-p50-ms", "100", "--slo-p99-9-ms", "100"], 3),
        (made(count=100), ["--slo-p99-ms", "100"], 3),
        (made(late_s=0.1), ["--slo-p99-ms", "100"], 3),
        (made(error="timeout"), ["--slo-p99-ms", "100"], 1),
        (made(), [], 0),
        (made(late_s=0.1), [], 3),
        (made(interrupted=True), [], 3),
        (made(error="http 503"), [], 1),
    ],
)
def test_the_exit_code_says_what_became_of_the_objective(asked, result, limit, code):
    asked.result = result
    assert exit_code(URL, "--rate", "100", *limit) == code


def test_the_verdict_is_printed_with_its_reason(asked, capsys):
    exit_code(URL, "--rate", "100", "--slo-p99-ms", "100")
    assert "p99 under 100 ms: met: p99 ≤ 5 ms" in capsys.readouterr().out
    exit_code(URL, "--rate", "100", "--slo-p99-ms", "100", "--json")
    figures = json.loads(capsys.readouterr().out)
    assert (figures["outcome"], figures["p99_ms"]) == ("met", pytest.approx(5))


def test_without_an_objective_nothing_is_said_of_one(asked, capsys):
    exit_code(URL, "--rate", "100")
    assert capsys.readouterr().out == f"{asked.result}\n"


def test_json_has_no_infinities(asked, capsys):
    asked.result = made(error="timeout")
    exit_code(URL, "--rate", "100", "--json")
    assert json.loads(capsys.readouterr().out)["p99_ms"] == "inf"


def test_the_load_is_as_asked(asked):
    exit_code(URL, "--rate", "50", "--duration", "20", "--seed", "4", "--slo-p99-ms", "150")
    assert asked.arrivals == poisson(rate=50, seed=4)
    assert (asked.options["duration_s"], asked.options["slo_ms"]) == (20, 150)
    exit_code(URL, "--rate", "50", "--constant")
    assert asked.arrivals == constant(rate=50)
    exit_code(URL, "--clients", "8")
    assert asked.arrivals == closed(concurrency=8)


def test_without_a_payload_it_is_a_get(asked):
    exit_code(URL, "--rate", "1")
    (request,) = asked.payloads
    assert (request.method, request.url, request.body) == ("GET", URL, b"")


def test_payloads_are_json_lines_and_files(asked, tmp_path, monkeypatch):
    (tmp_path / "lines.jsonl").write_text('{"y": 2}\n\n[3]\n')
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"\xff\xd8\xff...")
    (tmp_path / "photos" / "b.bin").write_bytes(b"...")
    monkeypatch.setenv("SECRET", "t0ken")
    arguments = ["--data", '{"x": 1}', "--lines", str(tmp_path / "lines.jsonl")]
    arguments += ["--file", str(tmp_path / "photos"), "--method", "put"]
    arguments += ["--header", "X-Kind: test", "--token-env", "SECRET"]
    assert exit_code(URL, "--rate", "1", *arguments) == 0
    bodies = [request.body for request in asked.payloads]
    assert bodies == [b'{"x": 1}', b'{"y": 2}', b"[3]", b"\xff\xd8\xff...", b"..."]
    assert {request.method for request in asked.payloads} == {"PUT"}
    assert [r.headers["Content-Type"] for r in asked.payloads[2:4]] == [
        "application/json",
        "image/jpeg",
    ]
    assert all(r.headers["X-Kind"] == "test" for r in asked.payloads)
    assert all(r.headers["Authorization"] == "Bearer t0ken" for r in asked.payloads)


def test_records_are_saved(asked, tmp_path):
    assert exit_code(URL, "--rate", "1", "--save", str(tmp_path / "run.npz")) == 0
    assert len(LoadResult.load(tmp_path / "run.npz")) == 1000


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--rate", "0"],
        ["--rate", "-5"],
        ["--rate", "fast"],
        ["--rate", "inf"],
        ["--clients", "0"],
        ["--rate", "5", "--clients", "5"],
        ["--rate", "5", "--duration", "0"],
        ["--rate", "5", "--slo-p99-ms", "-1"],
        ["--rate", "5", "--data", "{x}"],
        ["--rate", "5", "--file", "not-there.jpg"],
        ["--rate", "5", "--lines", "not-there.jsonl"],
        ["--rate", "5", "--header", "no colon"],
        ["--rate", "5", "--token-env", "NOT_SET_AT_ALL"],
        ["--rate", "5", "--seed", "-1"],
        ["--rate", "5", "--slo-p50-ms", "100", "--slo-p99-ms", "50"],
    ],
)
def test_options_that_cannot_be_are_usage_errors(arguments, capsys):
    assert exit_code(URL, *arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        (URL, 1, "nothing answers"),
        ("tag", 2, "is not a URL"),
        ("http://", 1, "only http and https"),
    ],
)
def test_a_url_that_cannot_be_tested_is_told(url, code, words, capsys):
    assert exit_code(url, "--rate", "5", "--duration", "0.2") == code
    assert words in capsys.readouterr().err


def test_the_exit_codes_are_in_the_help(capsys):
    assert exit_code("--help") == 0
    shown = capsys.readouterr().out
    assert "3 if it is undecided" in " ".join(shown.split())
