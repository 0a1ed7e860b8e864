"""Verdicts hold as often as promised, on queues whose percentiles are known exactly."""

import math

import numpy as np
import pytest

from mlkit.errors import LoadError
from mlkit.load import SLO, poisson
from mlkit.load.analysis import at_least, at_most, inflation, least_over, mean_interval
from tests.load import queues

QUEUES = {
    "M/D/1": (queues.md1, queues.md1_mean, queues.md1_quantile),
    "M/M/2": (queues.mm2, queues.mm2_mean, queues.mm2_quantile),
}


@pytest.mark.parametrize("name", QUEUES)
@pytest.mark.parametrize("load", [0.4, 0.7])
def test_simulated_queues_agree_with_their_formulas(name, load):
    simulate, mean, quantile = QUEUES[name]
    latency_ms = simulate(100, 3000, load)
    assert latency_ms.mean() == pytest.approx(mean(load), rel=0.05)
    assert np.quantile(latency_ms, 0.99) == pytest.approx(quantile(0.99, load), rel=0.05)


@pytest.mark.parametrize(
    ("services", "workers"), [("constant", 1), ("exponential", 2)], ids=["M/D/1", "M/M/2"]
)
def test_a_load_test_of_a_queue_agrees_with_its_formulas(open_loop, services, workers):
    """The generator itself, on virtual time, with a server that queues."""
    load, stream = 0.4, np.random.default_rng(3)
    free_at = [0.0] * workers

    def takes(now):
        service = 0.01 if services == "constant" else stream.exponential(0.01)
        first = free_at.index(min(free_at))
        free_at[first] = max(free_at[first], now) + service
        return free_at[first] - now

    times = poisson(rate=workers * load / 0.01, seed=5).times(250.0)
    run = open_loop(list(times), takes, duration_s=250.0)
    latency_ms = (run.finished - run.intended) * 1e3
    _, mean, quantile = QUEUES["M/D/1" if workers == 1 else "M/M/2"]
    assert latency_ms.mean() == pytest.approx(mean(load), rel=0.05)
    assert np.quantile(latency_ms, 0.99) == pytest.approx(quantile(0.99, load), rel=0.05)


@pytest.mark.parametrize("name", QUEUES)
@pytest.mark.parametrize(("load", "count"), [(0.6, 1500), (0.85, 600)])
def test_at_the_objective_itself_verdicts_are_wrong_in_at_most_5_percent(name, load, count):
    simulate, _, quantile = QUEUES[name]
    slo = SLO(p99_ms=quantile(0.99, load))
    outcomes = [slo.judge(run).outcome for run in simulate(200, count, load, seed=7)]
    assert outcomes.count("met") <= 10
    assert outcomes.count("missed") <= 10


@pytest.mark.parametrize("name", QUEUES)
def test_away_from_the_objective_verdicts_are_reached(name):
    simulate, _, quantile = QUEUES[name]
    p99, runs = quantile(0.99, 0.4), simulate(40, 6000, 0.4, seed=8)
    for factor, outcome in ((1.6, "met"), (0.7, "missed")):
        outcomes = [SLO(p99_ms=factor * p99).judge(run).outcome for run in runs]
        assert outcomes.count(outcome) >= 36


def test_independent_values_are_worth_themselves_and_repeated_ones_their_share():
    values = np.random.default_rng(1).exponential(size=4000)
    assert inflation(values, 0.99) == pytest.approx(1, abs=0.3)
    assert inflation(np.repeat(values[:400], 10), 0.9) == pytest.approx(10, rel=0.3)
    assert inflation(np.ones(100), 0.99) == 1
    assert inflation([], 0.99) == inflation([1.0], 0.99) == 1


def test_an_overloaded_server_is_seen_to_miss():
    growing = np.arange(2000.0)  # a queue that only grows: each latency depends on the one before
    assert inflation(growing, 0.99) > 100
    assert SLO(p99_ms=500).judge(growing).outcome == "missed"


def test_lower_bounds_mirror_upper_bounds():
    stream = np.random.default_rng(6)
    true_p99 = -math.log(0.01)  # of the exponential distribution
    limits = [at_least(stream.exponential(size=700), 0.99) for _ in range(1000)]
    assert np.mean(np.array(limits) <= true_p99) >= 0.98
    assert math.isnan(at_least([], 0.99))
    assert math.isnan(at_least(np.ones(1), 0.99))  # it may be the one in a hundred
    assert (least_over(0), least_over(1)) == (None, None)
    assert at_least(np.arange(1000.0), 0.99) < 990 < at_most(np.arange(1000.0), 0.99)


def test_the_interval_of_batch_means_holds_as_often_as_promised():
    stream = np.random.default_rng(2)
    intervals = [mean_interval(stream.normal(50, 5, 20)) for _ in range(500)]
    assert np.mean([i.low <= 50 <= i.high for i in intervals]) == pytest.approx(0.95, abs=0.03)
    assert math.isnan(mean_interval([1.0] * 4).low)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({}, "needs an objective"),
        ({"p99_ms": 0}, "invalid p99_ms"),
        ({"p50_ms": -1}, "invalid p50_ms"),
        ({"p99_ms": math.inf}, "invalid p99_ms"),
        ({"p50_ms": 100, "p99_ms": 50}, "lower limit"),
    ],
)
def test_objectives_that_cannot_be(limits, words):
    with pytest.raises(LoadError, match=words):
        SLO(**limits)


def test_an_slo_reads_like_its_call():
    assert repr(SLO(p99_ms=150, p50_ms=40)) == "SLO(p50_ms=40, p99_ms=150)"
    assert str(SLO(p99_9_ms=150)) == "p99.9 under 150 ms"
