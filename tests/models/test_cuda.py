"""Calls on a CUDA device, on a fake: its tensors are the CPU's, and its graphs compute again."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from mlkit.models import cuda as cuda_calls
from mlkit.models.cuda import CudaCalls, padded_size

CPU = torch.device("cpu")


class FakeCuda:
    """What is used of ``torch.cuda``.

    A graph has what was computed while it was recorded; a replay computes it again, into the same
    results, from what its inputs have then.

    Attributes:
        recorded: sizes of the batches for which a graph was recorded.
        replayed: number of replays.
        allocated: shapes of page-locked memory.
    """

    def __init__(self) -> None:
        self.recorded: list[int] = []
        self.replayed = 0
        self.allocated: list[tuple[int, ...]] = []
        self.capturing: Any = None

    def CUDAGraph(self) -> Any:
        cuda = self

        class Graph:
            replays: Any = None

            def replay(self) -> None:
                cuda.replayed += 1
                self.replays()

        return Graph()

    @contextmanager
    def graph(self, graph: Any, *, pool: Any, capture_error_mode: str) -> Any:
        assert (pool, capture_error_mode) == ("pool", "thread_local")
        self.capturing = graph
        try:
            yield
        finally:
            self.capturing = None

    def graph_pool_handle(self) -> str:
        return "pool"

    def device(self, device: Any) -> Any:
        return nullcontext()

    stream = device

    def Stream(self) -> Any:
        class Stream:
            def wait_stream(self, other: Any) -> None: ...

            def synchronize(self) -> None: ...

        return Stream()

    current_stream = Stream

    def page_locked(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        self.allocated.append(tuple(shape))
        return torch.empty(tuple(shape), dtype=dtype)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    for name in ("CUDAGraph", "Stream", "current_stream", "device", "graph", "stream"):
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", fake.graph_pool_handle)
    monkeypatch.setattr(cuda_calls, "_page_locked", fake.page_locked)
    return fake


class Square:
    """The computation; remembers sizes and threads of its calls."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.calls: list[tuple[int, int]] = []

    def __call__(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        self.calls.append((len(x), threading.get_ident()))
        result = x * x
        if self.cuda.capturing is not None:
            self.cuda.recorded.append(len(x))
            result.fill_(torch.nan)  # recording computes nothing
            self.cuda.capturing.replays = lambda: result.copy_(x * x)
        return (result,)


def rows(count: int, value: float) -> np.ndarray:
    return np.full((count, 2), value, np.float32)


def check(calls: CudaCalls, sizes: Sequence[int]) -> None:
    inputs = [rows(n, i + 1) for i, n in enumerate(sizes)]
    with ThreadPoolExecutor(4) as callers:
        for array, (result,) in zip(inputs, callers.map(lambda a: calls([a]), inputs), strict=True):
            np.testing.assert_array_equal(result, array * array)


@pytest.mark.parametrize(
    ("count", "size"), [(1, 1), (2, 2), (3, 4), (5, 8), (33, 64), (64, 64), (65, 128), (130, 192)]
)
def test_sizes_are_few(count: int, size: int) -> None:
    assert padded_size(count) == size


def test_batches_of_few_sizes_are_recorded_once_and_replayed(cuda: FakeCuda) -> None:
    square = Square(cuda)
    check(CudaCalls(square, CPU, independent=True, fixed=False), [3, 7, 3, 7, 4])
    assert sorted(cuda.recorded) == [4, 8]
    assert cuda.replayed == 5
    assert len({thread for _, thread in square.calls}) == 1


def test_large_batches_are_padded_and_not_recorded(cuda: FakeCuda) -> None:
    square = Square(cuda)
    check(CudaCalls(square, CPU, independent=True, fixed=False), [65, 100])
    assert (cuda.recorded, [size for size, _ in square.calls]) == ([], [128, 128])


@pytest.mark.parametrize(("fixed", "recorded"), [(True, [5]), (False, [])])
def test_what_must_not_be_padded_is_recorded_if_its_shape_is_fixed(
    cuda: FakeCuda, fixed: bool, recorded: list[int]
) -> None:
    square = Square(cuda)
    check(CudaCalls(square, CPU, independent=False, fixed=fixed), [5, 5])
    assert cuda.recorded == recorded
    assert {size for size, _ in square.calls} == {5}


def test_what_cannot_be_recorded_runs_without_a_graph_and_says_so_once(cuda: FakeCuda) -> None:
    def looks(x: torch.Tensor) -> Sequence[torch.Tensor]:
        if cuda.capturing is not None:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        return (x * x,)

    calls = CudaCalls(looks, CPU, independent=True, fixed=False)
    with pytest.warns(UserWarning, match="no CUDA graph.*is capturing$") as warned:
        check(calls, [3, 3, 7])
    assert len(warned) == 1
    assert cuda.replayed == 0


def test_an_error_of_the_model_is_the_calls(cuda: FakeCuda) -> None:
    def fails(x: torch.Tensor) -> Sequence[torch.Tensor]:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        CudaCalls(fails, CPU, independent=True, fixed=False)([rows(1, 1)])


def test_results_are_copied_out_of_page_locked_memory(cuda: FakeCuda) -> None:
    calls = CudaCalls(Square(cuda), CPU, independent=True, fixed=False)
    (first,) = calls([rows(3, 2)])
    calls([rows(3, 5)])
    assert first.tolist() == rows(3, 4).tolist()
    assert first.base is None
    assert cuda.allocated == [(4, 2)] * 4  # to the device and back, twice
