"""Dominant colours of the product in an image.

The background is removed first: everything that is connected to the image's border by a straight
line through colours of the border (a boundary prior, after Wei et al., "Geodesic saliency using
background priors", 2012). A white studio background does not count, while a white label on the
product does. Then modes are taken from a CIELAB histogram: the fullest cell absorbs its
neighbourhood, and so on (the popularity algorithm of Heckbert, "Color image quantization for frame
buffer display", 1982). Lightness is weighted less, since folds and lighting affect it most.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlkit.media.image import Image
from mlkit.tagging import cielab
from mlkit.tagging.colournames import name_of
from mlkit.tagging.types import Box, Colour

__all__ = ["dominant_colours"]

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Mask = NDArray[np.bool_]

GRID = 56
"""Samples along the longer side: some 2,400 per image, enough for a histogram."""

MAX_COLOURS = 4
MIN_SHARE = 0.06
"""Minimum share of the product; smaller areas are details such as labels and seams."""

MIN_EDGE = 0.15
"""Minimum share of the image's border for a colour to count as background."""

MIN_PRODUCT = 0.10
"""Minimum share of the box that is left without the background, for it to be the product."""

SMOOTH = 3.0
"""Maximum CIELAB distance between neighbouring samples of a soft shadow."""

REACH = 18.0
"""Radius of a mode: a CIELAB distance with lightness weighted by `LIGHTNESS`."""

LIGHTNESS = 0.6
MAX_MODES = 6
MAX_REST = 0.04
"""Maximum share of samples that belong to no mode."""

DARK = 90
"""Level of the brightest channel, of 255, below which a colour counts as dark."""

CELL = 12.0
"""Side of a histogram cell, in the same units as `REACH`."""


def dominant_colours(picture: Image, box: Box | None) -> list[Colour]:
    """Return one to four colours of the product, most prominent first; see `colours`."""
    pixels = _sampled(picture.pixels)
    codes = cielab.codes(pixels)
    points, cells = _points().take(codes, axis=1), _cells().take(codes)
    ground = _ground(points, cells)
    product = _product(points, ground, _inside(picture, box, cells.shape))
    modes = _modes(points[:, product], cells[product])
    named = _named(pixels[product], modes.nearest, len(modes.centres))
    return _ranked(named, ground)


def _sampled(pixels: NDArray[Any]) -> NDArray[Any]:
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


# --- background


class _Ground(NamedTuple):
    colours: list[tuple[Floats, float]]
    """Colours of the image's border, each with its standard deviation."""
    plain: Floats | None
    """The colour of a uniform background, as in a studio; else None."""


def _ground(points: Floats, cells: Ints) -> _Ground:
    edge = _edge(points)
    modes = _modes(edge, _edge(cells))
    count = edge.shape[1]
    colours, plain = [], None
    for i, centre in enumerate(modes.centres):
        members = edge[:, modes.nearest == i]
        share = members.shape[1] / count
        if share >= MIN_EDGE:
            spread = float(np.sqrt(_square(members, centre)).mean())
            colours.append((centre, spread))
            if share >= 0.9 and spread < 2.5:
                plain = centre[:, 0]
    return _Ground(colours, plain)


def _edge(grid: NDArray[Any]) -> NDArray[Any]:
    """Return the border of a grid [..., H, W]."""
    sides = [grid[..., 0, :], grid[..., -1, :], grid[..., 1:-1, 0], grid[..., 1:-1, -1]]
    return np.concatenate(sides, axis=-1)


def _product(points: Floats, ground: _Ground, inside: tuple[slice, slice]) -> Mask:
    """Return the mask of samples that show the product rather than the background."""
    alike, shaded = np.zeros((2, *points.shape[1:]), dtype=bool)
    for centre, spread in ground.colours:
        colour = centre[:, :, None]
        alike |= _square(points, colour) < min(max(3 * spread, 5.0), 16.0) ** 2
        darker = colour[0] - points[0]
        shaded |= (_square(points[1:], colour[1:]) < 6.0**2) & (darker > 0) & (darker < 20.0)
    kept = np.zeros(alike.shape, dtype=bool)
    kept[inside] = ~_reached_from_edge(points, alike, shaded)[inside]
    if kept.sum() < MIN_PRODUCT * kept[inside].size:
        kept[inside] = True  # the product fills the image, or has the background's colour
    return kept


def _reached_from_edge(points: Floats, alike: Mask, shaded: Mask) -> Mask:
    """Return the samples that a straight line from one of the four sides reaches.

    Lines pass through ``alike``, and through ``shaded`` as long as the lightness changes gradually,
    as in a shadow and unlike at the edge of an object.
    """
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


# --- modes


class _Modes(NamedTuple):
    centres: list[Floats]
    """Centres of the modes, each [3, 1], largest first."""
    nearest: Ints
    """Index of the nearest centre for each sample."""


