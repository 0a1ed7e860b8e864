"""The views in a real browser: nothing spills or is too faint, in every width and theme."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from mlkit import Pipeline
from mlkit.autoscale import Decision, Scaling
from mlkit.execute import NodeRun, Run
from mlkit.metrics import Recorder, Rolling, Span, Trace
from mlkit.metrics.peek import Peek, sample
from mlkit.metrics.pools import Pools
from mlkit.plan import plan
from mlkit.views import card, graph, run
from mlkit.views.snapshot import live_of

pytestmark = pytest.mark.browser

# JupyterLab's own values.
LIGHT = {
    "--jp-ui-font-color1": "rgba(0,0,0,.87)",
    "--jp-ui-font-color2": "rgba(0,0,0,.54)",
    "--jp-layout-color0": "#fff",
    "--jp-layout-color1": "#fff",
    "--jp-layout-color2": "#eee",
    "--jp-border-color2": "#e0e0e0",
}
DARK = {
    "--jp-ui-font-color1": "rgba(255,255,255,.87)",
    "--jp-ui-font-color2": "rgba(255,255,255,.54)",
    "--jp-layout-color0": "#111",
    "--jp-layout-color1": "#212121",
    "--jp-layout-color2": "#424242",
    "--jp-border-color2": "#424242",
}
THEMES: dict[str, dict[str, str]] = {"light": LIGHT, "dark": DARK, "none": {}}

SPILLS = """() => [...document.querySelectorAll('svg g.step')].flatMap(g => {
  if (!g.getBoundingClientRect().width) return [];
  const box = [...g.querySelectorAll('rect.box')].at(-1).getBBox();
  return [...g.querySelectorAll('text.name, text.type, text.tag')]
    .filter(t => t.getBBox().x + t.getBBox().width > box.x + box.width - 2)
    .map(t => t.textContent);
})"""

FAINT = """() => {
  const rgb = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const over = (a, b) => {
    const alpha = a.length > 3 ? a[3] : 1;
    return [0, 1, 2].map(i => a[i] * alpha + b[i] * (1 - alpha));
  };
  const light = c => c.slice(0, 3).map(v => v / 255)
    .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = element => {
    const below = element.parentElement ? ground(element.parentElement) : [255, 255, 255];
    const own = rgb(getComputedStyle(element).backgroundColor);
    return own.length ? over(own, below) : below;
  };
  const faint = [];
  for (const element of document.querySelectorAll('.mlkit *')) {
    const words = [...element.childNodes].filter(n => n.nodeType === 3 && n.textContent.trim());
    if (!words.length || !element.getBoundingClientRect().width) continue;
    if (['STYLE', 'title'].includes(element.tagName) || element.closest('.mlkit-twin')) continue;
    if (element.getAttribute('aria-hidden')) continue;
    let below = ground(element);
    const box = element.closest('g.step')?.querySelector('rect.box');
    if (box) below = over(rgb(getComputedStyle(box).fill), below);
    const style = getComputedStyle(element);
    const ink = over(rgb(element.closest('svg') ? style.fill : style.color), below);
    const [a, b] = [light(ink), light(below)].sort((x, y) => y - x);
    const contrast = (a + .05) / (b + .05);
    if (contrast < 4.5) faint.push(`${element.textContent.slice(0, 20)}: ${contrast.toFixed(2)}`);
  }
  return faint;
}"""


@pytest.fixture(scope="module")
def browser(browser_path: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=browser_path,
            args=["--no-sandbox", "--disable-background-networking"],
        )
        yield started
        started.close()


@pytest.fixture
def show(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page with a view in it as a notebook would show it."""
    pages: list[Any] = []

    def opened(html: str, width: int = 720, theme: str = "light") -> Any:
        page = browser.new_page(viewport={"width": width, "height": 600})
        pages.append(page)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        names = "; ".join(f"{name}: {value}" for name, value in THEMES[theme].items())
        ground = "#111" if theme == "dark" else "#fff"
        page.set_content(
            f'<!doctype html><meta charset="utf-8"><body style="margin: 0; background: {ground}; '
            f'{names}"><div style="display: flex"><div style="flex-grow: 1; overflow: auto; '
            f'width: 100%">{html}</div></div>'
        )
        assert [url for url in asked if not url.startswith("data:")] == []
        return page

    yield opened
    for page in pages:
        page.close()


