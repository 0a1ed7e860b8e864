"""A torch module with its preprocessing in front, as one module that takes raw arrays."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlkit.models.model import Array, Structure

if TYPE_CHECKING:
    import torch

__all__ = ["Preprocess", "is_module", "tensors", "whole"]


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """What happens to the first input before the module sees it, inside the compiled graph.

    A uint8 picture [N, H, W, C] becomes float32 [N, C, H, W], ``(x - mean) / scale``.

    Attributes:
        mean: subtracted; one number, or one for each channel.
        scale: divided by, after that; likewise.
        channels_first: whether the channels move to axis 1, as torch's convolutions have them.
    """

    mean: float | tuple[float, ...] = 0.0
    scale: float | tuple[float, ...] = 1.0
    channels_first: bool = True

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Do it to a tensor."""
        import torch

        mean = torch.as_tensor(self.mean, dtype=torch.float32, device=x.device)
        scale = torch.as_tensor(self.scale, dtype=torch.float32, device=x.device)
        x = (x.to(torch.float32) - mean) / scale
        return x.permute(0, 3, 1, 2) if self.channels_first else x


def is_module(thing: Any) -> bool:
    """Whether this is a torch module; torch is not imported to find out."""
    # Who has a module has imported torch.
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(thing, torch.nn.Module)


def tensors(arrays: Sequence[Array]) -> list[torch.Tensor]:
    """Return arrays as tensors on the CPU, without a copy where torch allows it."""
    import numpy as np
    import torch

    return [
        torch.from_numpy(a if a.flags.writeable else a.copy())
        for a in map(np.ascontiguousarray, arrays)
    ]


def whole(module: torch.nn.Module, preprocess: Preprocess | None) -> torch.nn.Module:
    """Return a module that preprocesses, runs ``module``, and returns its tensors in a tuple."""
    import torch

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *arrays: torch.Tensor) -> tuple[torch.Tensor, ...]:
            if preprocess is not None:
                arrays = (preprocess.apply(arrays[0]), *arrays[1:])
            return tuple(Structure.unpack(self.module(*arrays))[1])

    return Whole().eval()