def _modes(points: Floats, cells: Ints) -> _Modes:
    """Find the modes of points [3, N] with histogram cells [N]."""
    left = points
    max_rest = MAX_REST * len(cells)
    modes: list[Floats] = []
    while len(modes) < MAX_MODES and len(cells) > max_rest:
        fullest = cells == np.bincount(cells).argmax()
        near = _square(left, _mean(left[:, fullest])) < REACH**2
        modes.append(_mean(left[:, near]))
        far = _square(left, modes[-1]) >= REACH**2
        left, cells = left[:, far], cells[far]
    centres = np.concatenate(modes, axis=1).T
    # |p - c|^2 without |p|^2, which is the same for all centres.
    away = (centres * centres).sum(axis=1)[:, None] - 2 * (centres @ points)
    return _Modes(modes, away.argmin(axis=0))


def _mean(points: Floats) -> Floats:
    """Return the mean [3, 1] of points [3, N]."""
    mean: Floats = points.sum(axis=1, keepdims=True) / points.shape[1]
    return mean


class _NamedColour(NamedTuple):
    name: str
    share: float
    rgb: Floats


def _named(pixels: NDArray[Any], chosen: Ints, count: int) -> list[_NamedColour]:
    """Return the named colours of the modes; modes with the same name are merged."""
    sizes = np.bincount(chosen, minlength=count).clip(min=1)
    rgb = _lit_means(pixels, chosen, sizes)
    by_name: dict[str, _NamedColour] = {}
    for i in np.flatnonzero(sizes):
        colour = _NamedColour(name_of(rgb[i]), float(sizes[i]) / len(pixels), rgb[i])
        same = by_name.get(colour.name)
        by_name[colour.name] = _merged(same, colour) if same else colour
    return list(by_name.values())


def _lit_means(pixels: NDArray[Any], chosen: Ints, sizes: Ints) -> Floats:
    """Return the mean colour of the well-lit part of each mode, [count, 3].

    Folds and shadows darken an object, highlights lighten it; light areas of a black object are
    reflections.
    """
    count = len(sizes)
    light = pixels.max(axis=1).astype(np.float64)
    means = np.bincount(chosen, light, count) / sizes
    spread = np.sqrt((np.bincount(chosen, light**2, count) / sizes - means**2).clip(min=0))
    least = np.where(means < DARK, 0.0, means)
    lit = (light > least[chosen] - 0.5) & (light < (means + spread)[chosen] + 0.5)
    # Other samples keep a small weight, for modes without any sample in that range.
    weights = np.where(lit, 1.0, 1e-3)
    sums = [np.bincount(chosen, weights * pixels[:, channel], count) for channel in range(3)]
    return np.stack(sums, axis=1) / np.bincount(chosen, weights, count)[:, None]


def _merged(a: _NamedColour, b: _NamedColour) -> _NamedColour:
    share = a.share + b.share
    return _NamedColour(a.name, share, (a.share * a.rgb + b.share * b.rgb) / share)


def _ranked(colours: list[_NamedColour], ground: _Ground) -> list[Colour]:
    """Return the main colours; on a uniform background, contrast with it adds prominence.

    A bottle with a large white label remains a green bottle, and a white shirt remains white.
    """

    def prominence(colour: _NamedColour) -> float:
        if ground.plain is None:
            return colour.share
        point = cielab.lab(colour.rgb) * np.array([LIGHTNESS, 1, 1])
        contrast = float(np.linalg.norm(point - ground.plain))
        return colour.share * (0.5 + min(contrast, 60.0) / 60)

    ranked = sorted(colours, key=prominence, reverse=True)
    main = [colour for colour in ranked if colour.share >= MIN_SHARE] or ranked[:1]
    return [
        Colour(
            name=colour.name,
            hex="#{:02x}{:02x}{:02x}".format(*(int(value) for value in colour.rgb.round())),
            share=colour.share,
        )
        for colour in main[:MAX_COLOURS]
    ]


# --- CIELAB with weighted lightness


def _square(points: Floats, others: Floats) -> Floats:
    """Return squared distances [...] of points [3, ...], broadcast."""
    away = points - others
    square: Floats = np.einsum("c...,c...->...", away, away)
    return square


@functools.cache
def _points() -> Floats:
    """Return the weighted CIELAB point of each code, float32 [3, 262144]."""
    scale = np.array([LIGHTNESS, 1, 1], dtype=np.float32)
    return np.ascontiguousarray((cielab.lab_of_codes() * scale).T)


@functools.cache
def _cells() -> Ints:
    """Return the index of each code's histogram cell."""
    steps = np.floor(_points() / CELL).astype(np.intp)
    steps -= steps.min(axis=1, keepdims=True)
    cells = np.ravel_multi_index(tuple(steps), tuple(steps.max(axis=1) + 1))
    small: Ints = cells.astype(np.int16)  # some 1,500 cells; a small table stays in the CPU cache
    return small
