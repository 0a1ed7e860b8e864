"""The drawing of a graph: positions of boxes, lines and labels in pixels, for the templates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from mlkit.define.graph import Graph, Link, Problem
from mlkit.media.preview import shorten
from mlkit.views.layout import Layout, Point, layered
from mlkit.views.measure import pixels, width
from mlkit.views.shapes import NOTE_ROOM, TAG, Shape, returned
from mlkit.views.shapes import shapes as shapes_of

__all__ = [
    "SMALLEST",
    "Ground",
    "Line",
    "Picture",
    "Placed",
    "picture",
]

_GAP = 22.0
_MAX_WIDTH = 700.0  # up to which gaps are widened for labels of edges
_MARGIN = 8.0
_ABOVE, _BELOW = 2.0, 18.0  # additional margins for grounds

SMALLEST = 0.85
"""Scale below which the other orientation is drawn instead."""


@dataclass(frozen=True)
class Placed:
    """A shape with its upper left corner, width and height."""

    shape: Shape
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Line:
    """An edge: its path, its tip, and the type of its value if there is room.

    Attributes:
        source: name of the node or input at its start.
        target: name of the node at its end; "" for the output.
        right: right end of the label.
        keys: branch keys for which the target runs, if the source selects a branch.
        mark: points of the decision mark at the start.
    """

    source: str
    target: str
    path: str
    tip: str
    troubled: bool
    label: str = ""
    label_x: float = 0.0
    label_y: float = 0.0
    right: float = 0.0
    keys: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Ground:
    """The tinted background of a group of steps.

    Attributes:
        boxes: position and size around each step.
        paths: lines between the steps, to be drawn as wide as the background.
        labels: text and position of the name, at each connected part.
    """

    boxes: tuple[tuple[float, float, float, float], ...]
    paths: tuple[str, ...]
    labels: tuple[tuple[str, float, float], ...]


@dataclass(frozen=True)
class Picture:
    """The drawing of a graph, in pixels."""

    title: str
    down: bool
    width: float
    height: float
    shapes: tuple[Placed, ...]
    lines: tuple[Line, ...]
    grounds: tuple[Ground, ...] = ()

    @property
    def above(self) -> float:
        """Margin above the shapes, in pixels."""
        return _ABOVE if self.grounds else 0.0


@dataclass
class _Edge:
    links: list[Link] = field(default_factory=list)
    troubled: bool = False
    keys: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        return shorten(", ".join(dict.fromkeys(map(_label, self.links))), 24)

    @property
    def key_label(self) -> str:
        """Branch keys that select this edge."""
        return shorten(" or ".join(dict.fromkeys(self.keys)), 24)


def picture(
    graph: Graph,
    problems: Sequence[Problem] = (),
    *,
    down: bool = False,
    together: Mapping[str, Iterable[str]] | None = None,
    second: str = "",
) -> Picture:
    """Lay out the drawing of a graph.

    Args:
        graph: the graph to draw.
        problems: problems to annotate.
        down: whether it flows from top to bottom instead of from left to right.
        together: groups of node names with a shared background, by label.
        second: placeholder of maximum length for the second line of steps, instead of their type.
    """
    shapes = shapes_of(graph, problems)
    if second:
        shapes = {
            key: replace(shape, type=second, tags=()) if shape.kind == "step" else shape
            for key, shape in shapes.items()
        }
    edges = _edges(graph, problems)
    layout = _laid_out(shapes, edges, down, apart=36.0 if together else 20.0)
    placed = tuple(_place(shape, layout, key) for key, shape in shapes.items())
    drawn = [_line(key, edge, layout, down) for key, edge in edges.items()]
    labelled = tuple(_labelled(drawn, list(edges.values()), layout, placed, down))
    grounds = tuple(
        _ground(label, set(names), placed, labelled, layout)
        for label, names in (together or {}).items()
    )
    steps = "1 step" if len(graph) == 1 else f"{len(graph)} steps"
    return Picture(
        f"Graph of {graph.name}: {steps}, from {_listed(p.name for p in graph.parameters)}"
        f" to {returned(graph)}",
        down,
        pixels(max(layout.width + 2 * _MARGIN, *(line.right for line in labelled), 0)),
        pixels(layout.height + 2 * _MARGIN + (_BELOW if grounds else 0)),
        placed,
        labelled,
        grounds,
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"


def _edges(
    graph: Graph, problems: Sequence[Problem]
) -> dict[tuple[tuple[str, str], tuple[str, str]], _Edge]:
    troubled = {(p.node, p.parameter) for p in problems if p.parameter is not None}
    edges: dict[tuple[tuple[str, str], tuple[str, str]], _Edge] = {}
    for link in graph.links:
        node = getattr(link.source, "node", None)
        start = ("input", link.source.name) if node is None else ("step", node)  # type: ignore[union-attr]
        end = ("output", "") if link.target is None else ("step", link.target)
        edge = edges.setdefault((start, end), _Edge())
        edge.links.append(link)
        edge.troubled |= (link.target, link.parameter) in troubled
    for node in graph:
        for source, keys in node.asked:
            of = getattr(source, "node", None)
            start = ("input", source.name) if of is None else ("step", of)  # type: ignore[union-attr]
            edges.setdefault((start, ("step", node.name)), _Edge()).keys.append(keys)
    return edges


def _label(link: Link) -> str:
    part = str(link.source).removeprefix(str(getattr(link.source, "node", "")))
    return f"{part} {link.type_name}" if link.source.path else link.type_name


def _laid_out(
    shapes: Mapping[Any, Shape],
    edges: Mapping[tuple[Any, Any], _Edge],
    down: bool,
    apart: float,
) -> Layout:
    below = {key: shape.notes_height for key, shape in shapes.items()}
    sizes = {key: _outer(shape, down) for key, shape in shapes.items()}
    inputs = [key for key, shape in shapes.items() if shape.kind == "input"]

    def lay_out(gaps: Any) -> Layout:
        return layered(
            sizes,
            edges,
            down=down,
            gaps=gaps,
            apart=apart,
            first=inputs,
            last=[("output", "")],
            below=None if down else below,
        )

    if down:
        return lay_out(36.0)
    first = lay_out(_GAP)
    return lay_out(_stretched(first, edges))


def _outer(shape: Shape, down: bool) -> Point:
    """Size of a shape with its notes.

    If the flow goes down, notes are inside the box, and the middle of its upper edge is left free.
    """
    wide, high = shape.size
    wide = max(wide, NOTE_ROOM if shape.notes else 0)
    if not down:
        return wide, high
    corner = 2 * shape.corner_width + 28 if shape.corner else 0.0
    return max(wide, corner), high + shape.notes_height


def _stretched(layout: Layout, edges: Mapping[tuple[Any, Any], _Edge]) -> list[float]:
    """Widen gaps for the labels of their edges, up to `_MAX_WIDTH`."""
    needs = [0.0] * len(layout.gaps)
    for key, edge in edges.items():
        route = layout.routes[key]
        for i, (start, _) in enumerate(layout.gaps):
            if len(route) == 2 and abs(route[0][0] - start) < 1 and edge.links:
                needs[i] = max(needs[i], width(edge.label, TAG) + 26)
            if edge.keys and abs(route[-2][0] - start) < 1:
                needs[i] = max(needs[i], width(edge.key_label, TAG) + 40)
    gaps, total = [_GAP] * len(needs), layout.width
    for i in sorted(range(len(needs)), key=needs.__getitem__):
        more = max(0.0, needs[i] - _GAP)
        if total + more <= _MAX_WIDTH:
            gaps[i], total = _GAP + more, total + more
    return gaps


def _place(shape: Shape, layout: Layout, key: Any) -> Placed:
    box = layout.boxes[key]
    x, y = box.x - box.width / 2 + _MARGIN, box.y - box.height / 2 + _MARGIN
    return Placed(shape, pixels(x), pixels(y), pixels(box.width), pixels(box.height))


def _line(key: tuple[Any, Any], edge: _Edge, layout: Layout, down: bool) -> Line:
    points = [(x + _MARGIN, y + _MARGIN) for x, y in layout.routes[key]]
    line = Line(key[0][1], key[1][1], _curve(points, down), _tip(points[-1], down), edge.troubled)
    if not edge.keys:
        return line
    x, y = points[0]
    corners = [(0, 0), (-5, 6), (0, 12), (5, 6)] if down else [(0, 0), (6, -5), (12, 0), (6, 5)]
    mark = " ".join(f"{pixels(x + dx)},{pixels(y + dy)}" for dx, dy in corners)
    return replace(line, keys=edge.key_label, mark=mark)


def _curve(points: list[Point], down: bool) -> str:
    (x, y), *_ = points
    parts = [f"M{pixels(x)} {pixels(y)}"]
    for i, ((x0, y0), (x1, y1)) in enumerate(pairwise(points)):
        if i % 2:
            parts.append(f"L{pixels(x1)} {pixels(y1)}")
            continue
        middle = pixels((y0 + y1) / 2 if down else (x0 + x1) / 2)
        bend = (x0, middle, x1, middle) if down else (middle, y0, middle, y1)
        parts.append("C" + " ".join(str(pixels(v)) for v in (*bend, x1, y1)))
    return "".join(parts)


def _tip(point: Point, down: bool) -> str:
    x, y = point
    corners = [(-3.5, -6.5), (0, 0), (3.5, -6.5)] if down else [(-6.5, -3.5), (0, 0), (-6.5, 3.5)]
    return " ".join(f"{pixels(x + dx)},{pixels(y + dy)}" for dx, dy in corners)


def _labelled(
    drawn: list[Line], edges: list[_Edge], layout: Layout, placed: tuple[Placed, ...], down: bool
) -> Iterable[Line]:
    """Add labels to lines where they overlap neither a box nor another label."""
    taken = [(p.x, p.y, p.x + p.width, p.y + p.height) for p in placed]
    for line, edge, route in zip(drawn, edges, layout.routes.values(), strict=True):
        if line.keys:  # never omitted: it tells when the arm runs
            yield _keyed(line, route[-1], taken, down)
            continue
        area = _label_area(edge.label, route, taken, down)
        if area is None:
            yield line
            continue
        taken.append(area)
        x, y = (area[0] + 1, area[3] - 3) if down else ((area[0] + area[2]) / 2, area[3] - 4)
        yield replace(line, label=edge.label, label_x=pixels(x), label_y=pixels(y), right=area[2])


def _keyed(line: Line, end: Point, taken: list[_Rectangle], down: bool) -> Line:
    """Put the keys at the end of a line, where lines from the same mark have diverged."""
    x, y = end[0] + _MARGIN, end[1] + _MARGIN
    wide = width(line.keys, TAG)
    left, low = (x + 7, y - 7) if down else (x - wide - 9, y - 5)
    taken.append((left, low - 11, left + wide, low + 2))
    at = left if down else left + wide / 2
    return replace(
        line, label=line.keys, label_x=pixels(at), label_y=pixels(low), right=left + wide
    )


_PADS = 7.0, 9.0, 17.0  # of a background: beside, above, and below its steps, where the label is


def _ground(
    label: str,
    names: set[str],
    placed: Iterable[Placed],
    drawn: Sequence[Line],
    layout: Layout,
) -> Ground:
    """Draw a background around steps and along the lines between them."""
    inner = {p.shape.node: p for p in placed if p.shape.node in names}
    part = {name: name for name in inner}

    def top(name: str) -> str:
        while part[name] != name:
            name = part[name]
        return name

    paths = []
    for line, route in zip(drawn, layout.routes.values(), strict=True):
        if {line.source, line.target} <= part.keys() and len(route) == 2:
            part[top(line.target)] = top(line.source)
            paths.append(line.path)
    firsts: dict[str, Placed] = {}
    for name, placed_step in sorted(inner.items(), key=lambda pair: (pair[1].x, pair[1].y)):
        firsts.setdefault(top(name), placed_step)
    beside, above, below = _PADS
    return Ground(
        tuple(
            (
                pixels(p.x - beside),
                pixels(p.y - above),
                pixels(w + 2 * beside),
                pixels(h + above + below),
            )
            for p in inner.values()
            for w, h in [_extent(p)]
        ),
        tuple(paths),
        tuple(
            (shorten(label, 28), pixels(p.x), pixels(p.y + _extent(p)[1] + 12))
            for p in firsts.values()
        ),
    )


def _extent(placed: Placed) -> Point:
    """Width and height, including the stacked sheets of a batched step."""
    under = 6.0 if placed.shape.stacked else 0.0
    return placed.width + under, placed.height + under


_Rectangle = tuple[float, float, float, float]


def _label_area(
    label: str, route: tuple[Point, ...], taken: list[_Rectangle], down: bool
) -> _Rectangle | None:
    (x0, y0), (x1, y1) = ((x + _MARGIN, y + _MARGIN) for x, y in route[:2])
    wide = width(label, TAG)
    if len(route) > 2 or (abs(x1 - x0) > 3 if down else abs(y1 - y0) > 3):
        return None  # beside a bend it could belong to another line
    if down:
        mine = (x0 + 6, (y0 + y1) / 2 - 9, x0 + 6 + wide, (y0 + y1) / 2 + 4)
    else:
        middle = (x0 + x1 - 6) / 2
        mine = (middle - wide / 2, y0 - 15, middle + wide / 2, y0)
        if wide > x1 - x0 - 14:
            return None
    return None if any(_overlap(mine, other) for other in taken) else mine


def _overlap(a: _Rectangle, b: _Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
