import math

import numpy as np
import pytest

from mlkit.errors import MlkitError
from mlkit.models.agreement import check_finite, compare_results, estimate

SCORES = np.array([[0.1, 0.9, 0.0], [0.7, 0.2, 0.1]], np.float32)


def test_the_same_results_agree():
    agreement = compare_results([SCORES], [SCORES.copy()])
    assert (agreement.top1, agreement.max_difference, agreement.fails) == (1.0, 0.0, "")


def test_another_best_class_is_a_disagreement():
    agreement = compare_results([SCORES], [SCORES[:, ::-1]])
    assert agreement.top1 == 0.5
    assert "50.0%" in agreement.fails


def test_a_near_tie_may_go_either_way():
    tied = np.array([[0.500, 0.499, 0.0]], np.float32)
    assert compare_results([tied], [tied[:, [1, 0, 2]]]).top1 == 1.0


def test_every_output_of_scores_must_agree():
    assert compare_results([SCORES, SCORES], [SCORES, SCORES[:, ::-1]]).top1 == 0.5


@pytest.mark.parametrize(("error", "fails"), [(0.01, False), (0.2, True)])
def test_without_scores_the_relative_error_counts(error, fails):
    values = np.ones((2, 3, 4), np.float32)
    agreement = compare_results([values], [values * (1 + error)])
    assert math.isnan(agreement.top1)
    assert agreement.relative_error == pytest.approx(error, rel=1e-3)
    assert bool(agreement.fails) is fails


def test_nan_never_agrees():
    broken = SCORES.copy()
    broken[0, 0] = np.nan
    assert compare_results([SCORES], [broken]).fails == "its results are not finite"


def test_results_that_are_not_finite_are_refused_by_name():
    check_finite([SCORES, np.array([1])], "net")
    with pytest.raises(MlkitError, match="output 1 of net has 1 NaN or infinite of 2 numbers"):
        check_finite([SCORES, np.array([1.0, np.inf])], "net")


def test_an_accuracy_of_booleans_has_wilsons_interval():
    # 9 of 10: Wilson's interval is 0.596 to 0.982.
    got = estimate([True] * 9 + [False])
    assert (got.value, got.low, got.high) == pytest.approx((0.9, 0.596, 0.982), abs=1e-3)
    assert estimate([True] * 100).low < 1


def test_an_accuracy_of_numbers_has_a_bootstrap_interval():
    got = estimate(np.linspace(0, 1, 101))
    assert got.low < 0.5 < got.high
    assert got.high - got.low == pytest.approx(2 * 1.96 * 0.2915 / math.sqrt(101), rel=0.1)


def test_one_number_has_no_interval():
    got = estimate(0.87)
    assert got.value == 0.87
    assert math.isnan(got.low)


@pytest.mark.parametrize("scores", [[], [[1.0, 2.0]]])
def test_scores_of_no_items_are_refused(scores):
    with pytest.raises(MlkitError, match="one number, or one per item"):
        estimate(scores)
