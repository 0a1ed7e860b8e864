"""Calls on a CUDA device: one thread, page-locked transfers, and CUDA graphs for fixed shapes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
import torch

from mlkit.models.model import Array
from mlkit.models.whole import tensors

__all__ = ["CudaCalls", "padded_size"]

Compute: TypeAlias = Callable[..., Sequence[torch.Tensor]]
"""From tensors on the device to tensors on the device."""

MAX_POWER_OF_TWO = 64
"""Batches up to this size are padded to a power of two, larger ones to a multiple of it."""

WARM_UP_CALLS = 3
"""Calls before a graph is recorded, in which libraries choose their kernels and allocate."""


class CudaCalls:
    """Calls of a function on a CUDA device, from any thread.

    One thread makes all calls, and batches of independent items are padded to a few sizes: cuDNN
    plans each convolution once per thread and shape, which takes a hundred times as long as the
    call. The calls of each of these sizes are recorded as a CUDA graph: launching hundreds of small
    kernels from Python takes longer than they run. A function that cannot be recorded, for it looks
    at its values or moves them to the CPU, runs without, with a warning.

    Args:
        compute: the function.
        device: the CUDA device.
        independent: whether the items along axis 0 are independent, so that they can be padded.
        fixed: whether the shapes are always the same.
    """

    def __init__(
        self, compute: Compute, device: torch.device, *, independent: bool, fixed: bool
    ) -> None:
        self._compute = compute
        self._device = device
        self._independent = independent
        self._recorded = independent or fixed
        self._graphs: dict[tuple[torch.Size, ...], _Graph] = {}
        self._pool: Any = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mlkit-cuda")

    def __call__(self, arrays: Sequence[Array]) -> list[Array]:
        """Compute results from arrays."""
        inputs = tensors(arrays)
        if not self._independent:
            staged = [_staged(tensor) for tensor in inputs]
            results = self._thread.submit(self._call, staged).result()
            return [np.array(result) for result in results]
        count = len(arrays[0])
        # Here, and not in the device's thread, which has the calls of others meanwhile.
        staged = [_staged(tensor, padded_size(count)) for tensor in inputs]
        results = self._thread.submit(self._call, staged).result()
        return [np.array(result[:count]) for result in results]

    def _call(self, staged: Sequence[torch.Tensor]) -> list[Array]:
        with torch.inference_mode(), torch.cuda.device(self._device):
            hosts = []
            for result in self._results(staged):
                host = _page_locked(result.shape, result.dtype)
                hosts.append(host.copy_(result, non_blocking=True))
            torch.cuda.current_stream().synchronize()
            return [host.numpy() for host in hosts]

    def _results(self, staged: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        shapes = tuple(tensor.shape for tensor in staged)
        graph = self._graphs.get(shapes)
        if graph is None and self._records(shapes):
            graph = self._record(staged)
        if graph is not None:
            return graph(staged)
        return self._compute(*(self._sent(tensor) for tensor in staged))

    def _records(self, shapes: tuple[torch.Size, ...]) -> bool:
        return self._recorded and not (self._independent and shapes[0][0] > MAX_POWER_OF_TWO)

    def _record(self, staged: Sequence[torch.Tensor]) -> _Graph | None:
        if self._pool is None:
            # The graphs share their memory: no two of them run at a time, and results are copied.
            self._pool = torch.cuda.graph_pool_handle()
        try:
            graph = _Graph(self._compute, [self._sent(tensor) for tensor in staged], self._pool)
        except RuntimeError as error:
            self._recorded = False
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(f"no CUDA graph, so calls are slower: {reason}", stacklevel=2)
            return None
        return self._graphs.setdefault(tuple(tensor.shape for tensor in staged), graph)

    def _sent(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self._device, non_blocking=True)


class _Graph:
    """A recorded call, whose inputs and results stay at their places in the device's memory.

    Raises:
        RuntimeError: it cannot be recorded, or does not run at all.
    """

    def __init__(self, compute: Compute, inputs: Sequence[torch.Tensor], pool: Any) -> None:
        self._inputs = inputs
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_CALLS):
                compute(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # Other models may run in threads of their own.
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self._results = compute(*inputs)

    def __call__(self, staged: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        for place, tensor in zip(self._inputs, staged, strict=True):
            place.copy_(tensor, non_blocking=True)
        self._graph.replay()
        return self._results


def padded_size(count: int) -> int:
    """Size to which a batch of ``count`` items is padded."""
    if count > MAX_POWER_OF_TWO:
        return -(-count // MAX_POWER_OF_TWO) * MAX_POWER_OF_TWO
    return 1 << (count - 1).bit_length()


def _staged(tensor: torch.Tensor, size: int | None = None) -> torch.Tensor:
    """Copy a tensor to page-locked memory, padded to a size by repeating its last row."""
    if size is None:
        return _page_locked(tensor.shape, tensor.dtype).copy_(tensor)
    staged = _page_locked((size, *tensor.shape[1:]), tensor.dtype)
    staged[: len(tensor)] = tensor
    staged[len(tensor) :] = tensor[-1:]
    return staged


def _page_locked(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Allocate memory that the device reads and writes by itself, from torch's cache of it."""
    return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)