def scaled() -> Scaling:
    """Decisions with much to say."""
    made = Scaling()
    why = "7.4 ongoing per replica, target 2, over 2 s; bounded by max_replicas 4"
    decisions = [Decision(1e9 + i, "download", "scaled", i, i + 1, why) for i in range(5)]
    decisions.append(Decision(1e9 + 9, "download", "held", 3, 3, why))
    counts = [{"at": 1e9 + i, "stage": "download", "wanted": i, "ready": 1} for i in range(9)]
    made.add({"decisions": [d.to_dict() for d in decisions], "counts": counts})
    return made


def with_pools(delta: dict[str, Any]) -> dict[str, Any]:
    """Pools of two sizes, with models in every state."""
    models = [[f"catalogue-of-shop-{i}:v12", 9_500_000, "resident"] for i in range(60)]
    models[2][2], models[5][2], models[0][2] = "pinned", "pinned", "loading"
    counts = {"hits": 12_345, "loads": 678, "evictions": 618, "failed": 0, "resident": 59}
    return delta | {
        "pools": [
            {**counts, "bytes": 570_000_000, "budget_bytes": 640_000_000, "models": models},
            {**counts, "bytes": 57_000_000, "budget_bytes": 160_000_000, "models": models[:6]},
        ]
    }


def live_view(tagging: Pipeline[..., Any]) -> str:
    """A dashboard's picture of an app under load."""
    clock = [1e9]
    recorder = Recorder("tag", now=lambda: clock[0])
    rolling = Rolling()
    for _ in range(40):
        clock[0] += 0.5
        spans = tuple(Span(n.name, 0.0, 0.3, 0.5, 0) for n in tagging.graph)
        for status in (200, 500, 503):
            recorder.request(Trace("a", clock[0], 0.6, status, 0, 0.6, spans, 1), 1, 1)
        recorder.steps(spans, "decode")
        rolling.add([with_pools(recorder.take())])
    return live_of("tag", plan(tagging), rolling, scaled(), window_s=60, now=clock[0]).html


@pytest.fixture
def views(tagging: Pipeline[..., Any], troubled: Pipeline[..., Any]) -> dict[str, str]:
    """One of each view, with much to say."""
    nodes = [
        NodeRun(n.name, "done", n.name * 30, 0, 0.1 * i, 0.1 * i + 0.1)
        for i, n in enumerate(tagging.graph)
    ]
    nodes[1] = NodeRun("decode", "done", np.zeros((60, 80, 3), np.uint8), 0, 0.1, 0.2)
    nodes[7] = NodeRun("words", "failed", None, 0, 0.7, 0.8, error=ValueError("no\n" + "word" * 40))
    nodes[8] = NodeRun("combine", "not run")
    url = "https://shop.example/" + "long/" * 30
    return {
        "graph": graph.to_html(tagging.graph),
        "problems": graph.to_html(troubled.graph, troubled.problems),
        "run": run.to_html(
            Run(tagging.graph, {"image": url}, tuple(nodes), 1.0, None, nodes[7].error)
        ),
        "card": card.to_html(
            card.Card(
                name="tag",
                running=True,
                url=url,
                routes=("POST /tag", "GET /docs"),
                steps=tuple(n.name for n in tagging.graph),
                curl=f"curl {url}",
                doc="Tag one product.",
                since=datetime(2026, 1, 2),
                call='app("shoe.jpg")',
                trial="canary 10%, shadow 20% of 9f8a1c2b3d4e5f60",
                outdated="decode, look",
            )
        ),
        "live": live_view(tagging),
        "scaling": scaled()._repr_html_(),
        "pools": Pools.of("tag", [with_pools(Recorder("look").take())])._repr_html_(),
        "peek": Peek(
            "localise",
            (
                {
                    **sample({"picture": np.zeros((60, 80, 3), np.uint8)}, "word " * 60),
                    "id": "04f13352-d098",
                    "at": 0.0,
                },
            ),
        )._repr_html_(),
    }


