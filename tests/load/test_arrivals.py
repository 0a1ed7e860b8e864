import json
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlkit.errors import LoadError
from mlkit.load import (
    closed,
    constant,
    diurnal,
    gamma,
    jump,
    poisson,
    ramp,
    replay,
    spike,
    steered,
)
from mlkit.load.arrivals import arrivals_from_dict

CHANGING = [
    ramp(start=20, end=200, seed=3),
    jump(before=30, after=90, at_s=20),
    spike(rate=20, peak=200, at_s=10, width_s=5),
    diurnal(low=20, high=150, day_s=25, seed=2),
]
COMPOSED = [
    poisson(rate=20).lasting(30) + ramp(start=20, end=90).lasting(10) + constant(rate=5),
    (constant(rate=2).lasting(5) + gamma(rate=9, cv=3)).lasting(20) + poisson(rate=1),
]
SPECS = [
    constant(rate=2.5),
    poisson(rate=50, seed=7),
    gamma(rate=50, cv=2.5, seed=7),
    closed(concurrency=16),
    steered(rate=20, shape="constant"),
    *CHANGING,
    *COMPOSED,
]


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_repr_is_the_code_that_makes_it(spec):
    makers = [closed, constant, diurnal, gamma, jump, poisson, ramp, spike, steered]
    assert eval(repr(spec), {make.__name__: make for make in makers}) == spec


@pytest.mark.parametrize("spec", [*SPECS, replay([3, 1, 2])], ids=repr)
def test_plain_data_goes_there_and_back(spec):
    assert arrivals_from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_unknown_kind_says_what_is_known():
    with pytest.raises(LoadError, match="poisson"):
        arrivals_from_dict({"kind": "lunar", "rate": 3})


@settings(deadline=None)
@given(rate=st.floats(0.01, 2000), duration=st.floats(0, 20), seed=st.integers(0, 5))
def test_times_ascend_within_the_duration(rate, duration, seed):
    for spec in (constant(rate=rate), poisson(rate=rate, seed=seed)):
        times = spec.times(duration)
        assert (np.diff(times) >= 0).all()
        assert ((times >= 0) & (times < duration)).all()


def test_constant_does_not_drift_within_a_day():
    times = constant(rate=3).times(86400)
    assert len(times) == 3 * 86400
    assert times[-1] == 86399 + 2 / 3


def test_poisson_gaps_are_exponential_at_the_rate():
    gaps = np.diff(poisson(rate=200, seed=3).times(500))
    # 100,000 gaps: the mean is good to 0.3%, the deviation of an exponential equals its mean.
    assert gaps.mean() == pytest.approx(1 / 200, rel=0.015)
    assert gaps.std() == pytest.approx(1 / 200, rel=0.03)
    assert (gaps > 0.005).mean() == pytest.approx(np.exp(-1), abs=0.01)


def test_poisson_repeats_with_its_seed_and_only_with_it():
    first, again, other = (poisson(rate=50, seed=s).times(10) for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first[:100], other[:100])


def test_a_longer_poisson_schedule_begins_with_the_shorter_one():
    short, long = poisson(rate=300).times(5), poisson(rate=300).times(50)
    assert np.array_equal(long[: len(short)], short)


def test_warm_up_comes_before_the_start_at_the_opening_rate():
    warmup = constant(rate=10).warmup_times(2.0)
    assert len(warmup) == 20
    assert warmup[0] == -2.0
    assert warmup[-1] == pytest.approx(-0.1)


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf"), "50", None, True])
def test_a_rate_must_be_a_positive_number(rate):
    with pytest.raises(LoadError, match="above 0"):
        poisson(rate=rate)
    with pytest.raises(LoadError, match="above 0"):
        constant(rate=rate)


@pytest.mark.parametrize("seed", [-1, 0.5, None, True])
def test_a_seed_must_be_an_integer(seed):
    with pytest.raises(LoadError, match="integer"):
        poisson(rate=1, seed=seed)


@pytest.mark.parametrize("concurrency", [0, -3, 1.5, "16", True])
def test_concurrency_must_be_an_integer(concurrency):
    with pytest.raises(LoadError, match="integer"):
        closed(concurrency=concurrency)


def test_specifications_are_frozen_and_take_keywords_only():
    with pytest.raises(FrozenInstanceError):
        poisson(rate=50).rate = 60
    with pytest.raises(TypeError):
        poisson(50)


@pytest.mark.parametrize("spec", CHANGING, ids=repr)
def test_a_changing_rate_is_followed(spec):
    times = spec.times(40.0)
    assert (np.diff(times) >= 0).all()
    assert times[-1] < 40
    counts, edges = np.histogram(times, bins=8, range=(0, 40))
    middle = (edges[:-1] + edges[1:]) / 2
    expected = 5 * spec.rate_at(middle, 40.0)
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected) + 1).all()
    assert spec.opening_rate == pytest.approx(spec.rate_at(np.zeros(1), 40.0)[0])
    assert (times == spec.times(40.0)).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: ramp(start=0, end=10),
        lambda: jump(before=10, after=-1, at_s=5),
        lambda: jump(before=10, after=20, at_s=float("nan")),
        lambda: spike(rate=10, peak=20, at_s=5, width_s=0),
        lambda: ramp(start=1, end=2, seed=-1),
    ],
)
def test_a_changing_rate_that_cannot_be_is_told(make):
    with pytest.raises(LoadError):
        make()


