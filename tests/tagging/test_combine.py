from __future__ import annotations

from mlkit.tagging.combine import MAX_TAGS, combine
from mlkit.tagging.types import Box, Colour, Label, ProductClass


def shirt(score: float = 0.97) -> ProductClass:
    return ProductClass(name="t-shirt", score=score)


def colour(name: str, share: float = 0.9) -> Colour:
    return Colour(name=name, hex="#123456", share=share)


def test_class_colour_and_title_are_merged_in_that_order() -> None:
    found = combine(shirt(), [], None, [colour("navy")], ["navy", "cotton", "t-shirt"])
    assert found.tags == ["t-shirt", "navy", "cotton"]


def test_synonyms_and_plurals_are_stored_once() -> None:
    labels = [Label(name="jersey, T-shirt, tee shirt", score=0.9)]
    found = combine(
        shirt(), labels, None, [colour("gray")], ["tees", "grey", "tshirts", "trousers"]
    )
    assert found.tags == ["t-shirt", "gray", "pants"]


def test_a_shirt_is_not_a_t_shirt_and_a_dress_is_no_plural() -> None:
    dress = ProductClass(name="dress", score=0.9)
    assert combine(dress, [], None, [], ["shirt", "t-shirt", "dresses"]).tags[:3] == [
        "dress",
        "shirt",
        "t-shirt",
    ]


def test_without_a_class_the_best_label_leads() -> None:
    labels = [Label(name="beer bottle", score=0.8), Label(name="wine bottle", score=0.1)]
    found = combine(None, labels, None, [colour("green")], ["seaman", "lager"])
    assert found.tags == ["beer bottle", "green", "seaman", "lager"]


def test_a_strong_label_comes_last_beside_a_class() -> None:
    sweatshirt = [Label(name="sweatshirt", score=0.7)]
    outer = ProductClass(name="outwear", score=0.6)
    found = combine(outer, sweatshirt, None, [colour("black")], ["black", "hoodie"])
    assert found.tags == ["outwear", "black", "hoodie", "sweatshirt"]


def test_a_label_that_contradicts_the_class_gives_no_tag() -> None:
    labels = [Label(name="sleeping bag", score=0.5), Label(name="T-shirt", score=0.4)]
    assert combine(shirt(), labels, None, [], []).tags == ["t-shirt"]
    assert combine(None, labels, None, [], []).tags == ["sleeping bag", "t-shirt"]


def test_beside_a_class_of_somebody_elses_every_strong_label_counts() -> None:
    chair = ProductClass(name="chair", score=0.9)
    labels = [Label(name="rocking chair", score=0.5)]
    assert combine(chair, labels, None, [], []).tags == ["chair", "rocking chair"]


def test_weak_labels_give_no_tag_but_are_answered() -> None:
    weak = [Label(name="envelope", score=0.29)]
    found = combine(None, weak, None, [colour("red")], [])
    assert found.tags == ["red"]
    assert found.labels == weak


def test_a_second_colour_counts_when_it_is_large() -> None:
    large = combine(None, [], None, [colour("gold", 0.6), colour("red", 0.2)], [])
    small = combine(None, [], None, [colour("gold", 0.8), colour("red", 0.19)], [])
    assert (large.tags, small.tags) == (["gold", "red"], ["gold"])


def test_everything_is_answered_as_it_was_found() -> None:
    box = Box(x0=1, y0=2, x1=3, y1=4)
    found = combine(shirt(), [], box, [colour("navy")], ["navy"])
    assert (found.product_class, found.box, found.words) == (shirt(), box, ["navy"])


def test_there_is_an_end_to_tags() -> None:
    found = combine(None, [], None, [], [f"word{i}" for i in range(40)])
    assert len(found.tags) == MAX_TAGS
