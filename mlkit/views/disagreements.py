"""Disagreements of a version on trial as text and as an HTML table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlkit.metrics.compare import Disagreements
from mlkit.views.run import clock
from mlkit.views.templating import render

__all__ = ["to_html", "to_text"]


def to_text(disagreements: Disagreements) -> str:
    """Render a line for each."""
    return "\n".join([summary(disagreements), *map(_line, disagreements.samples)])


def summary(disagreements: Disagreements) -> str:
    """The counts in one line."""
    if not disagreements.compared:
        return f"version {disagreements.version} has seen no request yet"
    share = disagreements.disagreed / disagreements.compared
    dropped = f"; {disagreements.dropped} dropped" if disagreements.dropped else ""
    return (
        f"version {disagreements.version} disagrees on {disagreements.disagreed} of "
        f"{disagreements.compared} requests ({share:.1%}){dropped}"
    )


def _line(sample: Mapping[str, Any]) -> str:
    inputs = ", ".join(f"{name}={text}" for name, text, _ in sample["inputs"])
    return f"  {clock(sample['at'])}  {inputs}: {sample['old'][0]} → {sample['new'][0]}"


def to_html(disagreements: Disagreements) -> str:
    """Render a row for each, with thumbnails."""
    rows = [{**sample, "time": clock(sample["at"])} for sample in disagreements.samples]
    return render(
        "disagreements.html.j2",
        summary=summary(disagreements),
        rows=rows,
        text=to_text(disagreements),
    )
