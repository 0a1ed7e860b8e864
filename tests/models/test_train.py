from __future__ import annotations

import numpy as np
import pytest

from mlkit.define.shipping import dumps, loads
from mlkit.errors import DefinitionError
from mlkit.models import HeadBank, train_head

RNG = np.random.default_rng(0)
NAMES = np.array(["shoe", "hat", "scarf"])[np.arange(90) % 3]


def features_of(names: np.ndarray) -> np.ndarray:
    """Twenty features, in units that differ by far; each class is another shift of some."""
    features = RNG.normal(size=(len(names), 20))
    for place, name in enumerate(("hat", "scarf", "shoe")):
        features[names == name, place * 3 : place * 3 + 3] += 4
    return features * np.geomspace(1e-3, 1e3, 20) + 7


def test_a_head_tells_new_items_apart_and_fits_a_bank() -> None:
    trained = train_head(features_of(NAMES), NAMES)
    assert trained.labels == ("hat", "scarf", "shoe")
    scores = HeadBank({"a": trained.head})(features_of(NAMES), ["a"] * len(NAMES))
    assert np.mean(np.array(trained.labels)[scores.argmax(1)] == NAMES) > 0.95
    assert trained.accuracy.value > 0.9
    assert trained.accuracy.low < trained.accuracy.value
    assert loads(dumps(trained)).labels == trained.labels


def test_what_cannot_be_learnt_has_the_accuracy_of_chance() -> None:
    names = np.array(["a", "b"])[RNG.integers(0, 2, 400)]
    noise = RNG.normal(size=(400, 200))
    trained = train_head(noise, names)
    assert 0.3 < trained.accuracy.value < 0.7


def test_a_fifth_of_each_class_is_held_out() -> None:
    names = ["often"] * 100 + ["seldom"] * 5 + ["once"]
    trained = train_head(RNG.normal(size=(106, 3)), names)
    assert trained.held_out == 21
    assert "of 21 held-out items right" in repr(trained)


def test_the_same_seed_gives_the_same_head() -> None:
    features = features_of(NAMES)
    first, second, other = (train_head(features, NAMES, seed=seed) for seed in (0, 0, 1))
    assert (first.head.weight == second.head.weight).all()
    assert first.accuracy == second.accuracy
    assert np.allclose(first.head.weight, other.head.weight)  # both are trained on all items


WRONG = {
    "lengths": (np.ones((4, 2)), ["a", "b"], r"got \[4, 2\] and \[2\]"),
    "one class": (np.ones((5, 2)), ["a"] * 5, "expected two or more classes"),
    "few": (np.ones((4, 2)), ["a", "a", "b", "b"], "a class of 5 or more"),
    "nan": (np.array([[1.0], [np.nan]] * 5), ["a", "b"] * 5, "the first is item 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_data_that_no_head_can_be_trained_on(case: str) -> None:
    features, labels, message = WRONG[case]
    with pytest.raises(DefinitionError, match=message):
        train_head(features, labels)
