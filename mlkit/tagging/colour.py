"""The main colours of the product in a picture."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

from mlkit.define import step
from mlkit.media.image import Image
from mlkit.tagging import cielab
from mlkit.tagging.colournames import name_of
from mlkit.tagging.types import Box, Colour

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]
    Ints = NDArray[np.integer[Any]]
    Mask = NDArray[np.bool_]

__all__ = ["colours"]

GRID = 56
"""Samples along the longer side: some 2,400 of a picture, plenty for a histogram."""

MAX_COLOURS = 4
LEAST_SHARE = 0.06
"""Share of the product below which a colour is a detail: a label, a seam."""

LEAST_EDGE = 0.15
"""Share of the picture's edge from which on a colour is taken for background."""

LEAST_PRODUCT = 0.10
"""Share of the box below which what is left without the background cannot be the product."""

SMOOTH = 3.0
"""CIELAB distance from one sample to the next below which a shadow is still the same one."""

REACH = 18.0
"""CIELAB distance within which colours are one, lightness counting `LIGHTNESS` as much."""

LIGHTNESS = 0.6
MAX_MODES = 6
MAX_REST = 0.04
"""Share of the samples that may be far from all modes."""

DARK = 90
"""Level of the brightest channel, of 255, below which a colour is a dark one throughout."""

CELL = 12.0
"""Side of a histogram cell, in the same measure."""


@step
def colours(picture: Image, box: Box | None) -> list[Colour]:
    """Return the main colours of the product in ``picture``, most prominent first.

    What belongs to the background is left out first: what can be reached from the picture's edge in
    a straight line through colours that make up the edge (a boundary prior, after Wei et al.,
    "Geodesic saliency using background priors", 2012). So a white studio ground does not count,
    while a white label on the product does. Then colours are found in a histogram over CIELAB:
    the fullest cell gathers all that is near it, and so on (the popularity algorithm of Heckbert,
    "Color image quantization for frame buffer display", 1982), with lightness counting less, since
    folds and light change it most.

    Args:
        picture: the picture; a few thousand of its pixels are looked at.
        box: where the product is; the whole picture if None.

    Returns:
        One to four colours, each with the share of the product that has it.
    """
    pixels = _sampled(picture.pixels)
    codes = cielab.codes(pixels)
    points, cells = _points().take(codes, axis=1), _cells().take(codes)
    ground = _ground(points, cells)
    product = _product(points, ground, _inside(picture, box, cells.shape))
    modes = _modes(points[:, product], cells[product])
    found = _named(pixels[product], modes.nearest, len(modes.centres))
    return _ranked(found, ground)


