"""Models that plain torch runs: eager, on the CPU or on a CUDA device."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlkit.models.model import Array, ArraySpec, CompiledModel, Structure, Target
from mlkit.models.whole import tensors

if TYPE_CHECKING:
    import torch

__all__ = ["TorchModel"]


class TorchModel(CompiledModel):
    """A torch module behind the interface of compiled models."""

    def __init__(
        self,
        module: torch.nn.Module,
        target: Target,
        inputs: tuple[ArraySpec, ...],
        structure: Structure,
    ) -> None:
        import torch

        super().__init__(target, inputs, structure)
        self._device = torch.device(target.device)
        self._module = module.to(self._device)
        self._turns = threading.BoundedSemaphore(target.workers)
        if target.device == "cpu":
            # torch has one setting for the whole process.
            torch.set_num_threads(target.threads)

    def _run(self, arrays: Sequence[Array]) -> Sequence[Array]:
        import torch

        half = torch.autocast(
            self._device.type, torch.bfloat16, enabled=self.target.precision == "bf16"
        )
        with self._turns, torch.inference_mode(), half:
            results = self._module(*(t.to(self._device) for t in tensors(arrays)))
            # numpy has no bfloat16.
            return [(r.float() if r.dtype == torch.bfloat16 else r).cpu().numpy() for r in results]
