"""Load tests of any length: bounded logs on virtual time, merged intervals, and whole runs."""

import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlkit.errors import LoadError
from mlkit.load import closed, poisson, ramp, soak
from mlkit.load.generator import OpenLoop
from mlkit.load.sampledlog import SampledLog
from mlkit.load.soak import Intervals, SoakInterval, merged
from mlkit.metrics.histogram import Histogram


@pytest.fixture
def sampled_run(simulation):
    """``sampled_run(times, takes, keep=..., ...)``: its log, and the intervals it sent."""

    def run(times, takes, *, keep=50, interval_s=10.0, **limits):
        figures = []
        log = SampledLog(keep, interval_s, 0, figures.append)

        def loop(argument, *args, **kwargs):
            return OpenLoop(argument, *args, log=log, **kwargs)

        finished = simulation(loop, times, takes, **limits)
        finished.generator.start()
        finished.clock.run()
        log.end(finished.generator.now())
        intervals = Intervals()
        for one in figures:
            intervals.add(one)
        return log, intervals.get()

    return run


EVERY_10_MS = [k / 100 for k in range(6000)]


def test_all_requests_are_counted_and_a_sample_of_them_kept(sampled_run):
    log, intervals = sampled_run(EVERY_10_MS, lambda now: 0.005 if now < 30 else 0.020)
    assert sum(one.ok for one in intervals) == log.opened == 6000
    assert [one.start_s for one in intervals] == [0, 10, 20, 30, 40, 50, 60][: len(intervals)]
    assert intervals[1].percentile_ms(0.99) == pytest.approx(5, rel=0.01)
    assert intervals[4].percentile_ms(0.01) == pytest.approx(20, rel=0.01)
    assert log.report().facts["rows"] == 50


def test_memory_does_not_grow_with_the_run(sampled_run):
    def size(count):
        log, _ = sampled_run((k / 100 for k in range(count)), lambda now: 0.05, keep=20)
        return sum(map(len, log.report().rows)), len(log._sent)

    assert size(1000) == size(4000)


def test_the_sample_is_uniform(sampled_run):
    log, _ = sampled_run(EVERY_10_MS, lambda now: 0.005, keep=600)
    slots = np.frombuffer(log.report().rows[0], np.int64)
    assert len(set(slots.tolist())) == 600
    counts = np.histogram(slots, bins=6, range=(0, 6000))[0]
    assert (np.abs(counts - 100) < 4 * np.sqrt(100)).all()


def test_a_row_that_is_used_again_has_nothing_of_the_one_before(sampled_run):
    log, _ = sampled_run(EVERY_10_MS, lambda now: "reset" if now < 5 else 0.005, keep=10)
    report = log.report()
    failed = {int(row) for row in report.facts["errors"]}
    slots = np.frombuffer(report.rows[0], np.int64)
    assert failed == {row for row, slot in enumerate(slots) if slot < 500}


def test_failures_count_by_kind_and_never_end(sampled_run):
    log, intervals = sampled_run(
        EVERY_10_MS, lambda now: "refused" if now < 1 else math.inf, timeout_s=0.5, max_in_flight=20
    )
    total = merged(intervals)
    assert total.ok == 0
    assert total.failed == log.failed == 6000
    assert set(total.errors) == {"refused", "timeout", "unsent"}
    assert total.percentile_ms(0.5) == math.inf
    assert len(log.report().facts["samples"]["timeout"]) == 5


def test_the_warm_up_is_not_counted(sampled_run):
    log, intervals = sampled_run([-0.5, -0.1, 0.2], lambda now: 0.3, warmup_s=1.0)
    assert merged(intervals).ok == 1
    assert log.opened == 3