def _sampled(pixels: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    height, width = pixels.shape[:2]
    longer = max(height, width)
    rows, columns = (max(1, round(GRID * side / longer)) for side in (height, width))
    y = ((np.arange(rows) + 0.5) * (height / rows)).astype(np.intp)
    x = ((np.arange(columns) + 0.5) * (width / columns)).astype(np.intp)
    sampled: NDArray[Any] = pixels.take(y, axis=0).take(x, axis=1)
    return sampled


def _inside(picture: Image, box: Box | None, shape: tuple[int, ...]) -> tuple[slice, slice]:
    rows, columns = shape
    if box is None:
        return slice(0, rows), slice(0, columns)
    y, x = rows / picture.height, columns / picture.width
    top, left = min(int(box.y0 * y), rows - 1), min(int(box.x0 * x), columns - 1)
    bottom, right = round(box.y1 * y), round(box.x1 * x)
    return slice(top, max(top + 1, bottom)), slice(left, max(left + 1, right))


# --- what is background


class _Ground(NamedTuple):
    colours: list[tuple[Floats, float]]
    """Colours that the picture's edge consists of, each with how far it spreads."""
    plain: Floats | None
    """The colour, where it is one and even: a studio's."""


def _ground(points: Floats, cells: Ints) -> _Ground:
    import numpy as np

    edge = _edge(points)
    modes = _modes(edge, _edge(cells))
    count = edge.shape[1]
    colours, plain = [], None
    for i, centre in enumerate(modes.centres):
        members = edge[:, modes.nearest == i]
        share = members.shape[1] / count
        if share >= LEAST_EDGE:
            spread = float(np.sqrt(_square(members, centre)).mean())
            colours.append((centre, spread))
            if share >= 0.9 and spread < 2.5:
                plain = centre[:, 0]
    return _Ground(colours, plain)


def _edge(grid: NDArray[Any]) -> NDArray[Any]:
    """Return the outermost samples of a grid [..., H, W]."""
    import numpy as np

    sides = [grid[..., 0, :], grid[..., -1, :], grid[..., 1:-1, 0], grid[..., 1:-1, -1]]
    return np.concatenate(sides, axis=-1)


def _product(points: Floats, ground: _Ground, inside: tuple[slice, slice]) -> Mask:
    """Return which samples show the product rather than what it lies on or hangs before."""
    import numpy as np

    alike, shaded = np.zeros((2, *points.shape[1:]), dtype=bool)
    for centre, spread in ground.colours:
        colour = centre[:, :, None]
        alike |= _square(points, colour) < min(max(3 * spread, 5.0), 16.0) ** 2
        darker = colour[0] - points[0]
        shaded |= (_square(points[1:], colour[1:]) < 6.0**2) & (darker > 0) & (darker < 20.0)
    kept = np.zeros(alike.shape, dtype=bool)
    kept[inside] = ~_reached_from_edge(points, alike, shaded)[inside]
    if kept.sum() < LEAST_PRODUCT * kept[inside].size:
        kept[inside] = True  # it fills the picture, or has the colour of its ground
    return kept


def _reached_from_edge(points: Floats, alike: Mask, shaded: Mask) -> Mask:
    """Return what a straight line from one of the four sides reaches.

    It goes through ``alike`` freely, and through ``shaded`` as long as it darkens gradually: as a
    shadow does, and the edge of a thing does not.
    """
    import numpy as np

    through = np.logical_and.accumulate
    reached = np.zeros(alike.shape, dtype=bool)
    # Columns first; then rows, as the columns of the transposed arrays.
    for lab, same, dark, out in (
        (points, alike, shaded, reached),
        (points.transpose(0, 2, 1), alike.T, shaded.T, reached.T),
    ):
        smooth = _square(lab[:, 1:], lab[:, :-1]) < SMOOTH**2
        onward, back = same.copy(), same.copy()
        onward[1:] |= dark[1:] & smooth
        back[:-1] |= dark[:-1] & smooth
        out |= through(onward, axis=0)
        out |= through(back[::-1], axis=0)[::-1]
    return reached


# --- which colours there are


class _Modes(NamedTuple):
    centres: list[Floats]
    """Points around which colours gather, each [3, 1], fullest first."""
    nearest: Ints
    """Number of the nearest centre, for each sample."""


def _modes(points: Floats, cells: Ints) -> _Modes:
    """Return the colours that samples gather around: points [3, N], and their cells [N]."""
    import numpy as np

    left = points
    least = MAX_REST * len(cells)
    found: list[Floats] = []
    while len(found) < MAX_MODES and len(cells) > least:
        fullest = cells == np.bincount(cells).argmax()
        near = _square(left, _mean(left[:, fullest])) < REACH**2
        found.append(_mean(left[:, near]))
        far = _square(left, found[-1]) >= REACH**2
        left, cells = left[:, far], cells[far]
    centres = np.concatenate(found, axis=1).T
    # |p - c|^2 without |p|^2, which is the same for all centres.
    away = (centres * centres).sum(axis=1)[:, None] - 2 * (centres @ points)
    return _Modes(found, away.argmin(axis=0))


def _mean(points: Floats) -> Floats:
    """Return the mean [3, 1] of points [3, N]."""
    mean: Floats = points.sum(axis=1, keepdims=True) / points.shape[1]
    return mean


class _Found(NamedTuple):
    name: str
    share: float
    rgb: Floats


def _named(pixels: NDArray[Any], chosen: Ints, count: int) -> list[_Found]:
    """Return the colour of each mode, those of one name put together."""
    import numpy as np

    sizes = np.bincount(chosen, minlength=count).clip(min=1)
    rgb = _lit_means(pixels, chosen, sizes)
    found: dict[str, _Found] = {}
    for i in np.flatnonzero(sizes):
        one = _Found(name_of(rgb[i]), float(sizes[i]) / len(pixels), rgb[i])
        found[one.name] = _together(found[one.name], one) if one.name in found else one
    return list(found.values())


def _lit_means(pixels: NDArray[Any], chosen: Ints, sizes: Ints) -> Floats:
    """Return the mean colour of the well lit part of each mode, [count, 3].

    Folds and shadows darken a thing and highlights lighten it; what is light on a black one is
    sheen.
    """
    import numpy as np

    count = len(sizes)
    light = pixels.max(axis=1).astype(np.float64)
    means = np.bincount(chosen, light, count) / sizes
    spread = np.sqrt((np.bincount(chosen, light**2, count) / sizes - means**2).clip(min=0))
    least = np.where(means < DARK, 0.0, means)
    lit = (light > least[chosen] - 0.5) & (light < (means + spread)[chosen] + 0.5)
    # The rest keeps a little weight, for the mode of which nothing is in that range.
    weights = np.where(lit, 1.0, 1e-3)
    sums = [np.bincount(chosen, weights * pixels[:, channel], count) for channel in range(3)]
    return np.stack(sums, axis=1) / np.bincount(chosen, weights, count)[:, None]


def _together(one: _Found, other: _Found) -> _Found:
    share = one.share + other.share
    return _Found(one.name, share, (one.share * one.rgb + other.share * other.rgb) / share)


def _ranked(found: list[_Found], ground: _Ground) -> list[Colour]:
    """Return the main colours; on a plain ground, what stands out from it counts for more.

    There a bottle with a large white label is still a green bottle, and a white shirt white.
    """
    import numpy as np

    def prominence(colour: _Found) -> float:
        if ground.plain is None:
            return colour.share
        point = cielab.lab(colour.rgb) * np.array([LIGHTNESS, 1, 1])
        contrast = float(np.linalg.norm(point - ground.plain))
        return colour.share * (0.5 + min(contrast, 60.0) / 60)

    found = sorted(found, key=prominence, reverse=True)
    main = [colour for colour in found if colour.share >= LEAST_SHARE] or found[:1]
    return [
        Colour(
            name=colour.name,
            hex="#{:02x}{:02x}{:02x}".format(*(int(value) for value in colour.rgb.round())),
            share=colour.share,
        )
        for colour in main[:MAX_COLOURS]
    ]


# --- CIELAB with lightness counting less


def _square(points: Floats, others: Floats) -> Floats:
    """Return the squared distances [...] of points [3, ...] from others, broadcast."""
    import numpy as np

    away = points - others
    square: Floats = np.einsum("c...,c...->...", away, away)
    return square


@functools.cache
def _points() -> Floats:
    """Return the point of each code, a plane for each coordinate: float32 [3, 262144]."""
    import numpy as np

    scale = np.array([LIGHTNESS, 1, 1], dtype=np.float32)
    return np.ascontiguousarray((cielab.lab_of_codes() * scale).T)


@functools.cache
def _cells() -> Ints:
    """Return the number of the histogram cell that each code lies in."""
    import numpy as np

    steps = np.floor(_points() / CELL).astype(np.intp)
    steps -= steps.min(axis=1, keepdims=True)
    cells = np.ravel_multi_index(tuple(steps), tuple(steps.max(axis=1) + 1))
    small: Ints = cells.astype(np.int16)  # some 1,500 of them; small tables stay in the cache
    return small
