"""What came of a demo run, as numbers and as a page to read."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlkit.images import Image
from mlkit.reprs import render
from mlkit.reprs.graph import to_html
from mlkit.tagging import ProductTags, tag

if TYPE_CHECKING:
    from mlkit.demo.pictures import Picture
    from mlkit.load import LoadResult

__all__ = ["Findings", "summary", "table", "write"]


@dataclass
class Findings:
    """All that a run found out; ``answers`` holds the error where a picture could not be tagged."""

    pictures: list[Picture]
    answers: list[ProductTags | Exception]
    offline_rps: float
    offline_cpu_ms: float
    eager_rps: float
    served_rps: float
    served_cpu_ms: float
    client_cores: float
    plain_rps: float
    runs: dict[str, LoadResult] = field(default_factory=dict)
    cores: int = 2


def summary(found: Findings) -> dict[str, Any]:
    """The figures by name; what could not be measured is null."""
    poisson = found.runs["60%"].summary()
    room = found.offline_rps * (1 - found.client_cores / found.cores)
    figures = {
        "offline_rps": found.offline_rps,
        "eager_rps": found.eager_rps,
        "served_rps": found.served_rps,
        "client_cores": found.client_cores,
        "blog_graph_rps": found.plain_rps,
        "overhead_cpu_ms": found.served_cpu_ms - found.offline_cpu_ms,
        "poisson_rate": poisson["asked_rate"],
        "poisson_p99_ms": poisson["p99_ms"],
        "offline_over_eager": _ratio(found.offline_rps, found.eager_rps),
        "served_over_offline": _ratio(found.served_rps, room),
        "served_over_blog": _ratio(found.served_rps, found.plain_rps),
    }
    tags = {
        picture.name: answer.tags if isinstance(answer, ProductTags) else []
        for picture, answer in zip(found.pictures, found.answers, strict=True)
    }
    return {**{k: _finite(v) for k, v in figures.items()}, "tags": tags}


def _ratio(a: float, b: float) -> float:
    return a / b if b else math.nan


def _finite(value: float | None) -> float | None:
    return round(value, 3) if value is not None and math.isfinite(value) else None


def table(found: Findings) -> str:
    """Pictures with their tags, and the figures, for a terminal."""
    width = max(len(p.name) for p in found.pictures)
    lines = [
        f"{picture.name:<{width}}  {_words(answer)}"
        for picture, answer in zip(found.pictures, found.answers, strict=True)
    ]
    lines += ["", f"{'':<14}{'requests/s':>11}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}"]
    for name, result in found.runs.items():
        s = result.summary()
        row = "".join(f"{s[f'{p}_ms']:>9.1f}" for p in ("p50", "p95", "p99"))
        lines.append(f"{name:<14}{s['ok_rate']:>11.1f}{row}{'  VOID' if s['void'] else ''}")
    lines.append("")
    figures = {k: v for k, v in summary(found).items() if k != "tags"}
    lines += [f"{name:<22}{'-' if v is None else f'{v:,.3g}':>10}" for name, v in figures.items()]
    return "\n".join(lines)


def _words(answer: ProductTags | Exception) -> str:
    if isinstance(answer, ProductTags):
        return ", ".join(answer.tags)
    return "! " + str(answer).partition("\n")[0]


def write(found: Findings, out: Path) -> None:
    """Write ``summary.json``, ``tags.csv`` and ``report.html`` into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "summary.json").write_text(json.dumps(summary(found), indent=2) + "\n")
    with (out / "tags.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["picture", "product_class", "colours", "tags", "error"])
        for picture, answer in zip(found.pictures, found.answers, strict=True):
            rows.writerow([picture.name, *_cells(answer)])
    (out / "report.html").write_text(_page(found))


def _cells(answer: ProductTags | Exception) -> list[str]:
    if not isinstance(answer, ProductTags):
        return ["", "", "", _words(answer)[2:]]
    name = answer.product_class.name if answer.product_class else ""
    return [name, "|".join(c.name for c in answer.colours), "|".join(answer.tags), ""]


def _page(found: Findings) -> str:
    figures = {k: v for k, v in summary(found).items() if k != "tags"}
    rates = {
        "eager torch, one after the other": found.eager_rps,
        "plain Ray Serve, five deployments": found.plain_rps,
        "mlkit, served over HTTP": found.served_rps,
        "mlkit, offline in one process": found.offline_rps,
    }
    return render(
        "report.html.j2",
        figures=figures,
        rates=[(name, rate, rate / max(rates.values())) for name, rate in rates.items()],
        graph=to_html(tag.graph),
        plots=[(name, _plot(result)) for name, result in found.runs.items() if name != "saturated"],
        loads=[(name, result.summary()) for name, result in found.runs.items()],
        pictures=[
            _shown(picture, answer)
            for picture, answer in zip(found.pictures, found.answers, strict=True)
        ],
    )


def _plot(result: LoadResult) -> str:
    buffer = io.BytesIO()
    result.plot().savefig(buffer, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _shown(picture: Picture, answer: ProductTags | Exception) -> dict[str, Any]:
    if not isinstance(answer, ProductTags):
        return {"name": picture.name, "error": _words(answer)[2:]}
    return {
        "name": picture.name,
        "error": None,
        "title": picture.title,
        "src": _thumbnail(picture.data, answer),
        "product": answer.product_class,
        "colours": answer.colours,
        "tags": answer.tags,
    }


def _thumbnail(data: bytes, answer: ProductTags) -> str:
    """A small JPEG with the product's box drawn, as a data URL."""
    from PIL import ImageDraw

    image = Image.open(data)
    small = image.pil()
    small.thumbnail((200, 200))
    if answer.box is not None:
        x, y = small.width / image.width, small.height / image.height
        box = answer.box
        corners = (box.x0 * x, box.y0 * y, box.x1 * x - 1, box.y1 * y - 1)
        ImageDraw.Draw(small).rectangle(corners, outline="#0072b2", width=2)
    buffer = io.BytesIO()
    small.convert("RGB").save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
