"""The network: one backbone, two heads, and class activation maps.

Both heads share one forward pass of EfficientNet-Lite0. ImageNet labels come from its own head, the
product class from a small perceptron, trained on photos of clothing (`tools/train.py`). The
perceptron sees the maps of three blocks on a coarse grid: sleeves and collars are told apart by
details that the last block has dropped, and by where in the image they are.
"""

from __future__ import annotations

import json
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlkit.errors import DefinitionError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from mlkit.models import Artefact, CompiledModel

__all__ = ["CLASSES", "SIDE", "load_tagging_model", "min_evidence"]

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

TAPS = (10, 13, 15)
"""Blocks of the backbone whose maps the product head sees; they have 112, 192 and 320 channels."""

GRID = 3
"""Regions along each side of the maps."""

REGION = 3
"""Cells along each side of a region."""

STRIDE = REGION - 1
"""Cells from one region to the next: neighbours share a line of cells."""

FEATURES = (112 + 192 + 320) * GRID**2
"""Features of the product head: each channel of the maps, in each region."""

HIDDEN = 256
"""Units of the product head's hidden layer."""


def weights_file() -> Path:
    """Path of the product head's weights."""
    return Path(str(resources.files("mlkit.tagging").joinpath("weights/product_head.safetensors")))


@cache
def min_evidence() -> float:
    """Evidence for clothing, as log-odds, below which an image shows none; from training."""
    return float(json.loads(weights_file().with_suffix(".json").read_text())["min_evidence"])


def product_head() -> torch.nn.Sequential:
    """Build the trained layers: from features [N, 5616] to logits [N, 10]."""
    from torch import nn

    return nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, len(CLASSES)))


def activations(net: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Run EfficientNet-Lite0 on normalised images [N, 3, 224, 224].

    Returns:
        The maps of all `TAPS` [N, 624, 7, 7], and those of the backbone's head [N, 1280, 7, 7].
    """
    import torch

    x = net._swish(net._bn0(net._conv_stem(x)))
    maps = []
    for number, block in enumerate(net._blocks):
        x = block(x)
        if number in TAPS:
            # Earlier maps have twice the side.
            maps.append(torch.nn.functional.avg_pool2d(x, 2) if x.shape[-1] > 7 else x)
    return torch.cat(maps, 1), net._swish(net._bn1(net._conv_head(x)))


def features(maps: torch.Tensor) -> torch.Tensor:
    """Pool the maps of all `TAPS` [N, 624, 7, 7] to features [N, 5616]."""
    import torch

    return torch.nn.functional.avg_pool2d(maps, REGION, STRIDE).flatten(1)


def _build_network(head: torch.nn.Sequential) -> torch.nn.Module:
    """Combine backbone and heads into one module, from normalised images to batches of `Seen`.

    The label's activation map is the features before pooling, weighted by the classifier's weights
    of the label (Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016).
    That of the most likely product class is weighted by the gradient of its logit, cell by cell
    (Draelos and Carin, "Use HiResCAM instead of Grad-CAM", arXiv:2011.08891). The perceptron is
    piecewise linear, so that its gradient is a product of its weights.
    """
    import torch
    from torch import nn

    from mlkit.models import efficientnet_lite0

    class Network(nn.Module):
        regions: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.net: Any = efficientnet_lite0()
            self.head = head
            cells = torch.eye(49).reshape(49, 1, 7, 7)
            pooled = nn.functional.avg_pool2d(cells, REGION, STRIDE)
            # Share of each cell in each region, [9, 7, 7].
            self.register_buffer("regions", pooled.reshape(7, 7, GRID**2).permute(2, 0, 1))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            net = self.net
            maps, general = activations(net, x)
            labels = net._fc(general.mean((2, 3))).softmax(-1)
            hidden = self.head[0](features(maps))
            logits = self.head[2](hidden.relu())
            of_best = net._fc.weight[labels.argmax(-1)]
            label_map = torch.einsum("nchw,nc->nhw", general, of_best)
            class_map = self.class_map(maps, hidden, logits)
            return labels, logits.softmax(-1), class_map, label_map

        def class_map(
            self, maps: torch.Tensor, hidden: torch.Tensor, logits: torch.Tensor
        ) -> torch.Tensor:
            """Maps [N, 7, 7] that average to the logit of the most likely class."""
            first: Any = self.head[0]
            last: Any = self.head[2]
            active = (hidden > 0).to(hidden.dtype)
            slopes = (last.weight[logits.argmax(-1)] * active) @ first.weight
            by_channel = slopes.unflatten(1, (-1, GRID**2))
            by_region = torch.einsum("ncr,nchw->nrhw", by_channel, maps) * self.regions
            heat = 49 * by_region.sum(1)
            # What the biases contribute comes from no cell; all get the same share of it.
            return heat + (logits.amax(-1) - heat.mean((1, 2)))[:, None, None]

    return Network().eval()


def load_tagging_model(head: Artefact | None = None) -> CompiledModel:
    """Compile the network for this machine: from uint8 [N, 224, 224, 3] to batches of `Seen`.

    In bf16 only where it gives the example pictures the same classes.

    Args:
        head: a product head that was trained anew, as ``tools.train`` saves it; by default, the
            one that this package has.

    Raises:
        DefinitionError: the head takes other features, or has other classes.
    """
    from mlkit.models import Preprocess, compile_model, content_key
    from mlkit.models.zoo import LITE0_SHA256

    return compile_model(
        _network_with_weights if head is None else partial(_network_with, head),
        example=_examples(),
        preprocess=Preprocess(mean=127.0, scale=128.0),
        batch_sizes=(1, 2, 4),
        cache_key=content_key(
            [LITE0_SHA256, weights_file() if head is None else head.key, Path(__file__)]
        ),
    )


def _examples() -> np.ndarray:
    """Read eight pictures of products [8, 224, 224, 3], from the sample catalogue."""
    import numpy as np
    from PIL import Image

    with Image.open(weights_file().with_name("examples.jpg")) as column:
        return np.asarray(column).reshape(-1, SIDE, SIDE, 3)


def _network_with_weights() -> torch.nn.Module:
    from safetensors.torch import load_file

    head = product_head()
    head.load_state_dict({k: v.float() for k, v in load_file(weights_file()).items()})
    return _build_network(head.eval())


def _network_with(head: Artefact) -> torch.nn.Module:
    module = product_head()
    try:
        module.load_state_dict(head.module.state_dict())  # type: ignore[union-attr]
    except (AttributeError, RuntimeError):
        raise DefinitionError(
            "not a product head",
            where="load_tagging_model",
            expected=f"a perceptron from {FEATURES} features by {HIDDEN} units to "
            f"{len(CLASSES)} classes, as `python -m tools.train ... --store` saves it",
            got=repr(head),
        ) from None
    return _build_network(module.eval())
