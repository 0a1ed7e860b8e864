import json
import math

import numpy as np
import pytest

from mlkit.errors import LoadError
from mlkit.load import SLO, LoadResult, assert_budget, closed, constant, poisson, ramp
from mlkit.load.records import ClientCost, FailureSample


def test_records_are_the_raw_rows(make_result):
    result = make_result([10.0, 20.0], errors={1: "reset"}, duration_s=1.0)
    first, second = result.records
    assert (first.intended, first.payload, first.error) == (0.0, 0, None)
    assert first.latency_ms == pytest.approx(10.0)
    assert (second.error, second.latency_ms) == ("reset", math.inf)


def test_percentiles_are_exact_and_count_failures_as_never(make_result):
    latencies = list(range(1, 1001))
    result = make_result(latencies, errors=dict.fromkeys(range(5), "http 503"))
    # The five failures move to the end: p99 is the 990th of the rest, which start at 6.
    assert result.percentiles["p99"].value_ms == pytest.approx(995)
    assert result.percentiles["p99_9"].value_ms == math.inf
    assert result.summary()["max_ms"] == math.inf


def test_percentiles_say_whether_the_requests_suffice(make_result):
    certified = lambda count: make_result([5.0] * count).summary()["certified"]  # noqa: E731
    assert certified(6) == []
    assert certified(458) == ["p50", "p95"]
    assert certified(459) == ["p50", "p95", "p99"]
    assert certified(4603) == ["p50", "p95", "p99", "p99_9"]


@pytest.mark.parametrize(
    ("over", "count", "verdict"),
    [
        (0, 459, "met"),
        (0, 458, "undecided"),
        (9, 662, "undecided"),  # p99 is over the objective, but may be so by chance
        (16, 662, "missed"),
    ],
)
def test_an_slo_is_met_or_missed_only_with_evidence(make_result, over, count, verdict):
    latencies = np.full(count, 5.0)
    latencies[np.random.default_rng(4).permutation(count)[:over]] = 500.0
    assert make_result(latencies, slo_ms=100).slo_verdict == verdict


def test_a_burst_of_slow_requests_is_one_piece_of_evidence(make_result):
    burst = [500.0] * 20 + [5.0] * 480
    assert make_result(burst, slo_ms=100).slo_verdict == "undecided"
    spread = ([500.0] + [5.0] * 24) * 20
    assert make_result(spread, slo_ms=100).slo_verdict == "missed"


def test_a_refused_request_is_over_the_slo_however_fast_it_was_refused(make_result):
    result = make_result(
        [1.0] * 500, errors=dict.fromkeys(range(0, 500, 25), "http 503"), slo_ms=100
    )
    assert (result.over_slo, result.slo_verdict) == (20, "missed")


def test_a_verdict_says_why(make_result):
    result = make_result([5.0] * 500)
    assert str(result.verdict(SLO(p99_ms=10))) == "met: p99 ≤ 5 ms"
    assert str(result.verdict(SLO(p99_ms=4))) == "missed: p99 ≥ 5 ms"
    verdict = result.verdict(SLO(p50_ms=10, p99_9_ms=100))
    assert str(verdict) == (
        "undecided: p99.9 ≥ 5 ms, no upper bound (worth 500 independent requests of 4,603)"
    )
    assert result.verdict(SLO(p50_ms=4, p99_9_ms=100)).outcome == "missed"
    with pytest.raises(LoadError, match="no objective"):
        result.verdict()


def test_a_percentile_is_certified_only_if_its_share_of_requests_left_on_time(make_result):
    result = make_result([20.0] * 5000)
    late = result.columns["sent"].copy()
    late[::500] += 0.015  # 2 in 1,000, which p99 of the lateness does not see
    result.columns["sent"] = late
    assert not result.void
    assert result.summary()["certified"] == ["p50", "p95", "p99"]
    assert result.percentiles["p99_9"].late
    assert "sent late" in result._repr_html_()
    assert "left late" in result.verdict(SLO(p99_9_ms=100)).reason


def test_a_ramp_that_was_stopped_early_is_held_against_the_start_of_its_schedule(make_result):
    arrivals = ramp(start=10, end=1000)
    times = arrivals.times(20.0)
    count = int((times < 5.0).sum())
    fields = {"arrivals": arrivals, "duration_s": 5.0, "interrupted": True, "planned_s": 20.0}
    result = make_result([5.0] * count, **fields)
    assert result.asked_rate == count / 5
    assert not result.void
    assert np.array_equal(result.asked_s, times[:count])


def test_what_a_stopped_run_had_planned_is_saved(make_result, tmp_path):
    result = make_result([5.0] * 9, planned_s=60.0, interrupted=True)
    again = LoadResult.load(result.save(tmp_path / "run.load"))
    assert again.planned_s == 60.0


@pytest.mark.parametrize(
    ("late_ms", "slo_ms", "void"),
    [(0.9, None, False), (1.2, None, True), (1.2, 10, True), (1.2, 30, False), (8, 150, True)],
)
def test_late_sends_void_a_run_beyond_1_ms_or_5_percent_of_the_slo(
    make_result, late_ms, slo_ms, void
):
    result = make_result([20.0] * 500, late_ms=late_ms, slo_ms=slo_ms)
    assert bool(result.void) is void


