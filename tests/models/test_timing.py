from types import SimpleNamespace

import numpy as np
import pytest

from mlkit.models import compile_model, target
from mlkit.models.timing import MIN_ROUNDS, block, fastest


class Clock:
    """Goes on only where something is called."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def models(clock, **ms):
    """For each precision a model whose calls take so long, one after the other."""

    def one(precision, times):
        left = iter(times)

        def call(*arrays):
            clock.now += next(left) / 1e3

        fake = SimpleNamespace(target=SimpleNamespace(precision=precision), call=call)
        return type("Fake", (), {"__call__": lambda self, *a: call(*a), "target": fake.target})()

    return [one(name, times) for name, times in ms.items()]


def agrees(exact, other):
    return ""


def steady(ms):
    while True:
        yield ms


def test_the_quicker_one_is_taken_and_what_was_measured_is_kept():
    clock = Clock()
    exact, half = models(clock, fp32=steady(10), bf16=steady(5))
    assert fastest([exact, half], (), clock, differs=agrees) is half
    assert half.timed_ms == pytest.approx({"fp32": 10, "bf16": 5})


def test_what_is_hardly_quicker_does_not_pay_for_being_less_exact():
    clock = Clock()
    exact, half = models(clock, fp32=steady(10), bf16=steady(9.5))
    assert fastest([exact, half], (), clock, differs=agrees) is exact


def test_first_calls_and_a_hiccup_do_not_decide():
    clock = Clock()
    slow_once = iter([500, 5, 300, *[5] * 100])
    exact, half = models(clock, fp32=steady(10), bf16=slow_once)
    assert fastest([exact, half], (), clock, differs=agrees) is half


def test_a_large_model_is_called_a_few_times_only():
    clock = Clock()
    calls = [10_000] * (1 + MIN_ROUNDS)  # the next would raise
    exact, half = models(clock, fp32=iter(calls), bf16=steady(20_000))
    assert fastest([exact, half], (), clock, differs=agrees) is exact


def test_a_quicker_one_that_disagrees_is_refused_and_says_why():
    clock = Clock()
    exact, half = models(clock, fp32=steady(10), bf16=steady(5))
    differs = {exact: "", half: "its results differ by 9%"}
    chosen = fastest([exact, half], (), clock, differs=lambda a, b: differs[b])
    assert chosen is exact
    assert exact.refused == {"bf16": "its results differ by 9%"}


def test_the_next_best_is_taken_where_the_quickest_disagrees():
    clock = Clock()
    exact, half, whole = models(clock, fp32=steady(10), bf16=steady(5), int8=steady(2))
    chosen = fastest(
        [exact, half, whole], (), clock, differs=lambda a, b: "no" if b is whole else ""
    )
    assert chosen is half
    assert half.timed_ms == pytest.approx({"fp32": 10, "bf16": 5})


def test_a_block_measures_calls_for_a_while_after_one_that_warms_up():
    clock = Clock()
    durations = iter([1.0, 0.2, 0.3, 0.4, 9.9])

    def call():
        clock.now += next(durations)

    assert block(call, 0.6, clock) == pytest.approx([0.2, 0.3, 0.4])


@pytest.fixture
def double(tmp_path, monkeypatch):
    from torch import nn

    monkeypatch.setenv("MLKIT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(target, "cpu_has_bf16", lambda: True)
    x = np.ones((1, 3), np.float32)

    def build(**options):
        return compile_model(nn.Identity(), example=x, device="cpu", cache_key="k", **options)

    return build


def test_a_cpu_with_bf16_is_measured_once_and_the_cache_remembers(double, monkeypatch):
    import mlkit.models.compile as compiling

    first = double()
    assert first.timed_ms.keys() == {"fp32", "bf16"}
    assert "ms in fp32" in repr(first)

    def again(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(compiling, "fastest", again)
    second = double()
    assert second.target.precision == first.target.precision
    assert second.timed_ms == first.timed_ms


def test_bf16_is_not_taken_where_its_outputs_do_not_pass_the_criterion(double):
    compared = []

    def agreement(exact, other):
        compared.append((exact.shape, other.shape))
        return False

    model = double(agreement=agreement)
    assert model.target.precision == "fp32"
    assert compared == [((1, 3), (1, 3))]
    assert double().refused == model.refused == {"bf16": "agreement= refuses it"}
    assert "not bf16" in repr(model)


def test_a_precision_that_was_asked_for_is_not_measured(double):
    model = double(precision="bf16")
    assert model.target.precision == "bf16"
    assert model.timed_ms == {}
