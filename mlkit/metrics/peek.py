"""Samples of a step's inputs and output, taken from real requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mlkit.media.preview import preview

__all__ = ["Peek", "sample"]

EDGES = ("x0", "y0", "x1", "y1")


def sample(inputs: Mapping[str, Any], output: Any) -> dict[str, Any]:
    """Values as plain data: words and thumbnails, and where boxes lie, as shares of a picture."""
    values = [*inputs.values(), output]
    sides = next((found for found in map(_sides, values) if found), None)
    boxes = [_box(value, sides) for value in _flat(values)] if sides else []
    return {
        "inputs": [[name, *_shown(value)] for name, value in inputs.items()],
        "output": _shown(output),
        "boxes": [box for box in boxes if box],
    }


def _shown(value: Any) -> list[Any]:
    found = preview(value)
    return [found.text, list(found.pictures)]


def _flat(values: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        found += value[:8] if type(value) in (list, tuple) else [value]
    return found


def _sides(value: Any) -> tuple[float, float] | None:
    """Width and height of a picture; None for anything else."""
    width, height = getattr(value, "width", None), getattr(value, "height", None)
    if isinstance(width, int) and isinstance(height, int) and width and height:
        return float(width), float(height)
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and len(shape) == 3 and str(getattr(value, "dtype", "")) == "uint8":
        return float(shape[1]), float(shape[0])
    return None


def _box(value: Any, sides: tuple[float, float]) -> list[float] | None:
    """Left, top, width and height as shares, of a value that has edges in pixels."""
    edges = [getattr(value, name, None) for name in EDGES]
    if not all(isinstance(edge, (int, float)) for edge in edges):
        return None
    x0, y0, x1, y1 = (float(edge) for edge in edges if edge is not None)
    width, height = sides
    return [x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height]


@dataclass(frozen=True)
class Peek:
    """Samples of one step, the latest first; shown as a table.

    Attributes:
        samples: each with ``at``, ``id`` of the request, ``inputs``, ``output`` and ``boxes``.
    """

    step: str
    samples: tuple[Mapping[str, Any], ...]

    def __len__(self) -> int:
        return len(self.samples)

    def __str__(self) -> str:
        from mlkit.views.peek import to_text

        return to_text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from mlkit.views.peek import to_html

        return to_html(self)