RATES = st.floats(0.5, 200)
SEEDS = st.integers(0, 5)
LENGTHS = st.floats(0.1, 10)
ENDLESS = st.one_of(
    st.builds(constant, rate=RATES),
    st.builds(poisson, rate=RATES, seed=SEEDS),
    st.builds(gamma, rate=RATES, cv=st.floats(0.05, 8), seed=SEEDS),
    st.builds(jump, before=RATES, after=RATES, at_s=LENGTHS, seed=SEEDS),
    st.builds(spike, rate=RATES, peak=RATES, at_s=LENGTHS, width_s=LENGTHS, seed=SEEDS),
    st.builds(diurnal, low=RATES, high=RATES, day_s=LENGTHS, seed=SEEDS),
    st.builds(replay, st.lists(st.floats(0, 20), min_size=1, max_size=50)),
)
STAGE = st.builds(
    lambda schedule, length_s: schedule.lasting(length_s),
    ENDLESS | st.builds(ramp, start=RATES, end=RATES, seed=SEEDS),
    LENGTHS,
)
SCHEDULES = st.one_of(ENDLESS, STAGE, st.builds(lambda a, b: a + b, STAGE, ENDLESS))


@settings(deadline=None, max_examples=200)
@given(schedule=SCHEDULES, duration_s=st.floats(0, 20))
def test_every_schedule_ascends_within_the_duration_and_its_own_length(schedule, duration_s):
    times = schedule.times(duration_s)
    assert (np.diff(times) >= 0).all()
    assert (times >= 0).all()
    assert (times < duration_s).all()
    assert schedule.length_s is None or (times < schedule.length_s).all()


@settings(deadline=None, max_examples=200)
@given(schedule=SCHEDULES, short_s=st.floats(0, 10), long_s=st.floats(10, 20))
def test_a_shorter_schedule_is_a_prefix_of_a_longer_one(schedule, short_s, long_s):
    long = schedule.times(long_s)
    assert np.array_equal(schedule.times(short_s), long[long < short_s])


@settings(deadline=None)
@given(a=STAGE, b=STAGE, c=SCHEDULES)
def test_composition_is_associative(a, b, c):
    assert (a + b) + c == a + (b + c)
    assert np.array_equal(((a + b) + c).times(25), (a + (b + c)).times(25))


@settings(deadline=None)
@given(first=ENDLESS, length_s=LENGTHS, then=SCHEDULES)
def test_a_composed_schedule_is_one_after_another(first, length_s, then):
    times = (first.lasting(length_s) + then).times(30)
    head = first.times(length_s)
    assert np.array_equal(times[: len(head)], head)
    assert times[len(head) :] == pytest.approx(then.times(30 - length_s) + length_s, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("make", "rate", "deviations"),
    [
        (lambda seed: poisson(rate=80, seed=seed), 80, 1),
        (lambda seed: gamma(rate=80, cv=0.2, seed=seed), 80, 0.2),
        (lambda seed: gamma(rate=80, cv=4, seed=seed), 80, 4),
        (lambda seed: diurnal(low=10, high=150, day_s=20, seed=seed), 80, 1),
        (lambda seed: spike(rate=60, peak=160, at_s=30, width_s=20, seed=seed), 80, 1),
    ],
)
def test_the_mean_rate_is_the_one_asked_for(make, rate, deviations, seed):
    expected = 100 * rate
    # A count's deviation is that of the gaps, in units of the square root of the count.
    assert abs(len(make(seed).times(100)) - expected) < 4 * deviations * np.sqrt(expected) + 5


@pytest.mark.parametrize("cv", [0.3, 1, 3])
def test_gamma_gaps_vary_as_asked_for(cv):
    gaps = np.diff(gamma(rate=200, cv=cv, seed=1).times(500))
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05)


def test_a_schedule_can_be_endless_and_is_drawn_in_batches():
    batches = poisson(rate=1000).batches(float("inf"))
    ahead = np.concatenate([next(batches) for _ in range(5)])
    assert np.array_equal(ahead, poisson(rate=1000).times(60)[: len(ahead)])


def test_a_ramp_needs_an_end():
    with pytest.raises(LoadError, match=r"a ramp needs an end(.|\n)*lasting"):
        ramp(start=1, end=2).check(float("inf"))
    ramp(start=1, end=2).lasting(5).check(float("inf"))


def test_a_ramp_in_stages_does_not_depend_on_the_run():
    stages = ramp(start=5, end=50).lasting(20) + constant(rate=1)
    assert np.array_equal(stages.times(20), ramp(start=5, end=50).times(20))


@pytest.mark.parametrize(
    ("compose", "words"),
    [
        (lambda: poisson(rate=5) + constant(rate=5), r"needs a length(.|\n)*lasting\(30\)"),
        (lambda: poisson(rate=5).lasting(3) + closed(concurrency=2), "only schedules"),
        (lambda: poisson(rate=5).lasting(3) + steered(rate=2), "only schedules"),
        (lambda: poisson(rate=5).lasting(0), "invalid duration_s"),
        (lambda: poisson(rate=5).lasting(float("inf")), "invalid duration_s"),
    ],
)
def test_what_cannot_be_composed_is_told(compose, words):
    with pytest.raises(LoadError, match=words):
        compose()


@pytest.mark.parametrize("cv", [0, -1, float("nan"), 1e6, "2", None])
def test_a_burstiness_that_cannot_be_is_told(cv):
    with pytest.raises(LoadError, match="invalid cv"):
        gamma(rate=5, cv=cv)


def test_only_a_closed_loop_asks_for_no_times():
    sent = np.array([0.0, 0.5])
    assert closed(concurrency=2).asked(10, 10, sent) is None
    assert steered(rate=2).asked(10, 10, sent) is sent
    assert len(constant(rate=2).asked(10, 4, sent)) == 8


def test_a_ramp_that_was_stopped_early_asked_for_its_beginning():
    asked = ramp(start=1, end=100).asked(planned_s=100, duration_s=10, intended=np.empty(0))
    assert len(asked) == pytest.approx(10 * 5.95, abs=4 * np.sqrt(60))
