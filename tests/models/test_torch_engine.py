"""What torch runs: on a device with a thread of its own, batches padded to a few sizes."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from mlkit.models.model import ArraySpec, Structure
from mlkit.models.target import choose
from mlkit.models.torch_engine import TorchModel, padded, padded_size


class Square(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int, int]] = []

    def forward(self, x):
        self.calls.append((len(x), threading.get_ident()))
        return (x * x,)


@pytest.mark.parametrize(
    ("count", "size"), [(1, 1), (2, 2), (3, 4), (5, 8), (33, 64), (64, 64), (65, 128), (130, 192)]
)
def test_sizes_are_few(count: int, size: int) -> None:
    assert padded_size(count) == size
    rows = np.arange(count)
    assert padded(rows, size).tolist() == [*rows, *[count - 1] * (size - count)]


@pytest.mark.parametrize(("independent", "sizes"), [(True, {4, 8}), (False, {3, 7})])
def test_one_thread_makes_all_calls_of_a_lane(independent: bool, sizes: set[int]) -> None:
    module = Square()
    spec = (ArraySpec("float32", (None, 2)),)
    target = choose(engine="torch", device="cpu", precision="fp32")
    model = TorchModel(module, target, spec, Structure("array"), independent=independent)
    with ThreadPoolExecutor(1) as lane, ThreadPoolExecutor(4) as callers:
        model._lane = lane  # as on a CUDA device
        inputs = [np.full((n, 2), n, np.float32) for n in (3, 7, 3, 7)]
        for given, found in zip(inputs, callers.map(model, inputs), strict=True):
            np.testing.assert_array_equal(found, given * given)
    assert {size for size, _ in module.calls} == sizes
    assert len({thread for _, thread in module.calls}) == 1
