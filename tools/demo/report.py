"""The report: one HTML page that needs nothing else, to be looked at, printed and sent on."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlkit.load import LoadResult
from mlkit.views.load import amount, per_second
from mlkit.views.templating import render
from tools.demo.pictures import Tagged, printable
from tools.demo.summary import HOW, TARGETS, Measured
from tools.demo.table import load_row

__all__ = ["Bar", "Headline", "Tile", "bars", "headlines", "html", "tile"]

MOST_TILES = 60
THUMBNAIL = 240
"""Longer side of a picture on the contact sheet, in pixels."""


@dataclass(frozen=True)
class Headline:
    """A figure to be read first: what it is, what it means, and what it should have been."""

    value: str
    label: str
    note: str
    met: bool | None = None


@dataclass(frozen=True)
class Bar:
    """One way to tag pictures and its rate; ``share`` is the bar's length, from 0 to 1."""

    label: str
    note: str
    value: str
    share: float
    kind: str


@dataclass(frozen=True)
class Swatch:
    """A colour of a product."""

    hex: str
    name: str
    share: str


@dataclass(frozen=True)
class Tile:
    """A picture on the contact sheet; ``box`` is left, top, width and height in per cent."""

    name: str
    title: str
    image: str
    ratio: float
    box: tuple[float, float, float, float] | None
    kind: str
    score: str
    colours: tuple[Swatch, ...]
    tags: tuple[str, ...]
    error: str


def html(measured: Measured, summary: Mapping[str, Any], graph_html: str, written_at: str) -> str:
    """The page.

    Args:
        measured: what was measured.
        summary: the figures that follow from it.
        graph_html: the pipeline drawn, as its repr in a notebook.
        written_at: when, for the head.
    """
    shown = measured.tagged[:MOST_TILES]
    return render(
        "report.html.j2",
        made=written_at,
        open=2,  # the plot at the rate that counts
        headlines=headlines(summary),
        bars=bars(summary),
        blog_problem="" if measured.blog else measured.blog_problem,
        void=summary["void"],
        graph=graph_html,
        tiles=[tile(t) for t in shown],
        more=len(measured.tagged) - len(shown),
        failed=sum(t.error is not None for t in measured.tagged),
        pictures=len(measured.tagged),
        busy=summary["busy"],
        rows=[(_NAMES.get(n, n), load_row(r), r.void) for n, r in measured.loads.items()],
        loads=[_load(name, result) for name, result in measured.loads.items()],
        cpu=_cpu_rows(summary),
        how=[(name, _how_value(summary[name]), words) for name, words in HOW.items()],
        machine=[(k.replace("_", " "), v) for k, v in summary["machine"].items()],
    )


# What is read first.


def headlines(summary: Mapping[str, Any]) -> list[Headline]:
    """The four figures and what they mean."""
    met = {name: target["met"] for name, target in summary["targets"].items()}
    limits = {target.name: target.limit for target in TARGETS}
    return [
        Headline(
            _rate(summary["served_rps"]),
            "pictures a second over HTTP",
            f"{_share(summary['served_share_of_offline'])} of the offline limit on the cores that "
            f"the client leaves; wanted: {_share(limits['served_share_of_offline'])}",
            met["served_share_of_offline"],
        ),
        Headline(
            _ms(summary["poisson_p99_ms"]),
            "p99 at 60% of that rate",
            f"{_rate(summary['poisson_rate'])} with Poisson arrivals, counted from the scheduled "
            "send",
        ),
        Headline(
            _times(summary["served_per_blog"]),
            "the blog's graph",
            f"five deployments on plain Ray Serve: {_rate(summary['blog_graph_rps'])}; "
            f"wanted: {_times(limits['served_per_blog'])}",
            met["served_per_blog"],
        ),
        Headline(
            _times(summary["offline_per_eager"]),
            "eager torch, offline",
            f"one picture after the other: {_rate(summary['eager_rps'])}; "
            f"wanted: {_times(limits['offline_per_eager'])}",
            met["offline_per_eager"],
        ),
        Headline(
            _ms(summary["overhead_cpu_ms"]),
            "CPU that serving adds to a picture",
            f"{_ms(summary['served_cpu_ms'])} in all, {_ms(summary['offline_cpu_ms'])} offline; "
            f"wanted: at most {_ms(limits['overhead_cpu_ms'])}",
            met["overhead_cpu_ms"],
        ),
    ]


