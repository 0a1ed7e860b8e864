"""`capacity`, `sweep` and `assert_budget`, on real servers and on results made by hand."""

import asyncio
import math
import sys

import numpy as np
import pytest

from mlkit.errors import BudgetError, LoadError
from mlkit.load import SLO, assert_budget, capacity, closed, constant, poisson, sweep
from mlkit.load.capacity import Capacity
from mlkit.load.search import Probe, RateTrial
from mlkit.load.slo import Verdict

MODULE = sys.modules["mlkit.load.capacity"]  # the function has the name of its module
QUICK = {"probe_s": 0.3, "max_run_s": 0.5, "verify": 0, "warmup_s": 0.0, "progress": False}


def test_each_run_has_another_schedule_and_the_line_says_which_it_is(hello, capsys):
    payloads = (payload for payload in [b"a", b"b"])  # an iterator serves all runs
    options = {**QUICK, "start_rate": 40, "min_rate": 40, "max_rate": 40, "progress": True}
    found = capacity(f"http://127.0.0.1:{hello}/x", payloads, SLO(p50_ms=5000), **options)
    assert (found.target, found.saturated) == (f"http://127.0.0.1:{hello}/x", None)
    frame = found.to_frame()
    assert frame.phase.tolist()[0] == "bracket"
    assert "certify" in frame.phase.tolist()
    assert set(frame.rate) == {40.0}
    assert (frame.goodput > 0).all()
    schedules = [tuple(trial.measured.columns["intended"]) for trial in found.trials]
    assert len(set(schedules)) == len(schedules)
    assert "certify 40/s" in capsys.readouterr().err


def test_without_a_first_rate_a_closed_loop_estimates_it(hello, monkeypatch):
    monkeypatch.setattr(MODULE, "PILOT_S", 0.3)
    options = {**QUICK, "min_rate": 20, "max_rate": 20}
    found = capacity(f"http://127.0.0.1:{hello}/", [None], SLO(p50_ms=5000), **options)
    assert found.saturated.arrivals == closed(concurrency=16)
    assert found.trials[0].probe.rate == 20


def test_a_dead_url_is_said_at_once():
    with pytest.raises(LoadError, match=r"nothing answers at http://127\.0\.0\.1:9/x"):
        capacity("http://127.0.0.1:9/x", [b""], SLO(p99_ms=100), **QUICK)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "16 × timeout"),
        (b"HTTP/1.1 503 No\r\nContent-Length: 4\r\n\r\nfull", "http 503: full"),
    ],
)
def test_a_server_without_a_single_success_is_an_error(
    serve, read_request, monkeypatch, answer, words
):
    async def refuses(reader, writer):
        while True:
            await read_request(reader)
            if not answer:
                await asyncio.sleep(30)
            writer.write(answer)

    monkeypatch.setattr(MODULE, "PILOT_S", 0.2)
    url, options = f"http://127.0.0.1:{serve(refuses)}/", {**QUICK, "timeout_s": 0.5}
    with pytest.raises(LoadError, match="no request succeeds") as caught:
        capacity(url, [b""], SLO(p99_ms=100), **options)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"slo": 150}, "needs an objective"),
        ({"start_rate": 0}, "invalid start_rate"),
        ({"start_rate": -5}, "invalid start_rate"),
        ({"max_rate": math.inf}, "invalid max_rate"),
        ({"min_rate": 9, "max_rate": 5}, "min_rate is above max_rate"),
        ({"precision": 0}, "invalid precision"),
        ({"probe_s": -1}, "invalid probe_s"),
        ({"max_run_s": "long"}, "invalid max_run_s"),
        ({"verify": 1.5}, "invalid verify"),
        ({"payloads": []}, "no payload"),
    ],
)
def test_arguments_are_checked_before_anything_starts(options, words):
    arguments = {"payloads": [b""], "slo": SLO(p99_ms=100), **options}
    with pytest.raises(LoadError, match=words):
        capacity("http://127.0.0.1:9/", **arguments)


# ---- sweep ----------------------------------------------------------------------------------


class Target:
    """As an app: requests for a URL, and options that are remembered."""

    name = "tag"

    def __init__(self, port, broken_at=None):
        self.url, self.scaled, self.broken_at = f"http://127.0.0.1:{port}/", [], broken_at

    def prepare(self, payload):
        from mlkit.load.requests import HttpRequest

        return HttpRequest(url=self.url, body=payload)

    def scale(self, name, **options):
        if self.broken_at in options.values():
            raise KeyboardInterrupt
        self.scaled.append((name, options))


def test_a_sweep_scales_and_measures_value_by_value(hello):
    target = Target(hello)
    options = {"duration_s": 0.3, "warmup_s": 0, "progress": False}
    found = sweep(
        target, [b"x"], closed(concurrency=2), knob="num_replicas", values=[1, 2], **options
    )
    assert target.scaled == [("tag", {"num_replicas": 1}), ("tag", {"num_replicas": 2})]
    frame = found.to_frame()
    assert (frame.index.name, frame.index.tolist()) == ("num_replicas", [1, 2])
    assert (frame.ok_rate > 0).all()
    assert "Sweep of num_replicas" in repr(found)
    sweep(
        target,
        [b"x"],
        closed(concurrency=2),
        knob="max_batch_size",
        values=[4],
        of="look",
        **options,
    )
    assert target.scaled[-1] == ("look", {"max_batch_size": 4})


def test_an_interrupted_sweep_keeps_its_results(hello):
    options = {"duration_s": 0.3, "warmup_s": 0, "progress": False, "knob": "num_replicas"}
    found = sweep(
        Target(hello, broken_at=2), [b"x"], constant(rate=20), values=[1, 2, 3], **options
    )
    assert found.interrupted
    assert list(found.results) == [1]


