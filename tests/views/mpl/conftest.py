"""Load results made by hand, and a way to find words that overlap in a figure."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mlkit.load import LoadResult, poisson
from mlkit.load.records import ClientCost


@pytest.fixture
def load_result():
    """``load_result(rate=100, ...)``: lognormal latencies around ``typical_ms``."""

    def make(
        arrivals=None,
        *,
        duration_s=20.0,
        typical_ms=30.0,
        failed=0.0,
        late_ms=0.1,
        items=0,
        **fields,
    ):
        arrivals = arrivals or poisson(rate=100)
        stream = np.random.default_rng(1)
        count = fields.pop("count", None)
        times = (
            arrivals.times(duration_s) if count is None else np.arange(count) * duration_s / count
        )
        count = len(times)
        finished = times + typical_ms / 1e3 * stream.lognormal(0, 0.35, count)
        error = np.where(stream.random(count) < failed, "http 503", "")
        columns = {
            "intended": times,
            "sent": times + late_ms / 1e3,
            "first_byte": finished,
            "finished": finished,
            "status": np.where(error == "", 200, 503),
            "bytes": np.full(count, 300),
            "payload": np.arange(count) % 40,
            "error": error,
            "server_timing": np.full(count, "", dtype=np.str_),
        }
        if items:
            columns["items"] = np.where(error == "", items, 1)
            taken = np.linspace(0.3, 1, items)[None, :] * (finished - times)[:, None]
            arrived = (times[:, None] + taken)[np.arange(items) < columns["items"][:, None]]
            fields["item_times"] = arrived
        plain = {
            "arrivals": arrivals,
            "target": "http://127.0.0.1:8000/tag",
            "warmup_s": 1.0,
            "timeout_s": 30.0,
            "slo_ms": None,
            "seed": 0,
            "payloads": 40,
            "started": 1.75e9,
            "interrupted": False,
            "carried": 0,
            "client": ClientCost(1.4, duration_s, 12, 9),
            "failures": (),
        }
        return LoadResult(**{**plain, **fields}, duration_s=duration_s, columns=columns)

    return make


@pytest.fixture
def words_of(monkeypatch):
    """``words_of(figure)``: every text that is drawn, with its box in pixels, but for VOID."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    def find(figure):
        drawn = []  # not all there is: axes keep labels for ticks beyond their ends
        draw = Text.draw
        with monkeypatch.context() as patch:
            patch.setattr(Text, "draw", lambda t, *rest: (drawn.append(t), draw(t, *rest)))
            FigureCanvasAgg(figure).draw()
        shown = [t for t in drawn if t.get_text().strip() and t.get_text() != "VOID"]
        return [(t.get_text(), t.get_window_extent()) for t in shown]

    return find


@pytest.fixture
def overlapping(words_of):
    """``overlapping(figure)``: pairs of texts that cover each other by more than a pixel."""

    def find(figure):
        return [
            (a, b)
            for (a, one), (b, two) in itertools.combinations(words_of(figure), 2)
            if min(one.x1, two.x1) - max(one.x0, two.x0) > 1
            and min(one.y1, two.y1) - max(one.y0, two.y0) > 1
        ]

    return find
