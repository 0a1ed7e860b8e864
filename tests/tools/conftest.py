"""Measurements made by hand: nothing here tags, serves or sends anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from mlkit.errors import InputError
from mlkit.load import LoadResult, closed, poisson
from mlkit.load.records import ClientCost
from mlkit.tagging.types import Box, Colour, Label, ProductClass, ProductTags
from tools.demo.offline import Block
from tools.demo.pictures import Picture, Tagged
from tools.demo.served import Saturated
from tools.demo.summary import Measured

HOSTILE = '<img src=x onerror=alert(1)>&"\x1b[31m.jpg'


def answer(**fields) -> ProductTags:
    plain = {
        "product_class": ProductClass(name="shoes", score=0.94),
        "labels": [Label(name="running shoe", score=0.8)],
        "box": Box(x0=16, y0=12, x1=48, y1=36),
        "colours": [Colour(name="gold", hex="#ffd700", share=0.7)],
        "words": ["plimsolls"],
        "tags": ["shoes", "gold", "plimsolls"],
    }
    return ProductTags(**{**plain, **fields})


@pytest.fixture
def make_tags():
    return answer


@pytest.fixture
def load():
    """``load(rate)``: so many answers a second, 10 ms each, for 2 s; ``cores`` of the client."""

    def make(rate: float, arrivals=None, *, cores: float = 0.1, late_ms: float = 0.0) -> LoadResult:
        count, seconds = int(2 * rate), 2.0
        times = np.arange(count) * (seconds / count) * 0.99
        columns = {
            "intended": times,
            "sent": times + late_ms / 1e3,
            "first_byte": times + 0.01,
            "finished": times + 0.01,
            "status": np.full(count, 200),
            "bytes": np.full(count, 300),
            "payload": np.zeros(count, np.int64),
            "error": np.full(count, "", dtype=np.str_),
            "server_timing": np.full(count, "", dtype=np.str_),
        }
        return LoadResult(
            arrivals=arrivals or closed(concurrency=16),
            target="http://127.0.0.1:8000/tag",
            duration_s=seconds,
            warmup_s=0.0,
            timeout_s=30.0,
            slo_ms=None,
            seed=0,
            payloads=1,
            started=1.75e9,
            interrupted=False,
            carried=0,
            client=ClientCost(cores * seconds, seconds, 16, 16),
            failures=(),
            columns=columns,
        )

    return make


@pytest.fixture
def measured(load, tmp_path: Path):
    """``measured(...)``: 200/s offline, 20/s eager, 150/s served, 10/s the blog's graph."""
    path = tmp_path / "shoe.jpg"
    PIL.Image.new("RGB", (64, 48), "gold").save(path)

    def make(**fields) -> Measured:
        plain = {
            "tagged": [
                Tagged(Picture("shoe.jpg", path, "Plimsolls"), answer()),
                Tagged(Picture(HOSTILE, path), error=InputError("<script>alert(2)</script>")),
            ],
            "offline": [Block(200, 1.0, 1.0)] * 3,
            "eager": [Block(20, 1.0, 1.9)] * 3,
            "saturated": Saturated(load(150), {"replica": 1.8, "HAProxy": 0.06}),
            "open_loops": [load(45, poisson(rate=45.0)), load(90, poisson(rate=90.0))],
            "blog": load(10),
            "blog_problem": "",
            "started_s": 20.0,
            "facts": {"cpu": "a <CPU>", "cores": 2, "load_before": 0.1},
        }
        return Measured(**{**plain, **fields})

    return make
