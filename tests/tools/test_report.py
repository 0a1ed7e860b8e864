from __future__ import annotations

import re
from pathlib import Path

import PIL.Image
import pytest

from tools.demo import report
from tools.demo.pictures import Picture, Tagged
from tools.demo.summary import summarise


@pytest.fixture
def page(measured, monkeypatch):
    """``page(**fields)``: the report as HTML; plots are left to their own tests."""
    monkeypatch.setattr(report, "_plot", lambda result: "data:image/png;base64,")

    def make(**fields) -> str:
        found = measured(**fields)
        return report.html(found, summarise(found), "<b>graph</b>", "2030-01-01 12:00")

    return make


def test_hostile_names_and_reasons_are_only_text(page) -> None:
    found = page()
    assert "<script" not in found
    assert "<img src=x" not in found
    assert "\x1b" not in found
    assert "&lt;script&gt;alert(2)" in found
    assert "a &lt;CPU&gt;" in found


def test_it_asks_for_nothing_from_outside(page) -> None:
    found = page()
    sources = re.findall(r'\b(?:src|href)="([^"]*)"|url\(([^)]*)\)', found)
    assert sources
    assert all("".join(source).startswith("data:") for source in sources)
    assert "@import" not in found


def test_it_shows_figures_graph_pictures_and_loads(page) -> None:
    found = page()
    for words in ("150/s", "1.2 ms", "15 ×", "10 ×", "<b>graph</b>", "#ffd700", "plimsolls"):
        assert words in found
    assert found.count('class="plot"') == 4
    assert "Poisson arrivals at 60% of the saturated rate" in found
    assert "Void" not in found


def test_a_void_run_is_said_at_the_top(page, load) -> None:
    found = page(blog=load(10, cores=0.95))
    assert found.index("Void: the load generator") < found.index("pictures a second over HTTP")
    assert "▲ void" in found


def test_what_was_not_measured_is_said(page) -> None:
    found = page(blog=None, blog_problem="Ray <did not> start")
    assert "Ray &lt;did not&gt; start" in found
    assert "not measured" in found


def test_a_busy_machine_is_said(page) -> None:
    assert "The machine was busy" in page(facts={"cores": 2, "load_before": 4.0})


def test_a_missed_target_has_a_word_and_a_shape(page, load) -> None:
    assert "missed" not in page()
    assert "▲</span> missed" in page(blog=load(50))


def test_bars_share_one_scale_from_nothing(measured) -> None:
    bars = {bar.label: bar for bar in report.bars(summarise(measured()))}
    assert bars["mlkit, offline"].share == 1
    assert bars["Eager torch"].share == pytest.approx(0.1)
    assert bars["mlkit, served"].share == pytest.approx(0.75, rel=0.01)


def test_a_box_is_placed_in_the_upright_picture(tmp_path: Path, make_tags) -> None:
    path = tmp_path / "turned.jpg"
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # lies on its side: 48 wide and 64 high when upright
    PIL.Image.new("RGB", (64, 48)).save(path, exif=exif)
    tile = report.tile(Tagged(Picture("turned.jpg", path), make_tags()))
    assert tile.ratio == pytest.approx(48 / 64)
    assert tile.box == pytest.approx((100 / 3, 100 * 12 / 64, 200 / 3, 100 * 24 / 64))


def test_a_picture_that_is_gone_by_now_does_no_harm(tmp_path: Path, make_tags) -> None:
    tile = report.tile(Tagged(Picture("a.jpg", tmp_path / "a.jpg"), make_tags()))
    assert tile.image == ""
    assert tile.tags == ("shoes", "gold", "plimsolls")


def test_a_large_folder_shows_the_first_and_counts_the_rest(page, measured) -> None:
    found = page(tagged=list(measured().tagged[:1]) * (report.MOST_TILES + 7))
    assert "7 more are not shown" in found
    assert found.count("<figure>") == report.MOST_TILES