def bars(summary: Mapping[str, Any]) -> list[Bar]:
    """The four ways, slowest first, on one scale from 0."""
    rows = [
        ("blog_graph_rps", "The blog's graph", "five deployments, plain Ray Serve", "context"),
        ("eager_rps", "Eager torch", "one by one, in one process", "context"),
        ("served_rps", "mlkit, served", "over HTTP, client on the same cores", "served"),
        ("offline_rps", "mlkit, offline", "the limit: no HTTP, no client", "limit"),
    ]
    longest = max((summary[name] or 0.0 for name, *_ in rows), default=0.0) or 1.0
    return [
        Bar(label, note, _rate(summary[name]), (summary[name] or 0.0) / longest, kind)
        for name, label, note, kind in rows
    ]


def _rate(value: float | None) -> str:
    return "not measured" if value is None else per_second(value)


def _ms(value: float | None) -> str:
    return "–" if value is None else amount(value)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _times(value: float | None) -> str:
    return "–" if value is None else f"{value:.{1 if value < 9.95 else 0}f} ×"


def _how_value(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _cpu_rows(summary: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """CPU of each process for one answer: name, ms, share of the most."""
    rows = {role: ms for role, ms in summary["cpu_ms_by_process"].items() if ms and ms >= 0.005}
    most = max(rows.values(), default=1.0)
    return [(role, f"{ms:.2f} ms", ms / most) for role, ms in rows.items()]


# The contact sheet.


def tile(tagged: Tagged) -> Tile:
    """A picture with what was found in it; one that cannot be drawn is without."""
    image, size = _thumbnail(tagged.picture.path) if tagged.error is None else ("", (4, 3))
    answer = tagged.answer if tagged.error is None else None
    kind = getattr(answer, "product_class", None)
    return Tile(
        name=printable(tagged.picture.name),
        title=printable(tagged.picture.title),
        image=image,
        ratio=min(2.0, max(0.5, size[0] / size[1])),
        box=_per_cent(getattr(answer, "box", None), size),
        kind=kind.name if kind else "no clothing" if answer else "",
        score=f"{kind.score:.0%}" if kind else "",
        colours=tuple(_swatches(answer)),
        tags=tuple(printable(tag) for tag in tagged.tags),
        error=printable(tagged.reason),
    )


def _swatches(answer: Any) -> list[Swatch]:
    colours = getattr(answer, "colours", [])
    return [Swatch(colour.hex, colour.name, f"{colour.share:.0%}") for colour in colours]


def _per_cent(box: Any, size: tuple[int, int]) -> tuple[float, float, float, float] | None:
    if box is None:
        return None
    width, height = size
    left, top = 100 * box.x0 / width, 100 * box.y0 / height
    return left, top, 100 * (box.x1 - box.x0) / width, 100 * (box.y1 - box.y0) / height


def _thumbnail(path: Path) -> tuple[str, tuple[int, int]]:
    """The picture, small, as a data: URL, and the size of the upright original."""
    from mlkit.errors import MlkitError
    from mlkit.media.image import Image, decode

    try:
        picture: Image = decode(path.read_bytes(), min_side=THUMBNAIL)
    except (OSError, MlkitError):  # it has changed or gone since it was tagged
        return "", (4, 3)
    small = picture.pil()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=82)
    return _data_url(file.getvalue(), "image/jpeg"), (picture.width, picture.height)


def _data_url(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


# Load.


@dataclass(frozen=True)
class Load:
    """A load test as it is shown: its card, and its plot as a picture."""

    name: str
    words: str
    card: str
    plot: str


_NAMES = {"saturated": "Saturated", "blog_graph": "The blog's graph, saturated"}


def _load(name: str, result: LoadResult) -> Load:
    p99 = amount(result.percentiles["p99"].value_ms)
    words = f"{per_second(result.ok_rate)} answered, p99 {p99}, {len(result):,} requests"
    name = _NAMES.get(name, f"Poisson arrivals at {name} of the saturated rate")
    return Load(name, words, result._repr_html_(), _plot(result))


def _plot(result: LoadResult) -> str:
    file = io.BytesIO()
    result.plot().savefig(file, format="png", dpi=170)
    return _data_url(file.getvalue(), "image/png")
