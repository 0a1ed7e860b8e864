"""A dashboard that runs for long: neither the kernel nor the page may grow.

``MLKIT_SOAK_MIN=30 .venv/bin/pytest tests/browser/test_soak.py`` takes that many minutes and writes
``build/browser/soak.json``; without the variable it is skipped.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

MINUTES = float(os.environ.get("MLKIT_SOAK_MIN", "0"))

pytestmark = [
    pytest.mark.browser,
    pytest.mark.serve,
    pytest.mark.timeout(60 * MINUTES + 300),
    pytest.mark.skipif(not MINUTES, reason="takes as many minutes as MLKIT_SOAK_MIN says"),
]

CELL = """
import os
from mlkit import pipeline, step
from mlkit.load import constant, load_test
from mlkit.serving import deploy
from mlkit.views import Dashboard

@step(stage="other")
def first(x: int) -> int:
    return x

@step
def second(x: int) -> int:
    return 2 * x

@pipeline
def soak(x: int) -> int:
    return second(first(x))

app = deploy(soak, progress=False)
run = load_test(app, [1, 2, 3], constant(rate=10), duration_s=36000, wait=False)
dashboard = Dashboard(app, window_s=60)
print(os.getpid())
dashboard
"""


def test_memory_stays(open_notebook: Any, pictures: Path) -> None:
    notebook = open_notebook("soak.ipynb", {"show": CELL, "end": "run.kill()\napp.shutdown()"})
    page = notebook.page
    notebook.start("show")
    page.wait_for_selector(".mlkit-live .tiles", timeout=90_000)
    pid = int(notebook.cell("show").locator(".jp-OutputArea-output").first.inner_text())
    kernel, devtools = psutil.Process(pid), page.context.new_cdp_session(page)
    devtools.send("Performance.enable")
    rows = []
    end = time.monotonic() + 60 * MINUTES
    while time.monotonic() < end:
        page.wait_for_timeout(min(60_000, 60_000 * MINUTES / 10))
        devtools.send("HeapProfiler.collectGarbage")
        metrics = {
            m["name"]: m["value"] for m in devtools.send("Performance.getMetrics")["metrics"]
        }
        rows.append(
            {
                "kernel_mb": kernel.memory_info().rss / 1e6,
                "kernel_cpu_s": sum(kernel.cpu_times()[:2]),
                "page_mb": metrics["JSHeapUsedSize"] / 1e6,
                "nodes": metrics["Nodes"],
            }
        )
        (pictures / "soak.json").write_text(json.dumps(rows, indent=1))
    notebook.shot(pictures / "soak.png")
    # The first minutes fill the histories; from then on nothing may grow by a tenth.
    settled, last = rows[len(rows) // 2], rows[-1]
    assert last["kernel_mb"] < 1.1 * settled["kernel_mb"] + 5
    assert last["page_mb"] < 1.1 * settled["page_mb"] + 5
    assert last["nodes"] < 1.1 * settled["nodes"] + 500
    notebook.run("end")
    page.close()
