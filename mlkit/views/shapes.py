"""Shapes of a graph's steps, inputs and output, before layout."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mlkit.define.graph import Graph, Node, Parameter, Problem
from mlkit.media.preview import shorten
from mlkit.views.layout import Point
from mlkit.views.measure import lines, pixels, width

__all__ = [
    "NAME",
    "NOTE_ROOM",
    "TAG",
    "TYPE",
    "Note",
    "Shape",
    "Tag",
    "batch_size",
    "marks",
    "returned",
    "shapes",
]

NAME = 13.0
TYPE = 11.0
TAG = 10.0
"""Font sizes, in pixels."""
NOTE_ROOM = 150.0
"""Width of the notes on a step, in pixels."""
_PAD = 9.0


@dataclass(frozen=True)
class Tag:
    """A tag on a box; ``x`` is relative to the box."""

    text: str
    x: float
    width: float


@dataclass(frozen=True)
class Note:
    """A line of a problem's description; the first one carries the warning sign."""

    text: str
    sign: bool


@dataclass(frozen=True)
class Shape:
    """A step, an input or the output, without a position.

    Attributes:
        kind: "step", "input" or "output".
        title: tooltip.
        corner: badge at the upper edge: batch size, "async", or "× n".
        notes: descriptions of its problems.
        troubled: whether it is drawn with a warning border.
        node: name of a step's node.
    """

    kind: str
    name: str
    type: str
    title: str
    tags: tuple[Tag, ...] = ()
    corner: str = ""
    stacked: bool = False
    notes: tuple[Note, ...] = ()
    troubled: bool = False
    node: str = ""

    @property
    def size(self) -> Point:
        """Minimum width and height in pixels, without notes."""
        words = max(width(self.name, NAME), width(self.type, TYPE))
        if self.kind != "step":
            return words + _PAD, 34.0
        tags = self.tags[-1].x + self.tags[-1].width + _PAD if self.tags else 0.0
        corner = self.corner_width + 16 if self.corner else 0.0
        return max(words + 2 * _PAD, tags, corner, 56.0), self.words_height

    @property
    def words_height(self) -> float:
        """Height of a step's box without notes, in pixels."""
        return 44.0 + (19.0 if self.tags else 0.0)

    @property
    def corner_width(self) -> float:
        """Width of the badge, in pixels."""
        return width(self.corner, TAG) + 8

    @property
    def notes_height(self) -> float:
        """Height of the notes, in pixels."""
        return 13.0 * len(self.notes) + 8 if self.notes else 0.0


def marks(node: Node) -> str:
    """Properties of a step in brackets; "" if there are none."""
    words = [f"{name}: {resource.name}" for name, resource in node.step.resources.items()]
    if node.step.batched:
        words.insert(0, f"batched, at most {batch_size(node)}")
    if node.step.is_async:
        words.insert(0, "async")
    return f"   [{'; '.join(words)}]" if words else ""


def batch_size(node: Node) -> Any:
    """Maximum batch size of a batched step."""
    return getattr(node.step, "max_batch_size", "?")


def returned(graph: Graph) -> str:
    """The return type of a graph, as it is written in code."""
    return graph.signature.rpartition(" -> ")[2]


def shapes(graph: Graph, problems: Sequence[Problem]) -> dict[tuple[str, str], Shape]:
    """Shapes of a graph, by kind and name."""
    inputs = {("input", p.name): _input(p) for p in graph.parameters}
    steps = {("step", node.name): _step(node, problems) for node in graph}
    returns = returned(graph)
    output = Shape("output", "returns", shorten(returns, 26), f"returns {returns}")
    return {**inputs, **steps, ("output", ""): output}


def _input(parameter: Parameter) -> Shape:
    text = str(parameter)
    typed = text.partition(": ")[2]
    return Shape("input", shorten(parameter.name, 24), shorten(typed, 26), text)


def _step(node: Node, problems: Sequence[Problem]) -> Shape:
    mine = [p for p in problems if p.node in (node.name, node.step.name)]
    corner = f"≤{batch_size(node)}" if node.step.batched else "async" * node.step.is_async
    if node.each is not None:
        corner = " · ".join(filter(None, ["× n", corner]))
    return Shape(
        "step",
        shorten(node.name, 28),
        shorten(node.type_name, 28),
        f"{node}{marks(node)}",
        tuple(_tags(node.step.resources)),
        corner,
        node.step.batched or node.each is not None,
        tuple(line for problem in mine[:2] for line in _note(problem)),
        any(p.parameter is None for p in mine),
        node.name,
    )


def _tags(names: Iterable[str]) -> Iterable[Tag]:
    x = _PAD
    for name in names:
        text = shorten(name, 22)
        tag = Tag(text, pixels(x), pixels(width(text, TAG) + 10))
        yield tag
        x += tag.width + 4


def _note(problem: Problem) -> list[Note]:
    if problem.expected and problem.got:
        text = f"expected {problem.expected}, got {problem.got}"
        text = f"{problem.parameter}: {text}" if problem.parameter else text
    else:
        text = problem.what
    broken = lines(text, NOTE_ROOM - 24, TAG + 0.5, 3)
    return [Note(line, sign=i == 0) for i, line in enumerate(broken)]
