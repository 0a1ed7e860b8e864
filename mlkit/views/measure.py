"""How wide a text will be, before any browser has seen it.

The host's font is not known. Widths are Helvetica's, in thousandths of the font size, and a tenth
wider than that: DejaVu Sans and Segoe UI then fit as well.
"""

from __future__ import annotations

from textwrap import TextWrapper

__all__ = ["lines", "pixels", "width"]

_NARROW = dict.fromkeys("ijl'|.,:;!", 250) | dict.fromkeys('ftIr()[]{}/\\ -"', 315)
_WIDE = dict.fromkeys("mwMW@%", 860) | dict.fromkeys("ABCDEFGHJKLNOPQRSTUVXYZ&~<>=+→≤…", 680)
_WIDTHS = _NARROW | _WIDE
_SPARE = 1.1


def width(text: str, size: float, *, bold: bool = False) -> float:
    """Width of a text in pixels, at a font size in pixels."""
    thousandths = sum(_WIDTHS.get(c, 556 if ord(c) < 0x2E80 else 1000) for c in text)
    return thousandths / 1000 * size * _SPARE * (1.06 if bold else 1)


def lines(text: str, room: float, size: float, most: int) -> list[str]:
    """The text broken into at most ``most`` lines that fit into ``room`` pixels."""
    columns = max(8, int(room / (size * 0.52 * _SPARE)))
    wrapper = TextWrapper(columns, max_lines=most, placeholder="…")
    return wrapper.wrap(text)


def pixels(value: float) -> float:
    """A place in a picture, to a tenth of a pixel; whole numbers without a point."""
    rounded = round(value, 1)
    return int(rounded) if rounded == int(rounded) else rounded
