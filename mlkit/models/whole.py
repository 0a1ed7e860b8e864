"""Preprocessing as part of a torch module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlkit.models.model import Array, Structure

if TYPE_CHECKING:
    import torch

__all__ = ["Preprocess", "is_module", "tensors", "whole"]


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Preprocessing of the first input, compiled into the model.

    uint8 images [N, H, W, C] become float32 [N, C, H, W], ``(x - mean) / scale``.

    Attributes:
        mean: is subtracted; one number, or one per channel.
        scale: is divided by; one number, or one per channel.
        channels_first: whether to move the channels to axis 1, the layout of torch's convolutions.
    """

    mean: float | tuple[float, ...] = 0.0
    scale: float | tuple[float, ...] = 1.0
    channels_first: bool = True

    def constants(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and scale as tensors on the CPU."""
        import torch

        return torch.as_tensor(self.mean).float(), torch.as_tensor(self.scale).float()

    def apply(
        self, x: torch.Tensor, constants: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Preprocess a tensor, with `constants` on its device."""
        mean, scale = constants or self.constants()
        x = (x.float() - mean) / scale
        return x.permute(0, 3, 1, 2) if self.channels_first else x


def is_module(value: Any) -> bool:
    """Whether a value is a torch module; does not import torch."""
    # By name: another thread may be importing torch, whose attributes are missing until then.
    names = (f"{cls.__module__}.{cls.__qualname__}" for cls in type(value).__mro__)
    return "torch.nn.modules.module.Module" in names


def tensors(arrays: Sequence[Array]) -> list[torch.Tensor]:
    """Convert arrays to CPU tensors, without a copy if possible."""
    import numpy as np
    import torch

    return [
        torch.from_numpy(a if a.flags.writeable else a.copy())
        for a in map(np.ascontiguousarray, arrays)
    ]


def whole(module: torch.nn.Module, preprocess: Preprocess | None) -> torch.nn.Module:
    """Return a module that preprocesses, runs ``module``, and returns a flat tuple of tensors."""
    import torch

    # Classes are in reference cycles. This one must not refer to the module, whose memory would
    # then be freed by the garbage collector only.
    class Whole(torch.nn.Module):
        module: torch.nn.Module
        mean: torch.Tensor
        scale: torch.Tensor

        def forward(self, *arrays: torch.Tensor) -> tuple[torch.Tensor, ...]:
            if preprocess is not None:
                first = preprocess.apply(arrays[0], (self.mean, self.scale))
                arrays = (first, *arrays[1:])
            return tuple(Structure.unpack(self.module(*arrays))[1])

    wrapper = Whole()
    wrapper.module = module
    if preprocess is not None:
        # They move to the device with the module: sending them in each call would be slow, and is
        # not possible in a CUDA graph.
        mean, scale = preprocess.constants()
        wrapper.mean = torch.nn.Buffer(mean, persistent=False)
        wrapper.scale = torch.nn.Buffer(scale, persistent=False)
    return wrapper.eval()
