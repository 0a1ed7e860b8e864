"""What torch runs: in half precision, and with its threads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mlkit.models import Preprocess
from mlkit.models.model import ArraySpec, Structure
from mlkit.models.target import choose
from mlkit.models.torch_engine import TorchModel
from mlkit.models.whole import whole


def linear(precision: str) -> TorchModel:
    torch.manual_seed(0)
    module = whole(torch.nn.Linear(4, 3), Preprocess(mean=1.0, channels_first=False))
    target = choose(engine="torch", device="cpu", precision="fp32")
    object.__setattr__(target, "precision", precision)
    return TorchModel(module, target, (ArraySpec("float32", (None, 4)),), Structure("array"))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_changes_the_arithmetic_and_not_the_dtypes(precision: str) -> None:
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    exact, half = linear("fp32")(x), linear(precision)(x)
    assert half.dtype == np.float32
    assert not np.array_equal(half, exact)
    np.testing.assert_allclose(half, exact, atol=0.03)


@pytest.mark.parametrize(("workers", "threads", "each"), [(2, 4, 2), (4, 4, 1), (8, 4, 1)])
def test_concurrent_calls_share_the_threads(
    monkeypatch: pytest.MonkeyPatch, workers: int, threads: int, each: int
) -> None:
    set_to: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    target = choose(engine="torch", device="cpu", workers=workers, threads=threads)
    TorchModel(torch.nn.Identity(), target, (), Structure("array"))
    assert set_to == [each]