@pytest.mark.parametrize("width", [1000, 720, 420])
def test_nothing_is_wider_than_the_page(
    views: dict[str, str], show: Callable[..., Any], width: int
) -> None:
    page = show("".join(views.values()), width)
    wider = page.evaluate(
        """() => [...document.querySelectorAll('div, table, section, pre, li, figure')]
        .filter(e => !e.closest('.mlkit-twin') && e.scrollWidth > e.clientWidth + 1
            && e.clientWidth && getComputedStyle(e).display !== 'inline')
        .map(e => `${e.className || e.tagName}: ${e.scrollWidth} in ${e.clientWidth}`)"""
    )
    assert wider == []


@pytest.mark.parametrize("theme", THEMES)
def test_all_words_have_contrast(
    views: dict[str, str], show: Callable[..., Any], theme: str
) -> None:
    assert show("".join(views.values()), 1000, theme).evaluate(FAINT) == []


@pytest.mark.parametrize("width", [1000, 420])
def test_names_and_types_fit_into_their_boxes(
    views: dict[str, str], show: Callable[..., Any], width: int
) -> None:
    page = show(views["graph"], width)
    assert page.locator("svg g.step").count() == 18
    assert page.evaluate(SPILLS) == []


@pytest.mark.parametrize(("width", "seen"), [(1000, "wide"), (720, "wide"), (420, "tall")])
def test_the_graph_turns_where_it_is_narrow(
    views: dict[str, str], show: Callable[..., Any], width: int, seen: str
) -> None:
    page = show(views["graph"], width)
    assert {s for s in ("wide", "tall") if page.locator(f".{s}").is_visible()} == {seen}


def test_two_graphs_on_one_page_turn_each_for_itself(
    views: dict[str, str], chain: Any, show: Callable[..., Any]
) -> None:
    short = graph.to_html(chain("a").graph)
    page = show(views["graph"] + short + views["graph"], 420)
    visible = [page.locator(".tall").nth(i).is_visible() for i in range(3)]
    assert visible == [True, False, True]


def test_words_in_a_small_graph_can_still_be_read(
    views: dict[str, str], show: Callable[..., Any]
) -> None:
    for width in (720, 420):
        page = show(views["graph"], width)
        heights = page.evaluate(
            """() => [...document.querySelectorAll('svg text.name')].map(t => {
                const matrix = t.getScreenCTM();
                return matrix && t.getBoundingClientRect().width ? 13 * matrix.a : 13;
            })"""
        )
        assert min(heights) >= 10


def test_the_text_twin_is_for_those_who_do_not_see_the_picture(
    views: dict[str, str], show: Callable[..., Any]
) -> None:
    page = show(views["graph"])
    box = page.locator(".mlkit-twin").bounding_box()
    assert box["width"] <= 1
    assert "localise(look.activation, decode)" in page.locator(".mlkit-twin").inner_text()


def test_where_styles_are_stripped_the_text_is_shown_instead(
    views: dict[str, str], show: Callable[..., Any]
) -> None:
    import re

    page = show(re.sub(r"<style>.*?</style>", "", views["graph"], flags=re.S))
    assert page.locator(".mlkit-twin").is_visible()
    assert not page.locator(".mlkit-picture").first.is_visible()


def test_a_failed_run_reads_in_a_column_too(
    views: dict[str, str], show: Callable[..., Any]
) -> None:
    page = show(views["run"], 420)
    value = page.locator("tr.failed .error").bounding_box()
    name = page.locator("tr.failed .s").bounding_box()
    assert value["y"] >= name["y"] + name["height"] - 2
    assert value["x"] + value["width"] <= 420
