import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlkit.load import closed, constant
from mlkit.views.measure import spread
from mlkit.views.mpl.loadseries import (
    distribution,
    percentiles_over_time,
    points,
    rates,
    stretch,
)


def test_rates_add_up_to_the_requests(load_result):
    result = load_result(constant(rate=50), failed=0.1, duration_s=10.0)
    series = rates(result)
    width = np.diff(series.edges)
    finished_within = (result.columns["finished"] <= 10.0).sum()
    assert ((series.answered + series.failed) * width).sum() == pytest.approx(finished_within)
    assert (series.asked * width).sum() == pytest.approx(500)


def test_a_closed_loop_asks_for_no_rate(load_result):
    assert rates(load_result(closed(concurrency=4), count=100)).asked is None


def test_percentiles_need_enough_requests_in_a_bin(load_result):
    few = percentiles_over_time(load_result(constant(rate=10), duration_s=10.0))
    many = percentiles_over_time(load_result(constant(rate=1000), duration_s=10.0))
    assert list(few.values) == ["p50"]
    assert list(many.values) == ["p50", "p95", "p99"]


def test_points_are_thinned_not_dropped_silently_below_twenty_thousand(load_result):
    assert len(points(load_result(count=20_000)).at_s) == 20_000
    assert 15_000 < len(points(load_result(count=61_000)).at_s) <= 20_000


def test_each_nine_takes_as_much_room_as_the_last():
    assert np.diff([stretch(s) for s in (0.0, 0.9, 0.99, 0.999)]) == pytest.approx([1, 1, 1])


def test_the_distribution_knows_where_failures_and_doubt_begin(load_result):
    curve = distribution(load_result(count=458, failed=0.0))
    assert curve.failed_from is None
    assert curve.unproven_from == pytest.approx(stretch(0.99), abs=0.1)
    failing = load_result(count=2000, failed=0.05)
    share = 1 - failing.ok.mean()
    assert distribution(failing).failed_from == pytest.approx(stretch(1 - share))


@settings(deadline=None)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=5))
def test_spreading_keeps_the_order_the_gap_and_the_limits(wanted):
    placed = spread(wanted, gap=15, low=0, high=100)
    order = np.argsort(wanted, kind="stable")
    assert (np.diff(np.array(placed)[order]) >= 15 - 1e-9).all()
    assert min(placed) >= -1e-9
    assert max(placed) <= 100 + 1e-9


def test_spreading_moves_nothing_that_has_room():
    assert spread([10, 60, 30], gap=15, low=0, high=100) == [10, 60, 30]
