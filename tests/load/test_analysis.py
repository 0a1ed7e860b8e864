import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlkit.errors import LoadError
from mlkit.load.analysis import (
    allowed_over,
    at_most,
    certifies,
    needed,
    percentile,
    ratio,
)

CERTIFYING = {
    0.99: ((459, 0), (662, 1), (838, 2), (1307, 5), (2010, 10), (3304, 20)),
    0.95: ((299, 0), (473, 1), (628, 2), (1049, 5), (1693, 10)),
}
"""By confidence, as (n, t): p99 is under a limit if at most t of n requests are over it."""

TABLE = [(confidence, *row) for confidence, rows in CERTIFYING.items() for row in rows]


def binomial_at_most(most, count, percent):
    """P(X <= most) where each happens with ``percent`` / 100, summed in exact integers."""
    terms = (
        math.comb(count, k) * percent**k * (100 - percent) ** (count - k) for k in range(most + 1)
    )
    return float(Fraction(sum(terms), 100**count))


@pytest.mark.parametrize(("confidence", "count", "over"), TABLE)
def test_the_table_is_the_binomial_formula(confidence, count, over):
    assert binomial_at_most(over, count, 1) <= 1 - confidence
    assert binomial_at_most(over, count - 1, 1) > 1 - confidence


@pytest.mark.parametrize(("confidence", "count", "over"), TABLE)
def test_certifying_agrees_with_the_table_and_its_neighbours(confidence, count, over):
    assert needed(over, confidence=confidence) == count
    assert certifies(count, over, confidence=confidence)
    assert not certifies(count - 1, over, confidence=confidence)
    assert not certifies(count, over + 1, confidence=confidence)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 1500), st.sampled_from([20, 5, 1]), st.sampled_from([0.95, 0.99]))
def test_allowed_over_is_the_most_that_still_proves(count, percent, confidence):
    allowed = allowed_over(count, share=1 - percent / 100, confidence=confidence)
    most = -1 if allowed is None else allowed
    assert binomial_at_most(most + 1, count, percent) > 1 - confidence
    assert most < 0 or binomial_at_most(most, count, percent) <= 1 - confidence + 1e-12


def test_five_hundred_requests_with_one_over_prove_nothing():
    assert not certifies(500, 1)


def test_large_counts_neither_underflow_nor_take_long():
    # The normal approximation is good to a few here: 5000 - 2.326 * sqrt(5000 * 0.99).
    assert allowed_over(500_000) == pytest.approx(5000 - 2.326 * math.sqrt(4950), abs=4)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300), st.floats(0.001, 1))
def test_a_percentile_is_a_measured_value_with_enough_at_or_below(values, share):
    found = percentile(values, share)
    assert found in values
    assert sum(v <= found for v in values) >= share * len(values) - 1e-6
    assert sum(v < found for v in values) < share * len(values)


def test_percentiles_keep_infinite_values_and_survive_none():
    values = [1.0] * 99 + [math.inf]
    assert percentile(values, 0.99) == 1.0
    assert percentile(values, 0.991) == math.inf
    assert math.isnan(percentile([], 0.5))


def test_the_limit_of_a_percentile_holds_as_often_as_promised():
    stream = np.random.default_rng(5)
    true_p99 = -math.log(0.01)  # of the exponential distribution
    limits = [at_most(stream.exponential(size=700), 0.99) for _ in range(1500)]
    assert np.mean(np.array(limits) >= true_p99) >= 0.98


def test_too_few_values_give_no_limit():
    assert math.isnan(at_most(np.ones(458), 0.99))
    assert at_most(np.ones(459), 0.99) == 1.0


def test_a_ratio_of_drifting_blocks_is_narrow_because_pairs_stay_together():
    drift = np.linspace(1.0, 2.0, 8)
    noise = np.random.default_rng(1).normal(1, 0.01, size=(2, 8))
    found = ratio(list(90 * drift * noise[0]), list(100 * drift * noise[1]))
    assert found.low < 0.9 < found.high
    assert found.high - found.low < 0.05
    assert found.blocks == 8


def test_a_ratio_holds_as_often_as_promised_with_five_blocks():
    stream = np.random.default_rng(2)
    hits = 0
    for _ in range(300):
        a, b = stream.normal(100, 5, size=(2, 5))
        found = ratio(list(a), list(b), resamples=2000)
        hits += found.low <= 1 <= found.high
    # A plain percentile bootstrap covers about 83% here.
    assert hits / 300 > 0.89


def test_a_ratio_is_repeatable_and_says_what_it_is():
    blocks = ([10, 11, 10, 12, 11], [20, 21, 19, 22, 21])
    assert ratio(*blocks) == ratio(*blocks)
    assert str(ratio(*blocks)).endswith("95% confidence, 5 pairs of blocks)")


@pytest.mark.parametrize(("a", "b"), [([1] * 4, [1] * 4), ([1] * 6, [1] * 5)])
def test_a_ratio_needs_five_pairs(a, b):
    with pytest.raises(LoadError, match="at least five"):
        ratio(a, b)
