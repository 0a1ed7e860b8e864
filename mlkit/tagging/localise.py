"""Localization of the product from class activation maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlkit.define import step
from mlkit.media.image import Image
from mlkit.tagging.classify import Seen, shows_garment
from mlkit.tagging.types import Box

if TYPE_CHECKING:
    import numpy as np

__all__ = ["THRESHOLD", "bounds", "localise"]

THRESHOLD = 0.2
"""Fraction of the map's maximum above which a cell belongs to the product (Zhou et al., 2016)."""

SCALE = 8
"""Factor by which the map is upsampled before thresholding."""


@step
def localise(picture: Image, seen: Seen) -> Box | None:
    """Return the box around the connected part of the activation map that has its maximum.

    The map is that of the product class, or of the most likely ImageNet label if the image shows
    no clothing. None if the map is flat.
    """
    heat = seen.class_map if shows_garment(seen) else seen.label_map
    edges = bounds(heat)
    if edges is None:
        return None
    x0, y0, x1, y1 = edges
    return Box(
        x0=int(x0 * picture.width),
        y0=int(y0 * picture.height),
        x1=max(1, round(x1 * picture.width)),
        y1=max(1, round(y1 * picture.height)),
    )


def bounds(heat: np.ndarray) -> tuple[float, float, float, float] | None:
    """Return the box of the hot part of a map [H, W] as fractions of its sides; None if it is flat.

    The map is upsampled bilinearly before thresholding, so that edges can lie between its cells.
    """
    import numpy as np
    from PIL import Image as Pillow

    low, high = float(heat.min()), float(heat.max())
    if not high > low:
        return None
    scaled = ((heat - low) / (high - low)).astype(np.float32)
    kept = np.where(_part_with_maximum(scaled), scaled, 0.0).astype(np.float32)
    rows, columns = kept.shape
    large = Pillow.fromarray(kept).resize(
        (columns * SCALE, rows * SCALE), Pillow.Resampling.BILINEAR
    )
    inside = np.asarray(large) >= THRESHOLD
    ys, xs = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return (
        float(xs[0]) / (columns * SCALE),
        float(ys[0]) / (rows * SCALE),
        float(xs[-1] + 1) / (columns * SCALE),
        float(ys[-1] + 1) / (rows * SCALE),
    )


def _part_with_maximum(scaled: np.ndarray) -> np.ndarray:
    """Return the mask of the 4-connected part above the threshold that has the maximum."""
    import numpy as np

    hot = (scaled >= THRESHOLD).tolist()
    part = np.zeros(scaled.shape, bool)
    stack = [divmod(int(scaled.argmax()), scaled.shape[1])]
    while stack:
        y, x = stack.pop()
        if 0 <= y < len(hot) and 0 <= x < len(hot[0]) and hot[y][x]:
            hot[y][x] = False
            part[y, x] = True
            stack += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    return part
