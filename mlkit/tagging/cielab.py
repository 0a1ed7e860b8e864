"""CIELAB, a colour space in which distances approximate perceived differences."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["BITS", "codes", "difference", "lab", "lab_of_codes"]

Floats = NDArray[Any]

BITS = 6
"""Bits per channel that `codes` keeps: 262,144 colours, in barely visible steps."""

# From linear sRGB to CIE XYZ (IEC 61966-2-1), and its white point, D65.
_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
_WHITE = (0.95047, 1.0, 1.08883)


def lab(rgb: Any) -> Floats:
    """Convert sRGB colours [..., 3] from 0 to 255 to CIELAB [..., 3] (CIE 15:2004, D65)."""
    x, y, z = np.moveaxis(_linear(rgb) @ np.array(_XYZ).T / _WHITE, -1, 0)
    return _lab(x, y, z)


def _linear(levels: Any) -> Floats:
    """Convert sRGB levels from 0 to 255 to linear light from 0 to 1."""
    values = np.asarray(levels, dtype=np.float64) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _lab(*ratios: Floats) -> Floats:
    """Convert X, Y and Z, relative to the white point, to CIELAB [..., 3]."""
    delta = 6 / 29
    x, y, z = (
        np.where(ratio > delta**3, np.cbrt(ratio), ratio / (3 * delta**2) + 4 / 29)
        for ratio in ratios
    )
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def codes(pixels: NDArray[Any]) -> NDArray[Any]:
    """Quantize uint8 sRGB [..., 3] to codes of the channels' leading bits, intp [...]."""
    kept = (pixels >> (8 - BITS)).astype(np.intp)
    return (kept[..., 0] << 2 * BITS) | (kept[..., 1] << BITS) | kept[..., 2]


@functools.cache
def lab_of_codes() -> Floats:
    """Return a lookup table of the CIELAB colour of each code, float32 [262144, 3]."""
    light = _linear(np.arange(1 << BITS) * 255 / ((1 << BITS) - 1))
    # Linearizes 64 levels instead of 262,144 colours, since the first request waits for it.
    ratios = [
        red * light[:, None, None] + green * light[:, None] + blue * light
        for red, green, blue in np.array(_XYZ) / np.array(_WHITE)[:, None]
    ]
    return _lab(*ratios).reshape(-1, 3).astype(np.float32)


def difference(a: Any, b: Any) -> Floats:
    """Return the CIEDE2000 difference of CIELAB colours [..., 3], broadcast; 1 is just visible.

    The formula and the names of its terms are those of Sharma, Wu and Dalal, "The CIEDE2000
    color-difference formula: implementation notes, supplementary test data, and mathematical
    observations", Color Research and Application 30 (1), 2005.
    """
    l1, a1, b1 = np.moveaxis(np.asarray(a, dtype=np.float64), -1, 0)
    l2, a2, b2 = np.moveaxis(np.asarray(b, dtype=np.float64), -1, 0)
    chroma7 = ((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2) ** 7
    g = 1.5 - 0.5 * np.sqrt(chroma7 / (chroma7 + 25.0**7))
    c1, c2 = np.hypot(g * a1, b1), np.hypot(g * a2, b2)
    h1, h2 = np.arctan2(b1, g * a1), np.arctan2(b2, g * a2)
    coloured = c1 * c2 > 0
    turn = np.where(coloured, _wrapped(h2 - h1), 0.0)
    hue = np.where(coloured, h1 + turn / 2, h1 + h2)
    d_l, d_c, d_h = l2 - l1, c2 - c1, 2 * np.sqrt(c1 * c2) * np.sin(turn / 2)
    s_l, s_c, s_h, r_t = _weights((l1 + l2) / 2, (c1 + c2) / 2, hue)
    chroma, tone = d_c / s_c, d_h / s_h
    total: Floats = np.sqrt((d_l / s_l) ** 2 + chroma**2 + tone**2 + r_t * chroma * tone)
    return total


def _wrapped(angle: Floats) -> Floats:
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _weights(light: Floats, chroma: Floats, hue: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Return S_L, S_C, S_H and R_T of CIEDE2000."""
    t = (
        1
        - 0.17 * np.cos(hue - np.pi / 6)
        + 0.24 * np.cos(2 * hue)
        + 0.32 * np.cos(3 * hue + np.pi / 30)
        - 0.20 * np.cos(4 * hue - np.radians(63))
    )
    square = (light - 50) ** 2
    chroma7 = chroma**7
    bend = np.radians(60) * np.exp(-(((np.degrees(hue) % 360 - 275) / 25) ** 2))
    return (
        1 + 0.015 * square / np.sqrt(20 + square),
        1 + 0.045 * chroma,
        1 + 0.015 * chroma * t,
        -2 * np.sqrt(chroma7 / (chroma7 + 25.0**7)) * np.sin(bend),
    )
