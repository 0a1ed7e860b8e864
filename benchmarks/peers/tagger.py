"""What every server runs: the steps of the tagging pipeline, called in sequence."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from mlkit.tagging import (
    ProductTags,
    colours,
    combine,
    decode,
    imagenet_labels,
    localise,
    look,
    product_class,
)
from mlkit.tagging.network import load_tagging_model

if TYPE_CHECKING:
    import numpy as np

__all__ = ["EagerModel", "Tagger", "load_model"]


class EagerModel:
    """The network as most people first run it: eager torch in fp32, its default threads."""

    def __init__(self) -> None:
        from mlkit.tagging.network import _network_with_weights

        self.network = _network_with_weights()

    def __call__(self, pixels: np.ndarray) -> tuple[np.ndarray, ...]:
        """Run it on uint8 images [N, 224, 224, 3]."""
        import torch

        with torch.inference_mode():
            x = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - 127.0) / 128.0
            return tuple(output.numpy() for output in self.network(x))


def load_model() -> Any:
    """The model that the runner asks for: mlkit's compiled one, or the eager one."""
    return EagerModel() if os.environ.get("PEERS_MODEL") == "eager" else load_tagging_model()


class Tagger:
    """Tags an image file; may be called from several threads."""

    def __init__(self, model: Any = None) -> None:
        self.model = model or load_model()

    def __call__(self, data: bytes) -> ProductTags:
        """Tag the image in the bytes of a file."""
        picture = decode.fn(data)
        [seen] = look.fn([picture], model=self.model)
        box = localise.fn(picture, seen)
        product, labels = product_class.fn(seen), imagenet_labels.fn(seen)
        tags: ProductTags = combine.fn(product, labels, box, colours.fn(picture, box), [])
        return tags
