from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mlkit.demo import pictures, report
from mlkit.errors import InputError
from mlkit.images import encode_png
from mlkit.tagging import ProductTags

TAGS = ProductTags(product_class=None, labels=[], box=None, colours=[], words=[], tags=["<b>cup"])


class Load:
    """Stands for a load test's result: only its summary is read for figures."""

    def summary(self) -> dict[str, object]:
        latency = {f"p{p}_ms": 5.0 for p in (50, 95, 99)}
        return {**latency, "asked_rate": 6.0, "ok_rate": 6.0, "void": [], "requests": 40}


@pytest.fixture
def found() -> report.Findings:
    photo = pictures.Picture("<i>cup.png", "Cup", encode_png(np.zeros((8, 8, 3), np.uint8)))
    bad = pictures.Picture("bad.jpg", "", b"text")
    return report.Findings(
        pictures=[photo, bad],
        answers=[TAGS, InputError("not a picture")],
        offline_rps=100.0,
        offline_cpu_ms=18.0,
        eager_rps=12.5,
        served_rps=64.0,
        served_cpu_ms=19.5,
        client_cores=0.4,
        plain_rps=0.0,
        runs={"saturated": Load(), "60%": Load()},  # type: ignore[dict-item]
        cores=2,
    )


def test_figures_are_ratios_of_one_run(found: report.Findings) -> None:
    figures = report.summary(found)
    assert figures["offline_over_eager"] == 8.0
    assert figures["served_over_offline"] == pytest.approx(64 / 80)
    assert figures["overhead_cpu_ms"] == pytest.approx(1.5)
    assert figures["served_over_blog"] is None  # it did not come up
    json.dumps(figures, allow_nan=False)


def test_one_bad_picture_is_a_row_of_its_own(found: report.Findings) -> None:
    assert report.summary(found)["tags"] == {"<i>cup.png": ["<b>cup"], "bad.jpg": []}
    assert "! not a picture" in report.table(found)


def test_names_and_tags_are_escaped_in_the_report(
    found: report.Findings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "_plot", lambda result: "data:,")
    report.write(found, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "&lt;b&gt;cup" in page
    assert "<b>cup" not in page
    assert "not a picture" in (tmp_path / "tags.csv").read_text()


def test_the_catalogue_is_found_with_its_titles() -> None:
    found = pictures.catalogue(Path(__file__).parents[2] / "data")
    assert len(found) == 45
    assert all(p.title and p.data[:2] == b"\xff\xd8" for p in found)


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(InputError, match="no pictures found"):
        pictures.folder(tmp_path)
