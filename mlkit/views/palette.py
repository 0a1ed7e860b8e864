"""The colours of every view: HTML, SVG and figures. Each has one meaning.

After Okabe and Ito, "Color Universal Design" (2008), whose hues are told apart by readers with any
common form of colour blindness. Templates get this module as ``palette``.
"""

from __future__ import annotations

__all__ = [
    "ERROR",
    "ERROR_TEXT",
    "ERROR_TEXT_DARK",
    "GREY",
    "GROUND",
    "GROUND_DARK",
    "INK",
    "INK_DARK",
    "LINE",
    "LINE_DARK",
    "QUIET",
    "QUIET_DARK",
    "READY",
    "SERVED",
    "SERVED_DARK",
    "SERVED_LIGHT",
    "TINT",
    "TINT_DARK",
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

INK_DARK = "#e4e7eb"
"""Text on a dark page of mlkit's own; elsewhere the host has the dark theme."""
QUIET_DARK = "#a3adb8"
"""Secondary text on a dark page."""
LINE_DARK = "#39414a"
"""Borders on a dark page."""
TINT_DARK = "#262c33"
"""Shaded ground of a dark page."""
GROUND_DARK = "#171b20"
"""Background of a dark page."""
ERROR_TEXT_DARK = "#ff9b5e"
"""Vermilion for text on a dark page."""
