"""Classification: one forward pass of the network, and the interpretation of its outputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, TypeVar, cast

from mlkit.define import batched_step, resource, step
from mlkit.media.image import Image
from mlkit.models import CompiledModel
from mlkit.tagging.network import CLASSES, SIDE, load_tagging_model, min_evidence
from mlkit.tagging.types import Label, ProductClass

if TYPE_CHECKING:
    import numpy as np

Numbers = TypeVar("Numbers", float, "np.ndarray")

__all__ = [
    "GARMENTS",
    "Seen",
    "garment_evidence",
    "garment_share",
    "imagenet_labels",
    "look",
    "product_class",
]

MAX_LABELS = 5
MIN_LABEL = 0.02
"""Score below which an ImageNet label is noise; chance level is 0.001."""

CLASS_WEIGHT = 0.25
"""Weight of the product class's log-odds in the evidence for clothing, chosen in training."""

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
        class_map: activation map of the most likely product class [7, 7].
        label_map: activation map of the most likely ImageNet label [7, 7].
    """

    labels: np.ndarray
    classes: np.ndarray
    class_map: np.ndarray
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
    evidence = garment_evidence(garment_share(seen.labels), seen.classes.max())
    return bool(evidence >= min_evidence())


def garment_evidence(share: Numbers, best: Numbers) -> Numbers:
    """Combine the total probability of garments and that of the best product class, as log-odds.

    A garment that fills the picture may be a rug or a quilt to ImageNet, but not to the product
    class; other things may be a sure class, but no garment to ImageNet.
    """
    import numpy as np

    garment, product = (np.clip(part, 1e-6, 1 - 1e-6) for part in (share, best))
    odds = np.log(garment / (1 - garment)) + CLASS_WEIGHT * np.log(product / (1 - product))
    return cast("Numbers", odds)


def garment_share(labels: np.ndarray) -> float:
    """Total probability of garments among ImageNet probabilities [1000]."""
    return float(labels[_garment_indices()].sum())


@cache
def _garment_indices() -> np.ndarray:
    import numpy as np

    from mlkit.models import imagenet_names

    return np.array([i for i, name in enumerate(imagenet_names()) if name in GARMENTS])
