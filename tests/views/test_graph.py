"""A graph in words and as a picture."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import pytest

from mlkit import Pipeline
from mlkit.define.graph import Problem
from mlkit.views.graph import to_html, to_svg, to_text
from mlkit.views.picture import picture

SVG = "{http://www.w3.org/2000/svg}"


def svg_of(pipeline: Pipeline[..., Any], *, down: bool = False) -> ET.Element:
    return ET.fromstring(to_svg(pipeline.graph, pipeline.problems, down=down))


def texts(element: ET.Element) -> list[str]:
    return [text.text or "" for text in element.iter(f"{SVG}text")]


def test_the_text_says_it_all(tagging: Pipeline[..., Any]) -> None:
    assert to_text(tagging.graph).splitlines() == [
        "tag(image: ImageSource, title: str = '') -> Tags",
        "  download(image) -> bytes   [async]",
        "  decode(download) -> Image",
        "  look(decode) -> Seen   [batched, at most 16; net: load_net]",
        "  localise(look.activation, decode) -> str | None",
        "  labels(look.logits) -> list[Label]",
        "  kind(look.features) -> Label | None",
        "  colours(decode, localise) -> list[str]",
        "  words(title) -> list[str]",
        "  combine(labels, kind, localise, colours, words) -> Tags",
        "  return combine",
    ]


def test_it_is_the_same_text_each_time(tagging: Pipeline[..., Any]) -> None:
    assert str(tagging) == str(tagging.graph) == to_text(tagging.graph)


@pytest.mark.parametrize("down", [False, True])
def test_every_step_input_and_the_output_is_drawn(tagging: Pipeline[..., Any], down: bool) -> None:
    drawn = texts(svg_of(tagging, down=down))
    names = [node.name for node in tagging.graph]
    assert {*names, "image", "title", "returns", "Tags", "list[Label]"} <= set(drawn)
    assert {"async", "≤16", "net"} <= set(drawn)


def test_a_line_for_every_link_between_two(tagging: Pipeline[..., Any]) -> None:
    drawn = {(line.source, line.target) for line in picture(tagging.graph).lines}
    inputs = {("image", "download"), ("title", "words"), ("combine", "")}
    assert drawn == {(up, node.name) for node in tagging.graph for up in node.upstream} | inputs


def test_it_has_a_title_and_scales(tagging: Pipeline[..., Any]) -> None:
    svg = svg_of(tagging)
    assert svg.find(f"{SVG}title") is not None
    assert svg.get("aria-label") == "Graph of tag: 9 steps, from image, title to Tags"
    assert svg.get("role") == "img"
    assert svg.get("viewBox", "").startswith("0 0 ")
    assert "width: 100%" in svg.get("style", "")


def test_it_fetches_and_runs_nothing(tagging: Pipeline[..., Any]) -> None:
    html = to_html(tagging.graph, tagging.problems)
    assert not re.search(r"<script|<link|@import|@font-face|url\(|\bsrc=|\bhref=|\son\w+=", html)


def test_colours_are_the_hosts(tagging: Pipeline[..., Any]) -> None:
    svg = to_svg(tagging.graph)
    assert "var(--jp-ui-font-color1, var(--vscode-editor-foreground, #1f2328))" in svg
    assert "currentColor" in svg


def test_two_pictures_on_one_page_do_not_share_ids(tagging: Pipeline[..., Any]) -> None:
    assert not re.search(r"\sid=", to_html(tagging.graph))


def test_the_caption_is_the_first_line_of_the_docstring(tagging: Pipeline[..., Any]) -> None:
    html = to_html(tagging.graph)
    assert "Tag one product." in html
    assert "Not shown." not in html


def test_the_text_twin_is_there_and_shown_where_styles_are_stripped(
    tagging: Pipeline[..., Any],
) -> None:
    html = to_html(tagging.graph)
    assert "localise(look.activation, decode) -&gt; str | None" in html
    assert html.count('<div class="mlkit-picture') == html.count('hidden="hidden"') == 2
    assert ".mlkit-picture { display: block !important; }" in html


def test_a_problem_is_marked_where_it_is_and_listed(troubled: Pipeline[..., Any]) -> None:
    svg = svg_of(troubled)
    marked = [g for g in svg.iter(f"{SVG}g") if "trouble" in g.get("class", "")]
    edges = [g for g in marked if g.find(f"{SVG}path[@class='edge']") is not None]
    boxes = [g for g in marked if g not in edges]
    assert len(edges) == 1
    assert [texts(box)[0] for box in boxes] == ["decode"]
    said = " ".join(texts(boxes[0]))
    assert "data: expected bytes, got" in said
    assert "result does not depend on it" in said


def test_every_problem_is_listed_with_all_it_says(troubled: Pipeline[..., Any]) -> None:
    html = to_html(troubled.graph, troubled.problems)
    assert html.count("<li>") == len(troubled.problems) == 2
    assert "2 problems keep" in html
    assert "→ use its result, or remove the call" in html


def test_one_problem_is_one_problem(tagging: Pipeline[..., Any]) -> None:
    html = to_html(tagging.graph, [Problem("pipeline 'tag'", "it is late", got="midnight")])
    assert "1 problem keeps" in html
    assert "it is late" in html
    assert "midnight" in html
    assert "expected" not in html.split("it is late")[1]


def test_without_problems_there_is_no_list(tagging: Pipeline[..., Any]) -> None:
    html = to_html(tagging.graph, ())
    assert "being deployed" not in html


HOSTILE = '<script>alert("x")</script>&"\''


def test_nothing_hostile_gets_through(chain: Callable[..., Pipeline[..., Any]]) -> None:
    pipeline = chain(HOSTILE, doc=HOSTILE)
    problem = Problem(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, node=HOSTILE)
    for text in (to_html(pipeline.graph, [problem]), to_svg(pipeline.graph, [problem])):
        assert "<script>alert" not in text
        assert "&lt;script&gt;" in text
    ET.fromstring(to_svg(pipeline.graph, [problem]))


def test_long_names_are_shortened_and_whole_in_the_title(
    chain: Callable[..., Pipeline[..., Any]],
) -> None:
    name = "a_step_with_a_name_that_is_longer_than_any_name_should_be"
    svg = svg_of(chain(name))
    (drawn,) = [text for text in texts(svg) if text.startswith("a_step")]
    assert drawn.endswith("…")
    assert len(drawn) == 28
    assert any(name in (t.text or "") for t in svg.iter(f"{SVG}title"))


def test_edges_say_their_type_where_there_is_room(
    tagging: Pipeline[..., Any], chain: Callable[..., Pipeline[..., Any]]
) -> None:
    short = picture(chain("a", "b").graph)
    assert [line.label for line in short.lines] == ["str", "str", "str"]
    long = picture(chain(*(f"step_{i}_of_them" for i in range(12))).graph)
    assert [line.label for line in long.lines] == [""] * 13
    assert any(line.label == "Tags" for line in picture(tagging.graph, down=True).lines)


@pytest.mark.parametrize("down", [False, True])
def test_labels_stand_clear_of_boxes_and_inside_the_picture(
    tagging: Pipeline[..., Any], down: bool
) -> None:
    drawn = picture(tagging.graph, down=down)
    for line in drawn.lines:
        if line.label:
            assert 0 < line.right <= drawn.width
            inside = [
                p.shape.name
                for p in drawn.shapes
                if p.x < line.label_x < p.x + p.width and p.y < line.label_y < p.y + p.height
            ]
            assert inside == []


def test_an_argument_that_is_returned_goes_straight_to_the_output() -> None:
    from mlkit import pipeline

    @pipeline
    def same(x: int) -> int:
        return x

    (line,) = picture(same.graph).lines
    assert (line.source, line.target) == ("x", "")
    assert to_text(same.graph).splitlines() == ["same(x: int) -> int", "  return x"]
    assert "0 steps" in picture(same.graph).title


@pytest.mark.parametrize("count", [1, 3, 20])
def test_graphs_of_any_size_are_drawn(chain: Callable[..., Pipeline[..., Any]], count: int) -> None:
    pipeline = chain(*(f"s{i}" for i in range(count)))
    assert to_html(pipeline.graph).count('<g class="step"') == 2 * count


@pytest.fixture(scope="module")
def routed() -> Pipeline[..., Any]:
    from mlkit import batched_step, branch, each, pipeline, step

    @step
    def tier(customer: str) -> str:
        return customer

    @batched_step(max_batch_size=8)
    def shout(texts: list[str]) -> list[str]:
        return texts

    @step
    def quick(words: list[str]) -> str:
        return words[0]

    @step
    def thorough(words: list[str]) -> str:
        return words[0]

    @pipeline
    def describe(customer: str, texts: list[str]) -> str:
        return branch(tier(customer), {"basic": quick, 3: quick}, default=thorough)(
            each(shout, texts)
        )

    return describe


@pytest.mark.parametrize("down", [False, True])
def test_a_branch_is_a_mark_with_its_keys_at_the_arms(routed, down: bool) -> None:
    drawn = {(line.source, line.target): line for line in picture(routed.graph, down=down).lines}
    assert drawn["tier", "quick"].label == "basic"
    assert drawn["tier", "quick_2"].label == "3"
    assert drawn["tier", "thorough"].label == "else"
    assert all(drawn["tier", arm].mark for arm in ("quick", "quick_2", "thorough"))
    assert drawn["shout", "quick"].mark == ""


def test_a_step_over_a_list_says_so(routed) -> None:
    assert "× n · ≤8" in texts(svg_of(routed))


@pytest.mark.parametrize("down", [False, True])
def test_stages_are_grounds_around_their_steps(tagging, down: bool) -> None:
    stages = {"front ×2": ("download", "decode"), "models": ("look", "labels", "words")}
    drawn = picture(tagging.graph, down=down, together=stages)
    front, models = drawn.grounds
    assert [text for text, _, _ in front.labels] == ["front ×2"]
    assert len(front.paths) == 1
    assert [text for text, _, _ in models.labels] == ["models"] * 2  # words hangs on nothing there
    boxes = {placed.shape.node: placed for placed in drawn.shapes}
    for ground, names in zip(drawn.grounds, stages.values(), strict=True):
        for (x, y, wide, high), name in zip(
            sorted(ground.boxes), sorted(names, key=lambda n: (boxes[n].x, boxes[n].y)), strict=True
        ):
            box = boxes[name]
            assert x < box.x
            assert y < box.y
            assert x + wide > box.x + box.width
            assert y + high > box.y + box.height
            assert 0 <= x < x + wide <= drawn.width
            assert -drawn.above <= y < y + high <= drawn.height


def test_nothing_of_that_is_drawn_where_it_was_not_asked_for(tagging) -> None:
    assert picture(tagging.graph).grounds == ()
    assert 'class="ground"' not in to_svg(tagging.graph)
