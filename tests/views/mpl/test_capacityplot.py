"""The plots of a capacity and of a sweep: what they show, and that no words overlap."""

import numpy as np
import pytest

from mlkit.errors import InputError
from mlkit.load import SLO, poisson
from mlkit.load.capacity import Capacity
from mlkit.load.search import Probe, RateTrial
from mlkit.load.sweep import Sweep
from mlkit.views.mpl.capacity import AtRate, at_rates, knee, plot_capacity

CASES = {
    "found": {"rates": [60, 90, 75, 67, 67]},
    "slow": {"rates": [5, 7, 6], "typical_ms": 900.0, "limit_ms": 3000},
    "wide": {"rates": [500, 200, 80, 30, 10, 4]},
    "nothing found": {"rates": [60, 40, 27], "typical_ms": 400.0},
    "failures": {"rates": [60, 90, 75], "failed": 0.3},
    "nothing but failures": {"rates": [60, 40], "failed": 1.1},
    "void": {"rates": [60, 90, 75], "late_ms": 40.0},
    "one": {"rates": [60]},
    "none": {"rates": []},
}


@pytest.fixture
def make(load_result):
    def made(*, rates, typical_ms=30.0, limit_ms=150, **fields):
        slo, trials = SLO(p99_ms=limit_ms), []
        for number, rate in enumerate(rates):
            fields["duration_s"] = 1500 / rate
            busy = typical_ms * (3 if rate >= 90 else 1)
            run = load_result(poisson(rate=rate, seed=number), typical_ms=busy, **fields)
            probe = Probe(rate, run.duration_s, "certify")
            trials.append(RateTrial(probe, run, run.verdict(slo)))
        return Capacity(
            target="http://127.0.0.1:8000/tag",
            slo=slo,
            trials=tuple(trials),
            saturated=None,
            verify=0,
            reason="interrupted" if not rates else "",
        )

    return made


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_no_words_overlap_or_leave_the_picture(case, make, words_of, overlapping):
    figure = plot_capacity(make(**case))
    assert overlapping(figure) == []
    width, height = figure.get_size_inches() * figure.dpi
    for words, box in words_of(figure):
        assert (box.x0 >= 0, box.x1 <= width, box.y0 >= 0, box.y1 <= height) == (True,) * 4, words


def test_the_plot_says_what_was_found(make, words_of):
    found = make(**CASES["found"])
    assert found.rate == 75
    words = " ".join(text for text, _ in words_of(found.plot()))
    for said in ("75/s meet p99 under 150 ms", "capacity 75/s", "knee", "SLO: p99 under 150 ms"):
        assert said in words


def test_runs_at_one_rate_are_joined(make):
    points = at_rates(make(**CASES["found"]))
    assert [point.rate for point in points] == [60, 67, 75, 90]
    assert points[0].outcome == "met"
    assert points[0].goodput == pytest.approx(60, rel=0.1)


def test_the_knee_is_where_latency_starts_to_cost_more_than_the_rate_brings():
    def point(rate):
        mean_ms = 10 / (1 - rate / 100)  # M/M/1, of which the knee is at half its capacity
        return AtRate(rate, {}, mean_ms, rate, rate, "met")

    assert knee([point(rate) for rate in np.arange(10, 100, 10)]) == 50
    assert knee([point(10), point(20)]) is None


def test_a_sweep_is_drawn_and_says_so_if_there_is_none(load_result, words_of, overlapping):
    results = {n: load_result(typical_ms=30.0 / n, failed=0.01 * (n == 2)) for n in (1, 2, 4)}
    figure = Sweep(knob="num_replicas", results=results).plot()
    assert overlapping(figure) == []
    assert "num_replicas" in [text for text, _ in words_of(figure)]
    with pytest.raises(InputError, match="nothing was measured"):
        Sweep(knob="num_replicas", results={}).plot()
