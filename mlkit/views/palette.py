"""The colours of every view: HTML, SVG and figures. Each has one meaning.

After Okabe and Ito, "Color Universal Design" (2008), whose hues are told apart by readers with any
common form of colour blindness. Templates get this module as ``palette``.
"""

from __future__ import annotations

__all__ = [
    "ERROR",
    "ERROR_TEXT",
    "GREY",
    "GROUND",
    "INK",
    "LINE",
    "QUIET",
    "READY",
    "SERVED",
    "SERVED_DARK",
    "SERVED_LIGHT",
    "TINT",
    "WAITING",
]

SERVED = "#0072b2"
"""Blue: work that was served."""
SERVED_LIGHT = "#56a5d0"
"""The median of served work, beside p95 in blue."""
SERVED_DARK = "#003f63"
"""The tail of served work: p99."""
WAITING = "#e69f00"
"""Orange: waiting in a queue or for a batch."""
ERROR = "#d55e00"
"""Vermilion: errors, rejections, and values above their limit."""
ERROR_TEXT = "#a84300"
"""Vermilion for text: its contrast with `GROUND` is above 4.5."""
READY = "#009e73"
"""Green: ready replicas, and promises that were met."""

INK = "#1f2328"
"""Text."""
QUIET = "#59636e"
"""Secondary text and annotations."""
GREY = "#9aa4ae"
"""Areas that give context."""
LINE = "#d1d9e0"
"""Grid lines and borders."""
TINT = "#eff1f3"
"""Shaded ground."""
GROUND = "#fff"
"""Background."""
