"""Widths of texts without a browser, and placement of labels and columns.

The font of the host is unknown. Widths are Helvetica's, in thousandths of the font size, plus a
tenth, so that DejaVu Sans and Segoe UI fit as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import TextWrapper

__all__ = ["columns", "lines", "pixels", "spread", "width"]

_NARROW = dict.fromkeys("ijl'|.,:;!", 250) | dict.fromkeys('ftIr()[]{}/\\ -"', 315)
_WIDE = dict.fromkeys("mwMW@%", 860) | dict.fromkeys("ABCDEFGHJKLNOPQRSTUVXYZ&~<>=+→≤…", 680)
_WIDTHS = _NARROW | _WIDE
_MARGIN = 1.1


def width(text: str, size: float, *, bold: bool = False) -> float:
    """Estimate the width of a text in pixels, at a font size in pixels."""
    thousandths = sum(_WIDTHS.get(c, 556 if ord(c) < 0x2E80 else 1000) for c in text)
    return thousandths / 1000 * size * _MARGIN * (1.06 if bold else 1)


def lines(text: str, max_width: float, size: float, max_lines: int) -> list[str]:
    """Wrap a text into lines of at most ``max_width`` pixels, truncated to ``max_lines``."""
    columns = max(8, int(max_width / (size * 0.52 * _MARGIN)))
    wrapper = TextWrapper(columns, max_lines=max_lines, placeholder="…")
    return wrapper.wrap(text)


def pixels(value: float) -> float:
    """Round a coordinate to tenths of a pixel; integral values become integers."""
    rounded = round(value, 1)
    return int(rounded) if rounded == int(rounded) else rounded


def spread(positions: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Move positions to at least ``gap`` apart within limits; their order is kept."""
    order = sorted(range(len(positions)), key=positions.__getitem__)
    placed = [0.0] * len(positions)
    floor = low
    for i in order:
        placed[i] = max(positions[i], floor)
        floor = placed[i] + gap
    ceiling = high
    for i in reversed(order):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - gap
    return placed


def columns(rows: Sequence[Sequence[str]], words: int) -> list[str]:
    """Align cells in columns: the first ``words`` to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(widths[i]) if i < words else cell.rjust(widths[i])
            for i, cell in enumerate(row)
        ).rstrip()
        for row in rows
    ]
