"""The network: one backbone, two heads, and class activation maps.

Both heads share one forward pass of EfficientNet-Lite0's trunk. ImageNet labels come from its own
head, the product class from a copy of that head's last convolution, fine-tuned on photos of
clothing (`tools/train.py`). The second head takes 5% of the time.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from mlkit.models import CompiledModel

__all__ = ["CLASSES", "SIDE", "load_tagging_model", "min_garment"]

SIDE = 224
"""Side of the network's square input, in pixels."""

CLASSES = (
    "dress",
    "hat",
    "longsleeve",
    "outwear",
    "pants",
    "shirt",
    "shoes",
    "shorts",
    "skirt",
    "t-shirt",
)

WIDTH = 1280
"""Channels of the last convolution, as in EfficientNet-Lite0."""


def weights_file() -> Path:
    """Path of the product head's weights."""
    return Path(str(resources.files("mlkit.tagging").joinpath("weights/product_head.safetensors")))


@cache
def min_garment() -> float:
    """Total ImageNet probability of garments below which an image shows none, from training."""
    return float(json.loads(weights_file().with_suffix(".json").read_text())["min_garment"])


def product_head() -> torch.nn.Sequential:
    """Build the trained layers: from [N, 320, 7, 7] to [N, 1280, 7, 7], and to 10 classes."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(320, WIDTH, 1, bias=False),
        nn.BatchNorm2d(WIDTH, eps=1e-3),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(WIDTH, len(CLASSES)),
    )


def trunk(net: Any, x: torch.Tensor) -> torch.Tensor:
    """Run EfficientNet-Lite0 up to its last block: from [N, 3, 224, 224] to [N, 320, 7, 7]."""
    x = net._swish(net._bn0(net._conv_stem(x)))
    for block in net._blocks:
        x = block(x)
    return x


def _build_network(head: torch.nn.Sequential) -> torch.nn.Module:
    """Combine backbone and heads into one module, from normalised images to batches of `Seen`.

    Class activation maps are the features before pooling, weighted by the classifier's weights of
    a class (Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016).
    """
    import torch
    from torch import nn

    from mlkit.models import efficientnet_lite0

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net: Any = efficientnet_lite0()
            self.head = head

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            net = self.net
            shared = trunk(net, x)
            general = net._swish(net._bn1(net._conv_head(shared)))
            labels = net._fc(general.mean((2, 3))).softmax(-1)
            own = self.head[2](self.head[1](self.head[0](shared)))
            linear: Any = self.head[6]
            classes = linear(own.mean((2, 3))).softmax(-1)
            class_maps = torch.einsum("nchw,kc->nkhw", own, linear.weight)
            of_best = net._fc.weight[labels.argmax(-1)]
            label_map = torch.einsum("nchw,nc->nhw", general, of_best)
            return labels, classes, class_maps, label_map

    return Network().eval()


def load_tagging_model() -> CompiledModel:
    """Compile the network for this machine: from uint8 [N, 224, 224, 3] to batches of `Seen`."""
    import numpy as np

    from mlkit.models import Preprocess, compile_model, content_key
    from mlkit.models.zoo import LITE0_SHA256

    return compile_model(
        _network_with_weights,
        example=np.zeros((1, SIDE, SIDE, 3), np.uint8),
        preprocess=Preprocess(mean=127.0, scale=128.0),
        batch_sizes=(1,),
        cache_key=content_key([LITE0_SHA256, weights_file(), Path(__file__)]),
    )


def _network_with_weights() -> torch.nn.Module:
    from safetensors.torch import load_file

    head = product_head()
    head.load_state_dict({k: v.float() for k, v in load_file(weights_file()).items()}, strict=False)
    return _build_network(head.eval())
