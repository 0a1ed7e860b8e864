"""A person's way through the dashboard: JupyterLab, a kernel, Ray, and nothing stands for them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.serve, pytest.mark.timeout(240)]

CELLS = [
    """
import asyncio
from mlkit import pipeline, step
from mlkit.load import constant, last_result, load_test
from mlkit.serving import deploy
from mlkit.ui import Dashboard

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
    "dashboard = Dashboard(app, window_s=60)\ndashboard",
    "sorted(app.map(range(40), progress=False))[-1]",
    "sorted((name, n.get('RUNNING', 0)) for name, n in app.status().stages.items())",
    "result = load_test(app, [1, 2], constant(rate=20), duration_s=300, progress=False)",
    "result.interrupted, len(result) > 10, len(last_result()) == len(result)",
    "dashboard.close()\n'closed'",
]


class Page:
    """The notebook as a person has it before them."""

    def __init__(self, page: Any, until: Callable[..., Any]) -> None:
        self.page = page
        self.until = until

    def cell(self, number: int) -> Any:
        return self.page.locator(".jp-Notebook .jp-CodeCell").nth(number)

    def start(self, number: int) -> None:
        """Click into a cell and run it."""
        self.cell(number).scroll_into_view_if_needed()
        self.cell(number).locator(".cm-content").click()
        self.page.keyboard.press("Control+Enter")

    def done(self, number: int) -> bool:
        prompt = self.cell(number).locator(".jp-InputPrompt").inner_text()
        return re.search(r"\d", prompt) is not None

    def run(self, number: int, timeout_s: float = 60) -> str:
        """Run a cell to its end; the text that it shows."""
        self.start(number)
        self.until(lambda: self.done(number), timeout_s)
        return self.text(number)

    def text(self, number: int) -> str:
        outputs = self.cell(number).locator(".jp-OutputArea-output")
        return "\n".join(outputs.all_inner_texts())

    def tile(self, name: str) -> float:
        """A figure of the dashboard."""
        tile = self.cell(1).locator(".tiles div", has_text=name).first
        found = re.search(r"[\d.,]+", tile.inner_text())
        return float(found.group().replace(",", "")) if found else 0.0

    def shot(self, path: Path) -> None:
        self.page.screenshot(path=str(path))


@pytest.fixture(scope="module")
def notebook(lab: Any, chromium: Any, until: Any) -> Page:
    """The notebook, with its first two cells run."""
    lab.write("shop.ipynb", CELLS)
    page = chromium.new_page(viewport={"width": 1280, "height": 1300})
    page.goto(f"{lab.url}/lab/tree/shop.ipynb?reset")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=60_000)
    made = Page(page, until)
    assert made.run(0, 120).splitlines()[-1] == "4"
    made.start(1)
    page.wait_for_selector(".mlkit-live .tiles", timeout=30_000)
    return made


def test_the_dashboard_appears_with_its_controls(notebook: Page, pictures: Path) -> None:
    cell = notebook.cell(1)
    assert cell.locator(".mlkit-live svg").count() >= 4
    cell.locator(".jupyter-button", has_text="Apply").first.wait_for(timeout=20_000)
    assert "loading" in cell.locator(".mlkit-live").inner_text()
    notebook.shot(pictures / "dashboard_appears.png")


def test_the_numbers_move_under_load(notebook: Page, pictures: Path) -> None:
    before = notebook.tile("throughput")
    assert notebook.run(2) == "78"
    notebook.until(lambda: notebook.tile("throughput") > before + 1, 10)
    notebook.shot(pictures / "numbers_move.png")


def test_a_slider_changes_the_replicas_that_ray_has(notebook: Page, pictures: Path) -> None:
    cell = notebook.cell(1)
    cell.locator("select").first.select_option("loading")
    readout = cell.locator(".widget-readout:visible").first
    readout.click()
    readout.fill("2")
    readout.press("Enter")
    cell.get_by_text("app.scale('loading', num_replicas=2)").wait_for()
    cell.locator(".jupyter-button:visible", has_text="Apply").first.click()
    cell.get_by_text("num_replicas 1 → 2").wait_for(timeout=30_000)
    assert "('loading', 2)" in notebook.run(3)
    notebook.shot(pictures / "slider.png")


def test_a_load_from_the_panel_runs_and_stop_ends_it(notebook: Page, pictures: Path) -> None:
    cell = notebook.cell(1)
    cell.locator(".lm-TabBar-tab", has_text="load").click()
    cell.locator(".jupyter-button:visible", has_text="Start").click()
    notebook.until(lambda: re.search(r"\d+ answered", notebook.text(1)), 20)
    notebook.until(lambda: notebook.tile("throughput") > 4, 20)
    notebook.shot(pictures / "load_panel.png")
    cell.locator(".jupyter-button:visible", has_text="Stop").click()
    cell.get_by_text(re.compile(r"stopped: [\d,]+ requests")).wait_for(timeout=20_000)


def test_an_interrupt_ends_a_blocking_load_and_keeps_its_records(notebook: Page) -> None:
    notebook.start(4)
    notebook.page.wait_for_timeout(4000)
    notebook.page.keyboard.press("Escape")
    notebook.page.keyboard.press("i")
    notebook.page.keyboard.press("i")
    notebook.until(lambda: notebook.done(4), 20)
    assert notebook.run(5) == "(True, True, True)"


def test_the_saved_notebook_shows_the_picture_without_a_kernel(
    notebook: Page, lab: Any, chromium: Any, pictures: Path
) -> None:
    # While the dashboard still runs, and as a kernel that is killed leaves it.
    notebook.page.keyboard.press("Escape")
    notebook.page.keyboard.press("Control+s")
    notebook.page.wait_for_timeout(2000)
    live = lab.saved("shop.ipynb")["cells"][1]["outputs"]
    assert "mlkit-live" in "".join(live[0]["data"]["text/html"])
    # And as one that was closed does.
    assert "closed" in notebook.run(6)
    notebook.page.keyboard.press("Escape")
    notebook.page.keyboard.press("Control+s")
    notebook.page.wait_for_timeout(2000)
    outputs = lab.saved("shop.ipynb")["cells"][1]["outputs"]
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
