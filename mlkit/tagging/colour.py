"""The main colours of the product in an image."""

from __future__ import annotations

from mlkit.define import step
from mlkit.media.image import Image
from mlkit.tagging.types import Box, Colour

__all__ = ["colours"]


@step
def colours(picture: Image, box: Box | None) -> list[Colour]:
    """Return the main colours of the product, most prominent first, without its background.

    Args:
        picture: the image, of which a few thousand pixels are sampled.
        box: bounding box of the product; None for the whole image.

    Returns:
        One to four colours with their shares of the product.
    """
    from mlkit.tagging.dominant import dominant_colours  # loads numpy

    return dominant_colours(picture, box)