def interval(start_s, latencies_s, errors=()):
    return {
        "start_s": float(start_s),
        "end_s": start_s + 1.0,
        "errors": dict(errors),
        "latency": Histogram.of(latencies_s).encode(),
        "lateness": Histogram.of([0.001]).encode(),
    }


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.floats(1e-4, 10), max_size=20), min_size=1, max_size=20))
def test_intervals_stay_few_and_lose_nothing(groups):
    few, all_of_them = Intervals(most=4), Intervals(most=100)
    for number, group in enumerate(groups):
        for intervals in (few, all_of_them):
            intervals.add(interval(number, group, {"timeout": 1}))
    assert len(few.get()) <= 4
    one, other = merged(few.get()), merged(all_of_them.get())
    assert (one.start_s, one.end_s) == (other.start_s, other.end_s) == (0, len(groups))
    assert one.errors == other.errors == {"timeout": len(groups)}
    assert one.latency.encode() == other.latency.encode()
    bounds = [(each.start_s, each.end_s) for each in few.get()]
    assert all(a[1] == b[0] for a, b in itertools.pairwise(bounds))


@settings(deadline=None)
@given(
    st.lists(st.floats(1e-3, 100), min_size=1, max_size=200),
    st.integers(0, 20),
    st.floats(0.01, 0.999),
)
def test_a_percentile_is_accurate_to_one_per_cent(latencies_s, failed, share):
    one = SoakInterval(0, 1, {"timeout": failed}, Histogram.of(latencies_s), Histogram())
    ordered = [*sorted(latencies_s), *[math.inf] * failed]
    exact = ordered[max(1, math.ceil(share * len(ordered) - 1e-9)) - 1] * 1e3
    assert one.percentile_ms(share) == pytest.approx(exact, rel=0.011)


def test_an_empty_interval_has_no_percentile():
    assert math.isnan(merged([]).percentile_ms(0.5))


# Whole runs


def short(port, arrivals, **options):
    arguments = {"warmup_s": 0.1, "progress": False, "interval_s": 0.3, **options}
    return soak(f"http://127.0.0.1:{port}/x", [b"a", b"b"], arrivals, **arguments)


def test_a_soak_has_the_figures_of_all_and_records_of_some(hello, tmp_path):
    result = short(hello, poisson(rate=200, seed=5), duration_s=1.5, keep=40, slo_ms=1000)
    asked = poisson(rate=200, seed=5).times(1.5)
    assert len(result) == result.total.ok == len(asked)
    assert len(result.sample) == 40
    assert np.isin(result.sample.columns["intended"], asked).all()
    assert result.to_frame()["ok"].sum() == len(asked)
    assert result.percentiles["p50"] <= result.percentiles["p99"]
    assert result.summary()["sampled"] == 40
    assert result.ok_rate > 0
    assert not result.interrupted
    assert "requests, all ok" in repr(result)
    text = result.save_hgrm(tmp_path / "soak.hgrm").read_text()
    assert re.search(rf"TotalCount *= *{len(asked)}\.", text)


def test_a_soak_without_an_end_is_stopped(hello):
    run = short(hello, closed(concurrency=2), wait=False)
    while run.progress.answered < 10:
        assert not run.wait(0.02)
    assert " of " not in repr(run).partition(":")[2]
    result = run.stop()
    assert result.interrupted
    assert len(result) >= 5
    assert run.rate is None


@pytest.mark.parametrize(
    ("arrivals", "options", "words"),
    [
        (ramp(start=1, end=5), {}, "a ramp needs an end"),
        (poisson(rate=5), {"expect": dict}, "bodies of responses are not kept"),
        (poisson(rate=5), {"keep": 0}, "invalid keep"),
        (poisson(rate=5), {"interval_s": 0}, "invalid interval_s"),
        (poisson(rate=5), {"duration_s": -1}, "invalid duration_s"),
        (50, {}, "arrival process"),
    ],
)
def test_arguments_are_checked_before_anything_starts(arrivals, options, words):
    with pytest.raises(LoadError, match=words):
        short(1, arrivals, **options)
