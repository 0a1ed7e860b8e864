"""Decodes images."""

from __future__ import annotations

from mlkit.define import step
from mlkit.media import image as images
from mlkit.media.image import Image

__all__ = ["MIN_SIDE", "decode"]

MIN_SIDE = 224
"""Minimum side in pixels when an image is scaled during decoding: the model's input size."""


@step
def decode(data: bytes) -> Image:
    """Decode a JPEG, PNG, WebP or GIF file; large images are scaled down during decoding.

    Raises:
        InputError: see `mlkit.media.image.decode`.
    """
    return images.decode(data, min_side=MIN_SIDE)
