from __future__ import annotations

import csv
from pathlib import Path

import PIL.Image
import pytest

from mlkit.media.image import Image
from mlkit.tagging.colour import colours
from mlkit.tagging.colournames import NAMES
from mlkit.tagging.types import Colour, ProductClass, ProductTags
from tools.check_catalogue import NEEDED, Checked

DATA = Path(__file__).parents[2] / "data"
CLASSES = {"dress", "hat", "longsleeve", "outwear", "pants"} | {
    *("shirt", "shoes", "shorts", "skirt", "t-shirt", "none")
}


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with (DATA / "catalogue.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_table_lists_every_picture_once(rows: list[dict[str, str]]) -> None:
    listed = [row["image"] for row in rows]
    assert sorted(listed) == sorted(f"catalogue/{p.name}" for p in (DATA / "catalogue").iterdir())
    assert len(set(listed)) == len(listed) > 40


def test_the_answers_are_ones_that_can_be_given(rows: list[dict[str, str]]) -> None:
    for row in rows:
        assert row["title"]
        assert set(row["colour"].split("|")) <= set(NAMES)
        assert set(filter(None, row["product_class"].split("|"))) <= CLASSES


def test_the_pictures_are_small(rows: list[dict[str, str]]) -> None:
    paths = [DATA / row["image"] for row in rows]
    assert sum(path.stat().st_size for path in paths) < 2_100_000
    for path in paths:
        with PIL.Image.open(path) as picture:
            assert (picture.format, picture.mode) == ("JPEG", "RGB")
            assert max(picture.size) <= 640


def test_the_catalogue_says_where_it_comes_from_and_under_which_licence() -> None:
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    assert "Saleor" in readme
    assert "https://creativecommons.org/licenses/by/4.0/" in readme
    assert "Creative Commons Attribution 4.0" in (DATA / "LICENSE").read_text(encoding="utf-8")


def test_a_person_agrees_with_the_colours(rows: list[dict[str, str]]) -> None:
    right = 0
    for row in rows:
        found = colours(Image.open(DATA / row["image"]), None)
        right += found[0].name in row["colour"].split("|")
    assert right >= NEEDED * len(rows)


def answer(product: str | None, colour: str) -> ProductTags:
    return ProductTags(
        product_class=ProductClass(name=product, score=0.9) if product else None,
        labels=[],
        box=None,
        colours=[Colour(name=colour, hex="#000000", share=1)],
        words=[],
        tags=[],
    )


def test_any_of_several_answers_is_right_and_none_is_an_answer() -> None:
    none = frozenset({"none"})
    hoodie = Checked(
        "a.jpg",
        frozenset({"longsleeve", "outwear"}),
        frozenset({"black"}),
        answer("outwear", "gray"),
    )
    assert (hoodie.class_is_right, hoodie.colour_is_right) == (True, False)
    assert Checked("b.jpg", none, none, answer(None, "red")).class_is_right
    assert not Checked("c.jpg", none, none, answer("dress", "red")).class_is_right
