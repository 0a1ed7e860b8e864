"""Pickles with large buffers beside them: values survive, memory is shared and private to write."""

import multiprocessing
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression

from mlkit.define import packing
from mlkit.define.packing import MIN_BUFFER
from mlkit.define.shipping import dumps, dumps_mappable, loads

LARGE = MIN_BUFFER // 4 + 1


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(300, 80)
        self.head = torch.nn.Linear(80, 300, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("seen", torch.arange(5), persistent=False)
        self.norm = torch.nn.BatchNorm1d(80)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.embed(x)))


@pytest.fixture
def through_file(tmp_path):
    """Returns a function: a value to what a process reads that maps its file."""

    def through(value):
        path = tmp_path / "value"
        path.write_bytes(dumps_mappable(value))
        return packing.load(packing.from_file(path))

    return through


def test_a_module_keeps_its_results_ties_and_buffers(through_file) -> None:
    net = Net().eval()
    x = torch.arange(7)
    copy = through_file(net)
    with torch.inference_mode():
        assert torch.equal(copy(x), net(x))
    assert copy.head.weight is copy.embed.weight
    assert copy.embed.weight.requires_grad
    assert torch.equal(copy.seen, net.seen)
    assert dict(copy.named_buffers()).keys() == dict(net.named_buffers()).keys()


def test_views_of_one_tensor_still_share_its_memory(through_file) -> None:
    whole = torch.arange(LARGE, dtype=torch.float32)
    whole, part = through_file((whole, whole[10:20]))
    part[0] = -1
    assert whole[10] == -1


@pytest.mark.parametrize(
    "value",
    [
        torch.arange(LARGE).reshape(1, -1).T,
        torch.arange(LARGE)[::2],
        torch.zeros(0),
        torch.tensor(3.0, dtype=torch.bfloat16),
        torch.randn(LARGE, dtype=torch.complex64),
        torch.randn(LARGE).to(torch.float16),
        torch.nn.Parameter(torch.randn(LARGE)),
        torch.eye(3).to_sparse(),
    ],
)
def test_tensors_of_every_kind(through_file, value) -> None:
    copy = through_file(value)
    assert (type(copy), copy.dtype, copy.shape) == (type(value), value.dtype, value.shape)
    assert torch.equal(copy.to_dense(), value.to_dense())
    assert copy.layout is not torch.strided or copy.stride() == value.stride()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.integers(0, 3 * MIN_BUFFER).map(lambda size: np.arange(size, dtype=np.uint8)), max_size=4
    )
)
def test_arrays_of_any_size(arrays) -> None:
    data = dumps_mappable(arrays)
    for copy, array in zip(packing.load(data), arrays, strict=True):
        assert np.array_equal(copy, array)


def test_tables_and_estimators(through_file) -> None:
    table = pd.DataFrame({"x": np.arange(LARGE, dtype=float), "name": ["a"] * LARGE})
    model = LinearRegression().fit(table[["x"]], table["x"] * 2)
    copied_table, copied_model = through_file((table, model))
    pd.testing.assert_frame_equal(copied_table, table)
    assert copied_model.coef_ == pytest.approx(model.coef_)


def test_what_is_small_is_an_ordinary_pickle() -> None:
    value = {"a": np.arange(3), "b": "text"}
    assert dumps_mappable({"b": "text"}) == dumps({"b": "text"})
    assert packing.load(dumps_mappable(value))["a"].tolist() == [0, 1, 2]
    assert packing.load(dumps(value))["b"] == loads(dumps(value))["b"]


def test_writing_changes_neither_the_file_nor_other_readers(tmp_path) -> None:
    path = tmp_path / "value"
    path.write_bytes(dumps_mappable((np.zeros(LARGE), torch.zeros(LARGE))))
    before = path.read_bytes()
    array, tensor = packing.load(packing.from_file(path))
    array += 1
    tensor += 1
    other_array, other_tensor = packing.load(packing.from_file(path))
    assert not other_array.any()
    assert not other_tensor.any()
    assert path.read_bytes() == before


def test_a_value_outlives_its_file(tmp_path) -> None:
    path = tmp_path / "value"
    path.write_bytes(dumps_mappable(torch.ones(LARGE)))
    tensor = packing.load(packing.from_file(path))
    path.unlink()
    assert tensor.sum() == LARGE


def _private_kib(path: Path, results) -> None:
    array = packing.load(packing.from_file(path))  # not a tensor: torch's threads survive no fork
    assert not array.any()
    text = Path("/proc/self/smaps").read_text()
    mapping = text[text.index(str(path)) :]
    results.put(sum(int(n) for n in re.findall(r"Private_\w+: +(\d+)", mapping)[:2]))


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="reads Linux's memory maps")
def test_processes_share_the_memory(tmp_path) -> None:
    path = tmp_path / "value"
    path.write_bytes(dumps_mappable(np.zeros(2**20)))
    mapped = packing.load(packing.from_file(path))  # this process is the second one to map it
    assert not mapped.any()
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    child = context.Process(target=_private_kib, args=(path, results))
    child.start()
    assert results.get() < 1024  # of 8192 KiB
    child.join()
