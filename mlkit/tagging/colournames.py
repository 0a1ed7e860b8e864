"""Names of colours: the CSS names that shoppers know."""

from __future__ import annotations

import functools
from typing import Any

import webcolors
from numpy.typing import NDArray

from mlkit.tagging import cielab

__all__ = ["NAMES", "name_of"]

# Of the 140 CSS colours shoppers know a few dozen: nobody searches for a papayawhip blouse. The
# nearest of (almost) all colours is mapped to the familiar name of its row. Excluded are the two
# dark slates, which would attract dull dark colours, and tints that are nearly white.
_FAMILIES = {
    "black": "black",
    "gray": "dimgray gray",
    "lightgray": "darkgray silver",
    "white": "white whitesmoke snow gainsboro",
    "beige": "beige antiquewhite bisque blanchedalmond cornsilk linen oldlace papayawhip wheat",
    "tan": "tan burlywood navajowhite",
    "brown": "saddlebrown sienna",
    "maroon": "maroon darkred",
    "red": "red crimson firebrick brown indianred tomato",
    "coral": "coral lightcoral",
    "salmon": "salmon darksalmon lightsalmon",
    "orange": "orange darkorange orangered chocolate sandybrown",
    "gold": "gold goldenrod darkgoldenrod",
    "yellow": "yellow",
    "khaki": "khaki darkkhaki palegoldenrod",
    "olive": "olive darkolivegreen",
    "green": "green darkgreen forestgreen limegreen mediumseagreen seagreen darkseagreen olivedrab",
    "lime": "lime chartreuse greenyellow lawngreen yellowgreen springgreen mediumspringgreen",
    "lightgreen": "lightgreen palegreen",
    "teal": "teal darkcyan cadetblue",
    "turquoise": "turquoise mediumturquoise darkturquoise lightseagreen mediumaquamarine "
    "aquamarine aqua",
    "skyblue": "skyblue lightskyblue deepskyblue lightblue powderblue paleturquoise lightsteelblue",
    "blue": "blue darkblue slategray lightslategray mediumblue royalblue dodgerblue "
    "cornflowerblue steelblue slateblue",
    "navy": "navy midnightblue darkslateblue",
    "indigo": "indigo",
    "purple": "purple darkmagenta blueviolet darkviolet darkorchid mediumpurple",
    "violet": "violet orchid plum mediumorchid",
    "lavender": "lavender thistle",
    "magenta": "magenta deeppink mediumvioletred",
    "pink": "pink rosybrown lightpink hotpink palevioletred",
}

NAMES = tuple(_FAMILIES)
"""The names that `name_of` returns; all are CSS colours."""


# CSS colours are screen colours. In photos, black fabric reflects light and dyes are duller, so
# some names have a second reference colour, taken from photos of clothes.
_IN_PHOTOS = {
    "black": (44, 44, 44),
    "blue": (88, 106, 140),
    "brown": (138, 110, 96),
    "green": (46, 68, 54),
    "navy": (38, 44, 70),
    "olive": (84, 88, 66),
    "yellow": (225, 212, 75),
}


def name_of(rgb: NDArray[Any]) -> str:
    """Return the name of the CSS colour nearest to an sRGB colour [3] of a photo.

    Distances are CIEDE2000: with Euclidean CIELAB distances, dull olive, teal and maroon become
    gray, and dark purple black. Results are cached by channels rounded to multiples of 4.
    """
    red, green, blue = (4 * round(float(value) / 4) for value in rgb)
    return _nearest(red, green, blue)


@functools.lru_cache(maxsize=2**16)
def _nearest(red: int, green: int, blue: int) -> str:
    names, colours = _table()
    return names[int(cielab.difference(cielab.lab((red, green, blue)), colours).argmin())]


@functools.cache
def _table() -> tuple[list[str], NDArray[Any]]:
    pairs = [(family, name) for family, names in _FAMILIES.items() for name in names.split()]
    rgb = [tuple(webcolors.name_to_rgb(name)) for _, name in pairs]
    return [*(family for family, _ in pairs), *_IN_PHOTOS], cielab.lab([*rgb, *_IN_PHOTOS.values()])
