"""Models that torch runs eagerly, on the CPU or a CUDA device."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from mlkit.models.model import Array, ArraySpec, CompiledModel, Structure, Target
from mlkit.models.whole import tensors

__all__ = ["TorchModel"]


MAX_POWER_OF_TWO = 64
"""Batches up to this size are padded to a power of two, larger ones to a multiple of it."""


class TorchModel(CompiledModel):
    """A torch module with the interface of compiled models.

    On a CUDA device one thread makes all calls, and batches of independent items are padded to a
    few sizes: cuDNN plans each convolution once per thread and shape, which takes a hundred times
    as long as the call.

    Args:
        module: includes its preprocessing; returns a tuple of tensors.
        target: where and how it runs.
        inputs: dtypes and shapes of its inputs.
        structure: structure of its results.
        independent: whether the items along axis 0 are independent.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        target: Target,
        inputs: tuple[ArraySpec, ...],
        structure: Structure,
        *,
        independent: bool = False,
    ) -> None:
        super().__init__(target, inputs, structure)
        self._device = torch.device(target.device)
        self._module = module.to(self._device)
        self._independent = independent
        self._turns = threading.BoundedSemaphore(target.workers)
        self._lane: ThreadPoolExecutor | None = None
        if target.device == "cpu":
            # The setting is global to the process.
            torch.set_num_threads(target.threads)
        else:
            self._lane = ThreadPoolExecutor(1, thread_name_prefix="mlkit-cuda")

    def _run(self, arrays: Sequence[Array]) -> Sequence[Array]:
        if self._lane is None:
            with self._turns:
                return self._compute(arrays)
        if not self._independent:
            return self._lane.submit(self._compute, arrays).result()
        count = len(arrays[0])
        size = padded_size(count)
        results = self._lane.submit(self._compute, [padded(a, size) for a in arrays]).result()
        return [r[:count] for r in results]

    def _compute(self, arrays: Sequence[Array]) -> Sequence[Array]:
        half = torch.autocast(
            self._device.type, torch.bfloat16, enabled=self.target.precision == "bf16"
        )
        with torch.inference_mode(), half:
            results = self._module(*(t.to(self._device) for t in tensors(arrays)))
            # numpy has no bfloat16.
            return [(r.float() if r.dtype == torch.bfloat16 else r).cpu().numpy() for r in results]


def padded_size(count: int) -> int:
    """Size to which a batch of ``count`` items is padded."""
    if count > MAX_POWER_OF_TWO:
        return -(-count // MAX_POWER_OF_TWO) * MAX_POWER_OF_TWO
    return 1 << (count - 1).bit_length()


def padded(array: Array, size: int) -> Array:
    """Pad an array to a size by repeating its last row."""
    missing = size - len(array)
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array
