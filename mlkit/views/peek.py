"""Samples of a step's inputs and output as text and as an HTML table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlkit.metrics.peek import Peek
from mlkit.views.run import clock
from mlkit.views.templating import render

__all__ = ["to_html", "to_text"]


def to_text(peek: Peek) -> str:
    """Render a line for each sample."""
    if not peek.samples:
        return f"{peek.step}: no request arrived in time; send one with app(...), then peek again"
    return "\n".join([f"{peek.step}:", *map(_line, peek.samples)])


def _line(sample: Mapping[str, Any]) -> str:
    inputs = ", ".join(f"{name}={text}" for name, text, _ in sample["inputs"])
    return f"  {clock(sample['at'])} {sample['id']}  {inputs} → {sample['output'][0]}"


def to_html(peek: Peek) -> str:
    """Render a row for each sample, with thumbnails and boxes."""
    rows = [{**sample, "time": clock(sample["at"])} for sample in peek.samples]
    return render("peek.html.j2", step=peek.step, rows=rows, text=to_text(peek))
