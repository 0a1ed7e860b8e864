"""Small time-series charts: geometry in pixels, which templates write as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from mlkit.views.measure import pixels, spread

__all__ = [
    "HEIGHT",
    "PANEL_WIDTH",
    "ChartLabel",
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
_LABEL_GAP = 11.0
"""Minimum distance between labels, in pixels."""


@dataclass(frozen=True)
class Path:
    """A line or an area; ``kind`` is its CSS class."""

    kind: str
    d: str


@dataclass(frozen=True)
class ChartLabel:
    """The current value of a line, at its end."""

    kind: str
    text: str
    y: float


@dataclass(frozen=True)
class Mark:
    """An event, drawn as a thin vertical line."""

    x: float
    title: str


@dataclass(frozen=True)
class Panel:
    """The geometry of a chart.

    Attributes:
        description: alternative text.
        top: label of the upper grid line.
        ends: labels at both ends of the time axis.
        tooltips: whether hovering over a mark shows its title.
    """

    title: str
    description: str
    top: str
    paths: tuple[Path, ...] = ()
    labels: tuple[ChartLabel, ...] = ()
    marks: tuple[Mark, ...] = ()
    ends: tuple[str, str] = ("", "now")
    tooltips: bool = False
    left: int = LEFT
    right: int = PANEL_WIDTH - RIGHT
    upper: int = TOP
    lower: int = HEIGHT - BOTTOM
    width: int = PANEL_WIDTH
    height: int = HEIGHT


@dataclass(frozen=True)
class Series:
    """A time series in data units; NaN leaves a gap.

    Attributes:
        kind: CSS class; one that ends in "-area" is filled.
        now: label of the current value; "" for none.
        steps: whether a value holds until the next time.
    """

    kind: str
    at: Sequence[float]
    values: Sequence[float]
    now: str = ""
    steps: bool = False


def nice_top(highest: float, minimum: float = 1.0) -> float:
    """Round up to 1, 2 or 5 times a power of ten."""
    value = max(highest if math.isfinite(highest) else 0.0, minimum)
    power = 10.0 ** math.floor(math.log10(value))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= value * 0.999)


def panel(
    title: str,
    series: Sequence[Series],
    *,
    start: float,
    end: float,
    unit: str = "",
    min_top: float = 1.0,
    marks: Sequence[tuple[float, str]] = (),
    ago: str = "",
    tooltips: bool = False,
) -> Panel:
    """Lay out a chart.

    Args:
        title: title of the chart.
        series: its lines, from back to front.
        start: time at the left end.
        end: time at the right end.
        unit: unit of the values.
        min_top: minimum upper end of the value axis.
        marks: times of events, with their titles.
        ago: label of the left end.
        tooltips: whether hovering over a mark shows its title.
    """
    finite = [v for line in series for v in line.values if math.isfinite(v)]
    top = nice_top(max(finite, default=0.0), min_top)

    def x(at: float) -> float:
        share = (at - start) / max(end - start, 1e-9)
        return LEFT + _PLOT_WIDTH * min(max(share, 0.0), 1.0)

    def y(value: float) -> float:
        return TOP + _PLOT_HEIGHT * (1 - min(max(value / top, 0.0), 1.0))

    paths, labelled = [], []
    for line in series:
        d = _path(line, x, y)
        if d:
            paths.append(Path(line.kind, d))
        last = next((v for v in reversed(line.values) if math.isfinite(v)), None)
        if line.now and last is not None:
            labelled.append((line, y(last)))
    wanted = [height for _, height in labelled]
    heights = spread(wanted, gap=_LABEL_GAP, low=TOP - 2, high=HEIGHT - BOTTOM + 2)
    labels = tuple(
        ChartLabel(line.kind.removesuffix("-area"), line.now, pixels(height))
        for (line, _), height in zip(labelled, heights, strict=True)
    )
    description = f"{title}: " + (", ".join(line.now for line, _ in labelled) or "nothing yet")
    visible = tuple(Mark(round(x(at)), text) for at, text in marks if start <= at <= end)
    return Panel(
        title, description, f"{top:,g}{unit}", tuple(paths), labels, visible, (ago, "now"), tooltips
    )


def _path(series: Series, x: Callable[[float], float], y: Callable[[float], float]) -> str:
    """Write a line as SVG path data, one subpath between gaps; areas are closed at the bottom.

    Coordinates are relative and in half pixels to keep it short: it is sent twice a second.
    """
    runs: list[list[tuple[float, float]]] = [[]]
    for at, value in zip(series.at, series.values, strict=True):
        if not math.isfinite(value):
            runs.append([])
            continue
        place = (round(x(at)), pixels(round(2 * y(value)) / 2))
        if series.steps and runs[-1]:
            runs[-1].append((place[0], runs[-1][-1][1]))
        runs[-1].append(place)
    bottom = HEIGHT - BOTTOM
    parts = []
    for run in filter(None, runs):
        points = _simplified(run)
        (left, top), line = points[0], _relative(points)
        if series.kind.endswith("-area"):
            parts.append(f"M{left},{bottom}V{top}{line}V{bottom}Z")
        else:
            parts.append(f"M{left},{top}{line or 'h1'}")
    return "".join(parts)


def _relative(run: list[tuple[float, float]]) -> str:
    steps = [(pixels(b[0] - a[0]), pixels(b[1] - a[1])) for a, b in pairwise(run)]
    text = " ".join(f"{dx},{dy}" if dy >= 0 else f"{dx}{dy}" for dx, dy in steps)
    return f"l{text}" if text else ""


def _simplified(run: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Drop points between two of the same height."""
    return [
        place
        for i, place in enumerate(run)
        if i in (0, len(run) - 1) or not (run[i - 1][1] == place[1] == run[i + 1][1])
    ]
