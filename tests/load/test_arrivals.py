from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlkit.errors import LoadError
from mlkit.load import closed, constant, jump, poisson, ramp, spike
from mlkit.load.arrivals import arrivals_from_dict

CHANGING = [
    ramp(start=20, end=200, seed=3),
    jump(before=30, after=90, at_s=20),
    spike(rate=20, peak=200, at_s=10, width_s=5),
]
SPECS = [constant(rate=2.5), poisson(rate=50, seed=7), closed(concurrency=16), *CHANGING]


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_repr_is_the_code_that_makes_it(spec):
    makers = {"constant": constant, "poisson": poisson, "closed": closed}
    makers |= {"ramp": ramp, "jump": jump, "spike": spike}
    assert eval(repr(spec), makers) == spec


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_plain_data_goes_there_and_back(spec):
    assert arrivals_from_dict(spec.to_dict()) == spec


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
