"""Models that torch runs eagerly, on the CPU or a CUDA device."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch

from mlkit.models.cuda import CudaCalls
from mlkit.models.model import Array, ArraySpec, CompiledModel, Structure, Target
from mlkit.models.whole import tensors

__all__ = ["TorchModel"]

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TorchModel(CompiledModel):
    """A torch module with the interface of compiled models; see `CudaCalls` for CUDA devices.

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
        self._turns = threading.BoundedSemaphore(target.workers)
        self._cuda: CudaCalls | None = None
        if target.device == "cpu":
            # The setting is global to the process, and each concurrent call has that many.
            torch.set_num_threads(max(1, target.threads // target.workers))
        else:
            fixed = all(None not in spec.shape for spec in inputs)
            self._cuda = CudaCalls(
                self._compute, self._device, independent=independent, fixed=fixed
            )

    def _run(self, arrays: Sequence[Array]) -> Sequence[Array]:
        if self._cuda is not None:
            return self._cuda(arrays)
        with self._turns, torch.inference_mode():
            return [result.numpy() for result in self._compute(*tensors(arrays))]

    def _compute(self, *inputs: torch.Tensor) -> Sequence[torch.Tensor]:
        half = HALVES.get(self.target.precision)
        # A CUDA graph must not refer to a cache of converted weights that is gone at its replay.
        with torch.autocast(self._device.type, half, enabled=half is not None, cache_enabled=False):
            results = self._module(*inputs)
        # Results keep the dtypes that they have in fp32; numpy has no bfloat16.
        halves = {torch.bfloat16, half}
        return [result.float() if result.dtype in halves else result for result in results]
