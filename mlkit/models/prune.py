"""Magnitude pruning: the smallest weights, or the convolutions' smallest channels, become zero."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mlkit.errors import MlkitError

if TYPE_CHECKING:
    import torch

__all__ = ["prune_channels", "prune_weights"]


def prune_weights(
    module: torch.nn.Module, share: float, fine_tune: Callable[[torch.nn.Module], object] | None
) -> None:
    """Set a share of the weights of convolutions and linear layers to zero, the smallest of all.

    The shape stays: it is smaller when compressed, and faster only where kernels are sparse (Han et
    al., "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015).

    Args:
        module: is changed in place.
        share: from 0 to 1.
        fine_tune: trains the module in place; weights that are zero stay so.

    Raises:
        MlkitError: the module has no such layers.
    """
    from torch import nn
    from torch.nn.utils import prune

    layers = [
        layer
        for layer in module.modules()
        if isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear))
    ]
    if not layers:
        raise MlkitError("the module has no convolution and no linear layer", where="optimize")
    masked = [(layer, "weight") for layer in layers]
    prune.global_unstructured(masked, prune.L1Unstructured, amount=share)
    _finish(module, masked, fine_tune)


def prune_channels(
    module: torch.nn.Module,
    share: float,
    fine_tune: Callable[[torch.nn.Module], object] | None,
    run: Callable[[], object],
) -> None:
    """Set a share of the channels of each convolution to zero: those with the smallest norm.

    Of a convolution that a batch normalisation follows, its scale and shift as well, so that the
    channels are zero in what follows and the compiler can remove them (Li et al., "Pruning Filters
    for Efficient ConvNets", ICLR 2017).

    Args:
        module: is changed in place.
        share: from 0 to 1.
        fine_tune: trains the module in place; channels that are zero stay so.
        run: calls the module with an example, to see which layer follows which.

    Raises:
        MlkitError: no convolution can lose channels.
    """
    import torch
    from torch import nn
    from torch.nn.utils import prune

    followers = _normalisations(module, run)
    masked: list[tuple[nn.Module, str]] = []
    for layer in [m for m in module.modules() if isinstance(m, nn.modules.conv._ConvNd)]:
        count = int(share * layer.out_channels)
        if layer.groups != 1 or layer.transposed or not count:
            continue
        norms = layer.weight.detach().flatten(1).norm(dim=1)
        follower = followers.get(layer)
        if follower is not None and follower.affine and follower.running_var is not None:
            norms = norms * follower.weight.detach().abs() / follower.running_var.sqrt()
        keep = torch.ones(layer.out_channels)
        keep[norms.argsort()[:count]] = 0
        shape = (-1, *[1] * (layer.weight.ndim - 1))
        masks: list[tuple[nn.Module, str, torch.Tensor]]
        masks = [(layer, "weight", keep.view(shape).expand_as(layer.weight).clone())]
        masks += [
            (owner, name, keep)
            for owner, name in ((layer, "bias"), (follower, "weight"), (follower, "bias"))
            if owner is not None and getattr(owner, name) is not None
        ]
        for owner, name, mask in masks:
            prune.custom_from_mask(owner, name, mask)  # type: ignore[no-untyped-call]
            masked.append((owner, name))
    if not masked:
        raise MlkitError("no convolution can lose channels", where="optimize")
    _finish(module, masked, fine_tune)


def _normalisations(
    module: torch.nn.Module, run: Callable[[], object]
) -> dict[torch.nn.Module, torch.nn.modules.batchnorm._BatchNorm]:
    """The batch normalisation that takes a convolution's output, by convolution."""
    from torch import nn

    outputs: list[tuple[nn.Module, torch.Tensor]] = []
    pairs: dict[nn.Module, nn.modules.batchnorm._BatchNorm] = {}

    def record_output(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        outputs.append((layer, output))

    def pair_with_producer(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        producer = next((conv for conv, output in outputs if output is inputs[0]), None)
        if producer is not None and isinstance(layer, nn.modules.batchnorm._BatchNorm):
            pairs[producer] = layer

    handles = [
        layer.register_forward_hook(record_output)
        if isinstance(layer, nn.modules.conv._ConvNd)
        else layer.register_forward_pre_hook(pair_with_producer)
        for layer in module.modules()
        if isinstance(layer, (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm))
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return pairs


def _finish(
    module: torch.nn.Module,
    masked: Sequence[tuple[torch.nn.Module, str]],
    fine_tune: Callable[[torch.nn.Module], object] | None,
) -> None:
    from torch.nn.utils import prune

    if fine_tune is not None:
        fine_tune(module)
    for layer, name in masked:
        prune.remove(layer, name)  # type: ignore[no-untyped-call]
    module.eval()
