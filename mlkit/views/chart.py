"""Small charts over time as SVG: a panel is drawn from numbers, in pixels, and knows its now."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from mlkit.views.measure import pixels

__all__ = [
    "HEIGHT",
    "PANEL_WIDTH",
    "Label",
    "Mark",
    "Panel",
    "Path",
    "Series",
    "nice_top",
    "panel",
]

PANEL_WIDTH = 344
HEIGHT = 120
LEFT, RIGHT, TOP, BOTTOM = 34, 76, 24, 22
_PLOT_WIDTH = PANEL_WIDTH - LEFT - RIGHT
_PLOT_HEIGHT = HEIGHT - TOP - BOTTOM
_LINE = 11.0
"""Height that the label of a line needs, in pixels."""


@dataclass(frozen=True)
class Path:
    """A line, or the ground under it; ``kind`` is its class in the style sheet."""

    kind: str
    d: str


@dataclass(frozen=True)
class Label:
    """What a line stands at now, at its end."""

    kind: str
    text: str
    y: float


@dataclass(frozen=True)
class Mark:
    """A moment, as a thin vertical, with its words."""

    x: float
    title: str


@dataclass(frozen=True)
class Panel:
    """A chart, ready to be written down.

    Attributes:
        said: the chart in words.
        top: what the upper grid line stands for.
        ends: what is written at both ends of the time axis.
        telling: whether resting on a mark shows its words.
    """

    title: str
    said: str
    top: str
    paths: tuple[Path, ...] = ()
    labels: tuple[Label, ...] = ()
    marks: tuple[Mark, ...] = ()
    ends: tuple[str, str] = ("", "now")
    telling: bool = False
    left: int = LEFT
    right: int = PANEL_WIDTH - RIGHT
    upper: int = TOP
    lower: int = HEIGHT - BOTTOM
    width: int = PANEL_WIDTH
    height: int = HEIGHT


@dataclass(frozen=True)
class Series:
    """A line of a chart: values at times, both in their own units; NaN leaves a gap.

    Attributes:
        kind: its class in the style sheet; one that ends in "-area" is filled.
        now: what it stands at, in words; "" for no label.
        steps: whether a value holds until the next time.
    """

    kind: str
    at: Sequence[float]
    values: Sequence[float]
    now: str = ""
    steps: bool = False


def nice_top(highest: float, least: float = 1.0) -> float:
    """The smallest of 1, 2, 5 and their tenfolds that is not below."""
    value = max(highest if math.isfinite(highest) else 0.0, least)
    power = 10.0 ** math.floor(math.log10(value))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= value * 0.999)


def panel(
    title: str,
    series: Sequence[Series],
    *,
    start: float,
    end: float,
    unit: str = "",
    least: float = 1.0,
    marks: Sequence[tuple[float, str]] = (),
    ago: str = "",
    telling: bool = False,
) -> Panel:
    """Draw a chart.

    Args:
        title: what is drawn.
        series: its lines; the first lies undermost.
        start: the time at its left.
        end: the time at its right.
        unit: of the values.
        least: what the axis reaches at least.
        marks: moments with their words.
        ago: what the left end is called.
        telling: whether resting on a mark shows its words.
    """
    finite = [v for one in series for v in one.values if math.isfinite(v)]
    top = nice_top(max(finite, default=0.0), least)

    def x(at: float) -> float:
        share = (at - start) / max(end - start, 1e-9)
        return LEFT + _PLOT_WIDTH * min(max(share, 0.0), 1.0)

    def y(value: float) -> float:
        return TOP + _PLOT_HEIGHT * (1 - min(max(value / top, 0.0), 1.0))

    paths, wanted = [], []
    for one in series:
        d = _path(one, x, y)
        if d:
            paths.append(Path(one.kind, d))
        last = next((v for v in reversed(one.values) if math.isfinite(v)), None)
        if one.now and last is not None:
            wanted.append((one, y(last)))
    places = _apart([place for _, place in wanted])
    labels = tuple(
        Label(one.kind.removesuffix("-area"), one.now, pixels(place))
        for (one, _), place in zip(wanted, places, strict=True)
    )
    said = f"{title}: " + (", ".join(one.now for one, _ in wanted) or "nothing yet")
    inside = tuple(Mark(round(x(at)), words) for at, words in marks if start <= at <= end)
    return Panel(
        title, said, f"{top:,g}{unit}", tuple(paths), labels, inside, (ago, "now"), telling
    )


def _path(one: Series, x: Callable[[float], float], y: Callable[[float], float]) -> str:
    """The line as SVG has it: whole runs between gaps, the ground closed at the bottom.

    From point to point in half pixels: it is sent twice a second.
    """
    runs: list[list[tuple[float, float]]] = [[]]
    for at, value in zip(one.at, one.values, strict=True):
        if not math.isfinite(value):
            runs.append([])
            continue
        place = (round(x(at)), pixels(round(2 * y(value)) / 2))
        if one.steps and runs[-1]:
            runs[-1].append((place[0], runs[-1][-1][1]))
        runs[-1].append(place)
    bottom = HEIGHT - BOTTOM
    parts = []
    for run in filter(None, runs):
        lean = _lean(run)
        (left, top), line = lean[0], _relative(lean)
        if one.kind.endswith("-area"):
            parts.append(f"M{left},{bottom}V{top}{line}V{bottom}Z")
        else:
            parts.append(f"M{left},{top}{line or 'h1'}")
    return "".join(parts)


def _relative(run: list[tuple[float, float]]) -> str:
    steps = [(pixels(b[0] - a[0]), pixels(b[1] - a[1])) for a, b in pairwise(run)]
    text = " ".join(f"{dx},{dy}" if dy >= 0 else f"{dx}{dy}" for dx, dy in steps)
    return f"l{text}" if text else ""


def _lean(run: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Without the points that lie between two of the same height: a quiet line is short."""
    return [
        place
        for i, place in enumerate(run)
        if i in (0, len(run) - 1) or not (run[i - 1][1] == place[1] == run[i + 1][1])
    ]


def _apart(places: Sequence[float]) -> list[float]:
    """Heights of labels near those of their lines, and none upon another."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    found = [0.0] * len(places)
    floor = float(TOP - 2)
    for i in order:
        found[i] = max(places[i], floor)
        floor = found[i] + _LINE
    ceiling = float(HEIGHT - BOTTOM + 2)
    for i in reversed(order):
        found[i] = min(found[i], ceiling)
        ceiling = found[i] - _LINE
    return found
