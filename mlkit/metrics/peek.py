"""Samples of a step's inputs and output, taken from real requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mlkit.media.preview import preview

__all__ = ["Peek", "sample", "shown"]

EDGES = ("x0", "y0", "x1", "y1")


def sample(inputs: Mapping[str, Any], output: Any) -> dict[str, Any]:
    """Summarize a call as plain data: text and thumbnails, and boxes as fractions of the image."""
    values = [*inputs.values(), output]
    sides = next(filter(None, map(_sides, values)), None)
    boxes = [_box(value, sides) for value in _flat(values)] if sides else []
    return {
        "inputs": [[name, *shown(value)] for name, value in inputs.items()],
        "output": shown(output),
        "boxes": [box for box in boxes if box],
    }


def shown(value: Any) -> list[Any]:
    """Return text and thumbnails of a value, as plain data."""
    content = preview(value)
    return [content.text, list(content.thumbnails)]


def _flat(values: Iterable[Any]) -> list[Any]:
    items: list[Any] = []
    for value in values:
        items += value[:8] if type(value) in (list, tuple) else [value]
    return items


def _sides(value: Any) -> tuple[float, float] | None:
    """Width and height of an image; None for anything else."""
    width, height = getattr(value, "width", None), getattr(value, "height", None)
    if isinstance(width, int) and isinstance(height, int) and width and height:
        return float(width), float(height)
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and len(shape) == 3 and str(getattr(value, "dtype", "")) == "uint8":
        return float(shape[1]), float(shape[0])
    return None


def _box(value: Any, sides: tuple[float, float]) -> list[float] | None:
    """Left, top, width and height as fractions; None for a value without edges in pixels."""
    edges = [getattr(value, name, None) for name in EDGES]
    if not all(isinstance(edge, (int, float)) for edge in edges):
        return None
    x0, y0, x1, y1 = (float(edge) for edge in edges if edge is not None)
    width, height = sides
    return [x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height]


@dataclass(frozen=True)
class Peek:
    """Samples of one step, the latest first; displayed as a table.

    Attributes:
        samples: each has ``at``, the request's ``id``, ``inputs``, ``output`` and ``boxes``.
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
