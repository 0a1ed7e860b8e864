"""The variants of a model and what was measured of them, as an HTML table."""

from __future__ import annotations

import math

from mlkit.models import Optimized
from mlkit.models.evidence import Load, Variant, pareto, speedup
from mlkit.views.load import amount
from mlkit.views.templating import render

__all__ = ["caption", "share", "to_html"]


def to_html(result: Optimized) -> str:
    """Render a row per variant at the largest batch size and thread count, the front marked."""
    load = max(result.loads, key=lambda load: (load.threads, load.batch_size))
    front = pareto(result.variants, load)
    return render(
        "optimize.html.j2",
        caption=caption(load),
        evaluated=any(not math.isnan(v.accuracy.value) for v in result.variants),
        rows=[_row(v, result.variants[0], load, v.name in front) for v in result.variants],
        note=result.note,
    )


def caption(load: Load) -> str:
    """Describe what calls were timed with."""
    threads = f"{load.threads} thread{'s' * (load.threads > 1)}"
    return f"batches of {load.batch_size} on {threads}"


def share(value: float) -> str:
    """Format a share: 98.7%, or a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.1%}"


def _row(variant: Variant, reference: Variant, load: Load, on_front: bool) -> dict[str, object]:
    gain = speedup(reference.blocks_ms.get(load, []), variant.blocks_ms.get(load, []))
    accuracy = variant.accuracy
    interval = "" if math.isnan(accuracy.low) else f"{accuracy.low:.1%} to {accuracy.high:.1%}"
    return {
        "name": variant.name,
        "failure": variant.failure,
        "front": on_front,
        "latency": amount(variant.latency_ms(load)),
        "speedup": "–" if math.isnan(gain.value) else f"{gain.value:.2f}×",
        "speedup_range": "" if math.isnan(gain.low) else f"{gain.low:.2f} to {gain.high:.2f}",
        "accuracy": share(accuracy.value),
        "accuracy_range": interval,
        "agreement": share(variant.agreement),
        "load": amount(1e3 * variant.load_s),
        "file": _megabytes(variant.file_mb),
        "memory": _megabytes(variant.memory_mb),
    }


def _megabytes(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.{0 if value >= 9.95 else 1}f} MB"