def test_a_knob_of_any_server_is_a_function(hello):
    seen = []
    url, options = f"http://127.0.0.1:{hello}/", {"duration_s": 0.2, "progress": False}
    found = sweep(url, [b"x"], constant(rate=20), knob=seen.append, values=["a", "b"], **options)
    assert seen == list(found.results) == ["a", "b"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"values": []}, "different values"),
        ({"values": [1, 1]}, "different values"),
        ({"values": [1], "knob": "num_replicas"}, "no options to change"),
        ({"values": [1], "payloads": []}, "no payload"),
    ],
)
def test_sweeps_that_cannot_be(options, words):
    arguments = {"payloads": [b""], "knob": print, **options}
    with pytest.raises(LoadError, match=words):
        sweep("http://127.0.0.1:9/", arguments.pop("payloads"), poisson(rate=5), **arguments)


# ---- budgets --------------------------------------------------------------------------------


def test_a_budget_that_holds_reads_the_same_in_every_run(make_result):
    for latency_ms in (5.0, 6.0):
        result = make_result([latency_ms] * 1000, duration_s=10)
        budget = assert_budget(result, SLO(p99_ms=100), rate=50, failed=0.01)
        assert repr(budget) == "PASS: p99 under 100 ms, at least 50/s, at most 0.01 failed"


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({"slo": SLO(p99_ms=4)}, "expected p99 under 4 ms, got p99 ≥ 5 ms"),
        ({"rate": 200}, "expected at least 200/s, got 100/s"),
        ({"failed": 0.01}, "expected at most 0.01 failed, got 50 of 1,000 failed"),
    ],
)
def test_a_budget_that_is_exceeded_fails_the_test(make_result, budget, words):
    errors = dict.fromkeys(range(0, 1000, 20), "http 503") if "failed" in budget else ()
    result = make_result([5.0] * 1000, errors=errors, duration_s=10)
    with pytest.raises(AssertionError) as caught:
        assert_budget(result, **budget)
    assert isinstance(caught.value, BudgetError)
    assert words in str(caught.value)
    assert "exceeded" in str(caught.value)


def test_an_undecided_budget_is_no_pass_unless_that_is_allowed(make_result):
    short = make_result([5.0] * 50)
    with pytest.raises(BudgetError, match=r"undecided\n.*\n.*measure for longer"):
        assert_budget(short, SLO(p99_ms=100))
    budget = assert_budget(short, SLO(p99_ms=100), allow_undecided=True)
    assert repr(budget) == "UNDECIDED: p99 under 100 ms"
    void = make_result([5.0] * 1000, late_ms=9)
    for budget in ({"slo": SLO(p99_ms=100)}, {"rate": 1}, {"failed": 0.5}):
        assert assert_budget(void, **budget, allow_undecided=True).state == "UNDECIDED"


def test_the_slo_of_a_load_test_is_its_budget(make_result):
    assert assert_budget(make_result([5.0] * 1000, slo_ms=50)).state == "PASS"


@pytest.mark.parametrize("budget", [{}, {"rate": 0}, {"failed": 2}])
def test_budgets_that_cannot_be(make_result, budget):
    with pytest.raises(LoadError):
        assert_budget(make_result([5.0] * 1000), **budget)
    with pytest.raises(LoadError, match="only a load test"):
        assert_budget(5, SLO(p99_ms=5))


@pytest.fixture
def found(make_result):
    """A capacity of 40/s, with runs at 20 (looks), 40 (certified, verified) and 80 (missed)."""
    slo = SLO(p99_ms=100)

    def trial(rate, phase, latency_ms):
        result = make_result([latency_ms] * 1000, duration_s=1000 / rate)
        return RateTrial(Probe(rate, 1000 / rate, phase), result, result.verdict(slo))

    trials = (
        trial(20.0, "bracket", 10.0),
        trial(80.0, "certify", 300.0),
        trial(40.0, "certify", 20.0),
        trial(40.0, "verify", 20.0),
    )
    return Capacity(
        target="http://127.0.0.1:8000/tag",
        slo=slo,
        trials=trials,
        saturated=None,
        verify=1,
        reason="",
    )


@pytest.mark.parametrize(("rate", "state"), [(40, "PASS"), (60, "UNDECIDED"), (80, "FAIL")])
def test_the_budget_of_a_capacity_is_a_rate(found, rate, state):
    if state == "PASS":
        assert repr(assert_budget(found, rate=rate)) == "PASS: 40/s at p99 under 100 ms"
    else:
        with pytest.raises(BudgetError, match="40/s met it, 80/s missed it"):
            assert_budget(found, rate=rate)
    with pytest.raises(LoadError, match="is a rate"):
        assert_budget(found, SLO(p99_ms=5))


def test_a_capacity_says_what_was_found(found):
    assert repr(found) == (
        "<Capacity of http://127.0.0.1:8000/tag: 40/s meet p99 under 100 ms; with 99% confidence, "
        "verified by 1 run; 80/s missed: p99 ≥ 300 ms; 4 runs>"
    )
    card = found._repr_html_()
    for words in ("40/s meet p99 under 100 ms", "bracket", "1,000", "▲", "missed"):
        assert words in card
    assert found.to_frame().verdict.tolist() == ["met", "missed", "met", "met"]


def test_a_rate_that_failed_its_verification_is_not_the_capacity(found):
    from dataclasses import replace

    *rest, verified = found.trials
    missed = Verdict("missed", verified.verdict.judged, "")
    again = replace(found, trials=(*rest, replace(verified, verdict=missed)))
    assert (again.rate, again.outcome) == (None, "undecided")
    assert replace(found, trials=tuple(rest)).rate is None
    assert np.isfinite(found.rate)
