"""A snapshot of an app: figures, charts, graph and tables as HTML, SVG and text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mlkit.views.chart import HEIGHT, PANEL_WIDTH, Panel
from mlkit.views.measure import columns
from mlkit.views.picture import Picture
from mlkit.views.pools import PoolRow, pool_lines
from mlkit.views.templating import render, stylesheet

__all__ = ["Live", "StageRow", "StepRow", "Tile", "relabelled", "to_html", "to_svg", "to_text"]


@dataclass(frozen=True)
class Tile:
    """A labelled figure."""

    name: str
    value: str
    unit: str = ""
    kind: str = ""


@dataclass(frozen=True)
class StepRow:
    """Formatted figures of a step; ``slow`` marks the step that most requests wait for."""

    step: str
    stage: str
    rate: str
    wait: str
    p50: str
    p95: str
    p99: str
    queued: str
    batch: str
    errors: str
    slow: bool = False


@dataclass(frozen=True)
class StageRow:
    """Formatted figures of a stage; ``gpu`` is its GPU memory, "" for a stage without a GPU."""

    stage: str
    ready: str
    wanted: str
    behind: bool
    in_flight: str
    cpu: str
    memory: str
    scaling: str = ""
    gpu: str = ""


@dataclass(frozen=True)
class Live:
    """The contents of a snapshot.

    Attributes:
        state: "serving", "starting", "empty", "asleep", "stale" or "closed".
        words: description of the state.
        decisions: scaling decisions, the latest last.
        queues: length of each step's queue, relative to the longest.
        slow: name of the step that most requests wait for; "" for none.
    """

    name: str
    state: str
    words: str
    time: str
    window: str
    tiles: tuple[Tile, ...] = ()
    panels: tuple[Panel, ...] = ()
    steps: tuple[StepRow, ...] = ()
    stages: tuple[StageRow, ...] = ()
    pools: tuple[PoolRow, ...] = ()
    decisions: tuple[str, ...] = ()
    picture: Picture | None = None
    queues: Mapping[str, float] = field(default_factory=dict)
    slow: str = ""

    @property
    def on_gpu(self) -> bool:
        """Whether any stage uses a GPU."""
        return any(stage.gpu for stage in self.stages)

    def _repr_html_(self) -> str:
        return to_html(self)

    def _repr_mimebundle_(self, **kwargs: object) -> dict[str, str]:
        return {"text/plain": str(self), "text/html": self._repr_html_()}

    @property
    def html(self) -> str:
        """Standalone HTML without scripts or external resources."""
        return to_html(self)

    @property
    def svg(self) -> str:
        """The charts as one SVG."""
        return to_svg(self)

    def __str__(self) -> str:
        return to_text(self)

    __repr__ = __str__


def relabelled(picture: Picture, subtitles: Mapping[str, str]) -> Picture:
    """Replace the second lines of the steps."""
    shapes = tuple(
        replace(placed, shape=replace(placed.shape, type=subtitles.get(placed.shape.node, "")))
        if placed.shape.kind == "step"
        else placed
        for placed in picture.shapes
    )
    return replace(picture, shapes=shapes)


def to_html(live: Live) -> str:
    """Render as HTML; at most 20 kB for a pipeline of ten steps."""
    text = render("live.html.j2", live=live, style=stylesheet("live.css.j2"), text=to_text(live))
    head, pre, twin = text.partition("<pre")
    return "".join(line.strip() for line in head.splitlines()) + pre + twin


def to_svg(live: Live) -> str:
    """Render the charts as SVG, two in a row."""
    places = [
        (panel, (i % 2) * (PANEL_WIDTH + 16), (i // 2) * (HEIGHT + 8))
        for i, panel in enumerate(live.panels)
    ]
    rows = -(-len(live.panels) // 2)
    return render(
        "live.svg.j2",
        live=live,
        places=places,
        width=2 * PANEL_WIDTH + 16,
        height=max(1, rows * (HEIGHT + 8)),
    )


def to_text(live: Live) -> str:
    """Render as text."""
    lines = [f"{live.name}: {live.words}"]
    if live.tiles:
        tiles = (f"{t.name} {t.value}{' ' + t.unit if t.unit else ''}" for t in live.tiles)
        lines.append("  ".join(tiles))
    if live.steps:
        head = ("step", "stage", "1/s", "wait", "p50", "p95", "p99", "queue", "batch", "errors")
        rows = [
            (r.step, r.stage, r.rate, r.wait, r.p50, r.p95, r.p99, r.queued, r.batch, r.errors)
            for r in live.steps
        ]
        lines += columns([head, *rows], 2)
        lines += [f"most requests wait for {row.step}" for row in live.steps if row.slow]
    if live.stages:
        head2 = ("stage", "ready", "wanted", "in flight", "CPU", "MB")
        rows2 = [(s.stage, s.ready, s.wanted, s.in_flight, s.cpu, s.memory) for s in live.stages]
        table: list[Sequence[str]] = [head2, *rows2]
        if live.on_gpu:
            gpu = ["GPU MB", *(stage.gpu for stage in live.stages)]
            table = [(*row, memory) for row, memory in zip(table, gpu, strict=True)]
        lines += columns(table, 1)
    if live.pools:
        lines += pool_lines(live.pools)
    return "\n".join([*lines, *live.decisions])
