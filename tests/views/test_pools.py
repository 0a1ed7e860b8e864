"""Pools of models as bars and text, of made-up reports."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mlkit.metrics.pools import Pools
from mlkit.views.pools import BAR_WIDTH, MAX_ROWS, pool_rows


def delta(replica: str, *pools: tuple[int, list[list[Any]]], stage: str = "shop") -> dict[str, Any]:
    counts = {"hits": 90, "loads": 9, "evictions": 1, "failed": 1}
    return {
        "stage": stage,
        "process": replica,
        "pools": [
            {
                **counts,
                "resident": len(models),
                "bytes": sum(size for _, size, _ in models),
                "budget_bytes": budget,
                "models": models,
            }
            for budget, models in pools
        ],
    }


TWO = [["look:v2", 3_000_000, "resident"], ["kind:v1", 1_000_000, "pinned"]]


def lengths(path: str) -> list[float]:
    """Lengths of the segments of a path."""
    ends = re.findall(r"M([\d.]+),1V15H([\d.]+)", path)
    return [round(float(end) - float(start), 1) for start, end in ends]


def test_models_are_segments_of_their_budget_and_all_bars_have_one_scale() -> None:
    pools = Pools.of("shop", [delta("a", (5_000_000, TWO)), delta("b", (10_000_000, TWO))])
    small, large = pool_rows(pools)
    assert (small.bar, large.bar) == (BAR_WIDTH / 2, BAR_WIDTH)
    assert [lengths(path) for _, path in small.paths] == [[100], [300]]
    assert dict(small.paths) == dict(large.paths)


def test_each_state_is_a_word_and_a_kind_of_segment() -> None:
    models = [*TWO, ["hat:v1", 500_000, "loading"]]
    (row,) = pool_rows(Pools.of("shop", [delta("a", (10_000_000, models))]))
    assert [kind for kind, _ in row.paths] == ["pinned", "resident", "loading"]
    assert row.models == "look:v2 3.0 MB · kind:v1 1.0 MB pinned · hat:v1 500 kB loading"


def test_of_many_models_the_last_used_have_names_and_the_rest_is_counted() -> None:
    models = [[f"m{i}", 1_000, "resident"] for i in range(100)]
    (row,) = pool_rows(Pools.of("shop", [delta("a", (100_000, models))]))
    assert row.models.endswith("· m4 1.0 kB · 95 more")
    ((_, path),) = row.paths
    assert sum(lengths(path)) == pytest.approx(BAR_WIDTH)


@pytest.mark.parametrize(
    ("pools", "names"),
    [
        (Pools.of("tag", [delta("a1", (9, []))]), ["shop"]),
        (Pools.of("tag", [delta("a1", (9, []), (9, []))]), ["shop · pool 1", "shop · pool 2"]),
        (Pools.of("tag", [delta("a1", (9, [])), delta("b2", (9, []))]), ["shop · a1", "shop · b2"]),
        (
            Pools.of("tag", [delta("a1", (9, []))])
            + Pools.of("shop", [delta("b2", (9, [])), delta("c3", (9, []), stage="look")]),
            ["tag · shop", "shop · look", "shop"],
        ),
    ],
)
def test_a_name_says_what_tells_pools_apart(pools: Pools, names: list[str]) -> None:
    assert sorted(row.name for row in pool_rows(pools)) == sorted(names)


def test_a_page_has_the_largest_pools_of_many() -> None:
    deltas = [delta(f"{i:02}", (1_000 + i, [])) for i in range(3 * MAX_ROWS)]
    rows = pool_rows(Pools.of("shop", deltas))
    assert rows[0].name == f"shop · {2 * MAX_ROWS}"
    assert len(rows) == MAX_ROWS


def test_a_budget_that_nothing_was_loaded_into_says_so() -> None:
    text = str(Pools.of("shop", [{**delta("a", (250_000, []))}]))
    assert "no model in memory" in text
    assert "0 B of 250 kB" in text


def test_the_text_has_all_that_the_picture_has() -> None:
    text = str(Pools.of("shop", [delta("a", (10_000_000, TWO))]))
    assert re.search(r"shop +4\.0 MB of 10 MB +90\.0% +9 +1\n  look:v2 3\.0 MB · kind", text)


def test_it_shows_itself_in_a_cell_without_scripts() -> None:
    html = Pools.of("shop", [delta("a", (10, [["<b>", 4, "resident"]]))])._repr_html_()
    assert "<b>" not in html
    assert "&lt;b&gt; 4 B" in html
    assert "<script" not in html


def test_without_a_pool_it_says_how_to_have_one() -> None:
    assert "resource(open_pool)" in str(Pools())
    assert "resource(open_pool)" in Pools()._repr_html_()
