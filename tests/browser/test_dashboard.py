"""A person's way through the dashboard: JupyterLab, a kernel, Ray, and nothing stands for them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.serve, pytest.mark.timeout(240)]

CELLS = {
    "deploy": """
import asyncio
from mlkit import pipeline, step
from mlkit.load import constant, last_result, load_test
from mlkit.serving import deploy
from mlkit.views import Dashboard

@step(num_cpus=0.1, stage="loading")
async def load(x: int) -> int:
    await asyncio.sleep(0.05)
    return x

@step
def twice(x: int) -> int:
    return 2 * x

@pipeline
def shop(x: int) -> int:
    return twice(load(x))

app = deploy(shop, progress=False)
app(2)
""",
    "show": "dashboard = Dashboard(app, window_s=60)\ndashboard",
    "ask": "sorted(app.map(range(40), progress=False))[-1]",
    "replicas": "sorted((n, v.get('RUNNING', 0)) for n, v in app.status().stages.items())",
    "load": "result = load_test(app, [1, 2], constant(rate=20), duration_s=300, progress=False)",
    "kept": "result.interrupted, len(result) > 10, len(last_result()) == len(result)",
    "close": "dashboard.close()\n'closed'",
}
SHOWN = list(CELLS).index("show") + 1
"""Its place in the file: the first cell only connects the kernel."""


@pytest.fixture(scope="module")
def notebook(open_notebook: Any) -> Any:
    """The notebook, with its app deployed and the dashboard shown."""
    made = open_notebook("shop.ipynb", CELLS)
    assert made.run("deploy", 120).splitlines()[-1] == "4"
    made.start("show")
    made.page.wait_for_selector(".mlkit-live .tiles", timeout=30_000)
    return made


def test_the_dashboard_appears_with_its_controls(notebook: Any, pictures: Path) -> None:
    cell = notebook.cell("show")
    assert cell.locator(".mlkit-live svg").count() >= 4
    cell.locator(".jupyter-button", has_text="Apply").first.wait_for(timeout=20_000)
    assert "loading" in cell.locator(".mlkit-live").inner_text()
    notebook.shot(pictures / "dashboard_appears.png")


def test_the_numbers_move_under_load(notebook: Any, pictures: Path) -> None:
    before = notebook.tile("throughput")
    assert notebook.run("ask") == "78"
    notebook.until(lambda: notebook.tile("throughput") > before + 1, 10)
    notebook.shot(pictures / "numbers_move.png")


def test_a_slider_changes_the_replicas_that_ray_has(notebook: Any, pictures: Path) -> None:
    cell = notebook.cell("show")
    cell.locator("select").first.select_option("loading")
    readout = cell.locator(".widget-readout:visible").first
    readout.click()
    readout.fill("2")
    readout.press("Enter")
    cell.get_by_text("app.scale('loading', num_replicas=2)").wait_for()
    cell.locator(".jupyter-button:visible", has_text="Apply").first.click()
    cell.get_by_text("num_replicas 1 → 2").wait_for(timeout=30_000)
    assert "('loading', 2)" in notebook.run("replicas")
    notebook.shows("show", "loading 1 → 2: set manually", 10)
    notebook.shot(pictures / "slider.png")


def test_a_load_from_the_panel_runs_and_stop_ends_it(notebook: Any, pictures: Path) -> None:
    cell = notebook.cell("show")
    cell.locator(".lm-TabBar-tab", has_text="load").click()
    cell.locator(".jupyter-button:visible", has_text="Start").click()
    notebook.shows("show", r"\d+ answered", 20)
    notebook.until(lambda: notebook.tile("throughput") > 4, 20)
    notebook.shot(pictures / "load_panel.png")
    cell.locator(".jupyter-button:visible", has_text="Stop").click()
    cell.get_by_text(re.compile(r"stopped: [\d,]+ requests")).wait_for(timeout=20_000)


def test_an_interrupt_ends_a_blocking_load_and_keeps_its_records(notebook: Any) -> None:
    notebook.start("load")
    notebook.page.wait_for_timeout(4000)
    notebook.page.keyboard.press("Escape")
    notebook.page.keyboard.press("i")
    notebook.page.keyboard.press("i")
    notebook.until(lambda: notebook.done("load"), 20)
    assert notebook.run("kept") == "(True, True, True)"


def test_the_saved_notebook_shows_the_picture_without_a_kernel(
    notebook: Any, lab: Any, chromium: Any, pictures: Path
) -> None:
    # While the dashboard still runs, and as a kernel that is killed leaves it.
    notebook.page.keyboard.press("Escape")
    notebook.page.keyboard.press("Control+s")
    notebook.page.wait_for_timeout(2000)
    live = lab.saved("shop.ipynb")["cells"][SHOWN]["outputs"]
    assert "mlkit-live" in "".join(live[0]["data"]["text/html"])
    # And as one that was closed does.
    assert "closed" in notebook.run("close")
    notebook.page.keyboard.press("Escape")
    notebook.page.keyboard.press("Control+s")
    notebook.page.wait_for_timeout(2000)
    outputs = lab.saved("shop.ipynb")["cells"][SHOWN]["outputs"]
    assert not any("widget-view" in kind for one in outputs for kind in one.get("data", {}))
    notebook.page.close()
    (lab.root / "again.ipynb").write_text((lab.root / "shop.ipynb").read_text())
    page = chromium.new_page(viewport={"width": 1280, "height": 1300})
    page.route("**/api/kernels/**", lambda route: route.abort())
    page.route("**/api/sessions**", lambda route: route.abort())
    page.goto(f"{lab.url}/lab/tree/again.ipynb?reset")
    page.wait_for_selector(".mlkit-live .tiles", timeout=30_000)
    page.wait_for_timeout(3000)
    assert "model not found" not in page.content()
    for close in page.get_by_role("button", name="Close", exact=True).all():
        close.click()  # Lab's word that there is no kernel
    page.screenshot(path=str(pictures / "without_a_kernel.png"))
    page.close()
