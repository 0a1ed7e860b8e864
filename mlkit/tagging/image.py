"""From the bytes of a picture to its pixels."""

from __future__ import annotations

from mlkit.define import step
from mlkit.media import image as images
from mlkit.media.image import Image

__all__ = ["MIN_SIDE", "decode"]

MIN_SIDE = 224
"""Pixels that both sides keep when a picture is scaled while it is decoded: what the model sees."""


@step
def decode(data: bytes) -> Image:
    """Return the picture in a JPEG, PNG, WebP or GIF file, upright, scaled to what is needed.

    Raises:
        InputError: it is no such file, damaged, or over the limits: see `mlkit.media.image.decode`.
    """
    return images.decode(data, min_side=MIN_SIDE)