def test_a_void_run_proves_no_slo(make_result):
    verdict = make_result([5.0] * 500, late_ms=9, slo_ms=100).verdict()
    assert verdict.outcome == "undecided"
    assert verdict.reason.startswith("void: requests left late")


def test_the_objective_that_is_judged_says_how_late_requests_may_leave(make_result):
    result = make_result([20.0] * 500, late_ms=8, slo_ms=100)
    assert result.void
    assert result.verdict(SLO(p95_ms=200)).outcome == "met"
    assert result.verdict(SLO(p95_ms=100)).outcome == "undecided"
    assert result.verdict(SLO(p50_ms=100, p95_ms=200)).outcome == "undecided"
    assert assert_budget(result, SLO(p95_ms=200), failed=0.05).state == "PASS"
    assert assert_budget(result, failed=0.05, allow_undecided=True).state == "UNDECIDED"


def test_sending_less_than_99_percent_of_what_was_asked_voids_a_run(make_result):
    result = make_result([5.0] * 98, arrivals=constant(rate=10), duration_s=10.0)
    assert result.void == ("sent 9.8/s of the requested 10.0/s",)
    assert not make_result([5.0] * 99, arrivals=constant(rate=10), duration_s=10.0).void


def test_a_poisson_run_is_held_against_its_own_schedule_not_the_mean(make_result):
    arrivals = poisson(rate=10, seed=3)
    count = len(arrivals.times(10.0))
    result = make_result([5.0] * count, arrivals=arrivals, duration_s=10.0)
    assert result.asked_rate == count / 10 != 10
    assert not result.void


def test_limits_of_the_client_void_a_run(make_result):
    crowded = ClientCost(0.1, 10, 2000, 2000, unsent=7)
    assert make_result([5.0] * 9, client=crowded).void == (
        "7 requests not sent: 2,000 were in flight",
    )
    short = ClientCost(0.1, 10, 900, 900, short_of="Too many open files")
    assert "Too many open files" in make_result([5.0] * 9, client=short).void[0]


def test_a_closed_loop_is_void_when_the_client_is_what_was_busy(make_result):
    busy, idle = ClientCost(9.5, 10, 16, 16), ClientCost(2, 10, 16, 16)
    run = lambda client: make_result([5.0] * 9, arrivals=closed(concurrency=16), client=client)  # noqa: E731
    assert "it is the limit here" in run(busy).void[0]
    assert run(idle).void == ()


def test_throughput_counts_good_answers_within_the_time(make_result):
    # The last of ten comes after the end, one fails, and two of the warm-up came after the start.
    latencies = [10.0] * 9 + [5000.0]
    result = make_result(latencies, errors={0: "reset"}, duration_s=10.0, carried=2)
    assert result.ok_rate == pytest.approx((8 + 2) / 10)


def test_the_frame_has_units_in_its_columns(make_result):
    frame = make_result([10.0, 20.0], errors={1: "timeout"}).to_frame()
    assert list(frame.latency_ms) == [pytest.approx(10), math.inf]
    assert frame.error.fillna("none").tolist() == ["none", "timeout"]
    assert {"intended_s", "sent_s", "lateness_ms", "status", "bytes", "payload"} <= set(frame)


def test_phases_become_columns_of_the_frame(make_result):
    result = make_result([10.0, 20.0, 5.0])
    timings = np.array(["queue;dur=1.5, compute;dur=4", "", "compute;dur=2"])
    result.columns["server_timing"] = timings
    frame = result.to_frame()
    assert frame.compute_ms.fillna(-1).tolist() == [4, -1, 2]
    assert frame.queue_ms.fillna(-1).tolist() == [1.5, -1, -1]


def test_the_summary_is_json(make_result):
    result = make_result([10.0] * 500, errors={3: "http 503"}, slo_ms=50)
    again = json.loads(json.dumps(result.summary()))
    assert again["errors"] == {"http 503": 1}
    assert again["arrivals"] == {"kind": "constant", "rate": 50.0}
    assert again["p99_9_at_most_ms"] is None


def test_nothing_measured_is_no_error(make_result):
    result = make_result([])
    assert result.summary()["requests"] == 0
    assert math.isnan(result.percentiles["p99"].value_ms)
    assert result.records == []
    assert "0 requests" in repr(result)


def test_what_is_saved_is_loaded(make_result, tmp_path):
    result = make_result(
        [10.0, math.nan, 20.0],
        errors={1: "timeout"},
        arrivals=poisson(rate=0.3, seed=4),
        slo_ms=150.0,
        failures=(FailureSample("timeout", 1, "näher"),),
    )
    path = result.save(tmp_path / "run.load")
    again = LoadResult.load(path)
    assert path == tmp_path / "run.load"
    assert again.summary() == result.summary()
    assert again.failures == result.failures
    for name, column in result.columns.items():
        assert np.array_equal(again.columns[name], column, equal_nan=column.dtype.kind == "f")


def test_a_file_with_something_else_says_so(tmp_path):
    (tmp_path / "other.txt").write_text("hello")
    np.savez(tmp_path / "arrays.npz", a=np.ones(2))
    for name in ("other.txt", "arrays.npz"):
        with pytest.raises(LoadError, match="not contain a load test"):
            LoadResult.load(tmp_path / name)


def test_loading_never_unpickles(tmp_path):
    np.savez(tmp_path / "evil.npz", head=np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(LoadError):
        LoadResult.load(tmp_path / "evil.npz")
