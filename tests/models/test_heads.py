import numpy as np
import pytest
import torch
from torch import nn

from mlkit.define.shipping import dumps, loads
from mlkit.errors import DefinitionError, InputError
from mlkit.models import HeadBank

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(6, 5)).astype(np.float32)


def heads() -> dict[str, nn.Linear]:
    return {f"shop-{i}": nn.Linear(5, 2 + i % 3, bias=i != 1) for i in range(20)}


def test_each_item_is_scored_by_its_head() -> None:
    by_id = heads()
    ids = ["shop-3", "shop-0", "shop-1", "shop-3", "shop-19", "shop-2"]
    bank = HeadBank(by_id)
    for scores in (bank(FEATURES, ids), loads(dumps(bank))(FEATURES, ids)):
        assert scores.shape == (6, 4)
        for item, id, row in zip(FEATURES, ids, scores, strict=True):
            with torch.inference_mode():
                expected = by_id[id](torch.from_numpy(item)).numpy()
            assert np.allclose(row[: len(expected)], expected, atol=1e-5)
            assert np.isneginf(row[len(expected) :]).all()
    assert bank.ids == tuple(by_id)
    assert bank.nbytes == 20 * 4 * (5 + 1) * 4


def test_arrays_are_heads_too() -> None:
    weight, bias = RNG.normal(size=(3, 5)), [1, 2, 3]
    scores = HeadBank({"a": (weight, bias)})(FEATURES.astype(np.float64), ["a"] * 6)
    assert scores.dtype == np.float32
    assert np.allclose(scores, FEATURES @ weight.T + bias, atol=1e-5)


def test_no_items_have_no_scores() -> None:
    assert HeadBank(heads())(FEATURES[:0], []).shape == (0, 4)


WRONG = {
    "none": ({}, "no heads"),
    "other features": ({"a": nn.Linear(5, 2), "b": nn.Linear(4, 2)}, "heads of [4, 5] features"),
    "no matrix": ({"a": ([1, 2], [1, 2])}, "got [2] and [2]"),
    "other classes": ({"a": (np.ones((3, 5)), [1, 2])}, "got [3, 5] and [2]"),
}


@pytest.mark.parametrize("case", WRONG)
def test_heads_that_cannot_be_stacked(case) -> None:
    wrong, message = WRONG[case]
    with pytest.raises(DefinitionError) as caught:
        HeadBank(wrong)
    assert message in str(caught.value)


def test_an_unknown_head_and_other_features_are_errors() -> None:
    bank = HeadBank(heads())
    with pytest.raises(InputError, match="there is no head 'shop-20'"):
        bank(FEATURES[:1], ["shop-20"])
    with pytest.raises(DefinitionError, match=r"expected \[2, 5\], got \[6, 5\]"):
        bank(FEATURES, ["shop-1", "shop-2"])
