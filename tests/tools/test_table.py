from __future__ import annotations

import csv
from pathlib import Path

from tools.demo import table
from tools.demo.summary import TARGETS, summarise


def test_pictures_are_a_line_each_and_failures_say_why(measured) -> None:
    head, first, second = table.tags_table(measured().tagged).splitlines()
    assert head.split() == ["picture", "class", "colour", "tags"]
    assert first.split(maxsplit=3) == ["shoe.jpg", "shoes", "gold", "shoes, gold, plimsolls"]
    assert "failed: <script>" in second
    assert "\x1b" not in second


def test_long_lists_are_cut_and_counted(measured) -> None:
    lines = table.tags_table(list(measured().tagged) * 50).splitlines()
    assert len(lines) == table.MOST_ROWS + 2
    assert lines[-1] == "... and 40 more"


def test_loads_are_aligned_and_void_ones_named(load) -> None:
    found = table.loads({"saturated": load(150, cores=0.95), "blog_graph": load(9)})
    head, first, second, note = found.splitlines()
    assert first.split()[4:] == ["150/s", "10", "ms", "10", "ms", "10", "ms", "0"]
    assert second.startswith("blog graph")
    assert len(head) == len(first) == len(second)
    assert note.startswith("VOID saturated: the client itself was busy")


def test_figures_say_which_targets_are_met(measured) -> None:
    found = table.figures(summarise(measured(blog=None, blog_problem="x")), TARGETS)
    assert "served / blog's graph                            -   at least 10: not measured" in found
    assert found.count(": met") == 3
    assert "MISSED" not in found


def test_the_csv_has_a_row_for_every_picture(measured, tmp_path: Path) -> None:
    table.tags_csv(measured().tagged, tmp_path / "tags.csv")
    with (tmp_path / "tags.csv").open(newline="", encoding="utf-8") as file:
        good, bad = csv.DictReader(file)
    assert (good["tags"], good["box"], good["error"]) == ("shoes|gold|plimsolls", "16 12 48 36", "")
    assert bad["error"] == "<script>alert(2)</script>"
    assert bad["tags"] == ""
