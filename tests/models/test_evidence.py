import math

import pytest

from mlkit.errors import MlkitError
from mlkit.models.agreement import Estimate
from mlkit.models.evidence import Load, TimeBox, Variant, best, pareto, speedup, table

ONE, EIGHT = Load(1, 2), Load(8, 2)


def variant(name, ms, quality=1.0, **more):
    blocks = {EIGHT: [ms] * 5} if ms else {}
    return Variant(name, agreement=quality, blocks_ms=blocks, **more)


REFERENCE = variant("eager", 100.0)


def test_throughput_counts_the_items_of_a_batch():
    assert REFERENCE.throughput(EIGHT) == pytest.approx(80)
    assert math.isnan(REFERENCE.throughput(ONE))


def test_the_front_has_what_nothing_is_superior_to():
    variants = [
        REFERENCE,
        variant("fast", 10, 0.95),
        variant("slower and worse", 20, 0.9),
        variant("between", 50, 0.99),
        variant("failed", 0, failure="no"),
    ]
    assert pareto(variants, EIGHT) == {"eager", "fast", "between"}


def test_equals_are_both_on_the_front():
    assert pareto([REFERENCE, variant("same", 100.0)], EIGHT) == {"eager", "same"}


@pytest.mark.parametrize(("drop", "name"), [(0.1, "int8"), (0.01, "bf16"), (0.0, "fp32")])
def test_the_fastest_that_is_good_enough_is_picked(drop, name):
    variants = [REFERENCE, variant("fp32", 40), variant("bf16", 20, 0.99), variant("int8", 5, 0.9)]
    assert best(variants, EIGHT, drop).name == name


def test_of_nearly_equally_fast_ones_the_most_accurate_is_picked():
    variants = [REFERENCE, variant("rough", 20, 0.99), variant("exact", 20.5, 1.0)]
    assert best(variants, EIGHT, 0.01).name == "exact"


def test_accuracy_counts_before_agreement():
    rough = variant("rough", 10, 0.5, accuracy=Estimate(0.9))
    exact = variant("exact", 100, 1.0, accuracy=Estimate(0.9))
    assert best([exact, rough], EIGHT, 0.01).name == "rough"


def test_without_scores_the_relative_error_counts():
    exact = Variant("exact", relative_error=0.0, blocks_ms={EIGHT: [9.0]})
    wrong = Variant("wrong", relative_error=0.3, blocks_ms={EIGHT: [1.0]})
    assert best([exact, wrong], EIGHT, 0.01).name == "exact"


def test_the_reference_is_picked_where_nothing_else_is_good_enough():
    assert best([REFERENCE, variant("bad", 1, 0.2)], EIGHT, 0.01) is REFERENCE


def test_a_load_that_was_not_measured_cannot_be_picked_for():
    with pytest.raises(MlkitError, match="batches of 1 on 2 threads"):
        best([REFERENCE], ONE, 0.01)


def test_a_speedup_has_an_interval_of_paired_blocks():
    drift = [1.0, 1.5, 0.8, 1.2, 1.1]
    got = speedup([40 * d for d in drift], [10 * d for d in drift])
    assert (got.value, got.low, got.high) == pytest.approx((4, 4, 4))
    noisy = speedup([40, 42, 39, 41, 44], [10, 9, 12, 11, 10])
    assert noisy.low < noisy.value < noisy.high


def test_few_blocks_have_no_interval():
    assert math.isnan(speedup([40, 40], [10, 10]).low)
    assert math.isnan(speedup([], [10]).value)


def test_the_table_has_a_row_for_each_load_and_one_for_a_failure():
    rows = table([REFERENCE, Variant("broken", failure="it says why")], [ONE, EIGHT])
    assert [(row["variant"], row["batch_size"], row["failure"]) for row in rows] == [
        ("eager", 8, ""),
        ("broken", None, "it says why"),
    ]
    assert [row["pareto"] for row in rows] == [True, False]


def test_variants_survive_json():
    kept = variant("x", 3.0, 0.5, accuracy=Estimate(0.5, 0.4, 0.6), load_s=0.1)
    again = Variant.from_dict(kept.to_dict())
    assert again.blocks_ms == kept.blocks_ms
    assert again.accuracy == kept.accuracy


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_builds_leave_time_to_measure():
    clock = Clock()
    box = TimeBox(100, clock)
    clock.now = 59
    assert box.may_build()
    clock.now = 61
    assert not box.may_build()
    assert box.may_measure(rounds=4)


def test_everything_is_measured_once_even_if_the_time_is_up():
    clock = Clock()
    box = TimeBox(100, clock)
    clock.now = 200
    assert box.may_measure(rounds=0)
    assert not box.may_measure(rounds=1)


def test_rounds_end_where_more_would_tell_nothing():
    assert not TimeBox(1e9, Clock()).may_measure(rounds=9)
