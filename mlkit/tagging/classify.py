"""Classification: one forward pass of the network, and the interpretation of its outputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from mlkit.define import batched_step, resource, step
from mlkit.media.image import Image
from mlkit.models import CompiledModel
from mlkit.tagging.network import CLASSES, SIDE, load_tagging_model, min_garment
from mlkit.tagging.types import Label, ProductClass

if TYPE_CHECKING:
    import numpy as np

__all__ = ["GARMENTS", "Seen", "garment_share", "imagenet_labels", "look", "product_class"]

MAX_LABELS = 5
MIN_LABEL = 0.02
"""Score below which an ImageNet label is noise; chance level is 0.001."""

GARMENTS = frozenset(
    """
    abaya|academic gown|apron|bearskin hat|bikini|bow tie|bra|bulletproof vest|cardigan|cloak|clogs|
    cowboy boot|cowboy hat|feather boa|fur coat|gown|hoop skirt|jeans|T-shirt|kimono|knee pad|
    lab coat|slip-on shoe|one-piece bathing suit|military uniform|miniskirt|mitten|overskirt|
    pajamas|poke bonnet|poncho|sneaker|sandal|sarong|shoe store|shower cap|ski mask|sock|sombrero|
    stole scarf|suit|sweatshirt|swim trunks|swimming cap|trench coat|velvet fabric|vestment|
    Windsor tie|wool
    """.replace("\n    ", "").split("|")
)
"""ImageNet classes of clothing and fabrics."""


@dataclass(frozen=True, eq=False)
class Seen:
    """Outputs of the network for one image.

    Attributes:
        labels: ImageNet probabilities [1000].
        classes: product class probabilities [10], given that the image shows one of them.
        class_maps: activation maps of the product classes [10, 7, 7].
        label_map: activation map of the most likely ImageNet label [7, 7].
    """

    labels: np.ndarray
    classes: np.ndarray
    class_maps: np.ndarray
    label_map: np.ndarray


@batched_step(max_batch_size=4)
def look(
    pictures: list[Image], *, model: CompiledModel = resource(load_tagging_model)
) -> list[Seen]:
    """Run the network on images resized to squares."""
    import numpy as np

    outputs = model(np.stack([picture.resized(SIDE) for picture in pictures]))
    return [Seen(*row) for row in zip(*outputs, strict=True)]


@step
def imagenet_labels(seen: Seen) -> list[Label]:
    """Return the most likely ImageNet labels, best first."""
    from mlkit.models import imagenet_names

    names = imagenet_names()
    best = seen.labels.argsort()[::-1][:MAX_LABELS]
    scores: dict[str, float] = {}
    for i in best[seen.labels[best] >= MIN_LABEL].tolist():
        # ImageNet has two classes named sunglasses.
        scores[names[i]] = scores.get(names[i], 0.0) + float(seen.labels[i])
    ranked = sorted(scores.items(), key=lambda item: -item[1])
    return [Label(name=name, score=min(1.0, score)) for name, score in ranked]


@step
def product_class(seen: Seen) -> ProductClass | None:
    """Return the kind of clothing; None if the image shows none."""
    if not shows_garment(seen):
        return None
    best = int(seen.classes.argmax())
    return ProductClass(name=CLASSES[best], score=float(seen.classes[best]))


def shows_garment(seen: Seen) -> bool:
    """Whether an image shows clothing."""
    return garment_share(seen.labels) >= min_garment()


def garment_share(labels: np.ndarray) -> float:
    """Total probability of garments among ImageNet probabilities [1000]."""
    return float(labels[_garment_indices()].sum())


@cache
def _garment_indices() -> np.ndarray:
    import numpy as np

    from mlkit.models import imagenet_names

    return np.array([i for i, name in enumerate(imagenet_names()) if name in GARMENTS])
