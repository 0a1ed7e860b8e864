"""Where boxes and lines go."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlkit.views.layout import Layout, layered


def sized(*keys: str) -> dict[Any, tuple[float, float]]:
    return dict.fromkeys(keys, (80.0, 40.0))


def crossings(layout: Layout, down: bool = False) -> int:
    """How many pairs of lines between the same two layers cross."""
    flat = 0 if down else 1
    count = 0
    routes = [[(p[1 - flat], p[flat]) for p in route] for route in layout.routes.values()]
    pieces = [piece for route in routes for piece in pairwise(route)]
    for i, (a, b) in enumerate(pieces):
        for c, d in pieces[i + 1 :]:
            if a[0] == c[0] and b[0] == d[0]:
                count += (a[1] - c[1]) * (b[1] - d[1]) < -1e-6
    return count


def test_a_chain_is_a_straight_line() -> None:
    layout = layered(sized("a", "b", "c"), [("a", "b"), ("b", "c")], gaps=30)
    assert [layout.boxes[k].x for k in "abc"] == [40, 150, 260]
    assert len({layout.boxes[k].y for k in "abc"}) == 1
    assert (layout.width, layout.height) == (300, 40)
    assert layout.routes["a", "b"] == ((80, 20), (110, 20))


def test_downwards_it_is_the_same_turned() -> None:
    layout = layered(sized("a", "b"), [("a", "b")], gaps=30, down=True)
    assert [(b.x, b.y) for b in layout.boxes.values()] == [(40, 20), (40, 90)]
    assert (layout.width, layout.height) == (80, 110)


def test_each_gap_may_have_its_own_width() -> None:
    layout = layered(sized("a", "b", "c"), [("a", "b"), ("b", "c")], gaps=[10, 50])
    assert layout.gaps == ((80, 10), (170, 50))


def test_boxes_of_a_layer_are_equally_long() -> None:
    sizes = {"a": (50.0, 40.0), "b": (90.0, 40.0), "c": (50.0, 40.0)}
    layout = layered(sizes, [("a", "b"), ("a", "c")])
    assert layout.boxes["b"].width == layout.boxes["c"].width == 90


def test_edges_that_could_cross_do_not() -> None:
    edges = [("a", "y"), ("b", "x"), ("c", "z"), ("x", "end"), ("y", "end"), ("z", "end")]
    layout = layered(sized("a", "b", "c", "x", "y", "z", "end"), edges)
    assert crossings(layout) == 0


def test_a_long_edge_goes_around_what_is_between() -> None:
    layout = layered(sized("a", "b", "c"), [("a", "b"), ("b", "c"), ("a", "c")])
    bend = layout.routes["a", "c"][1:-1]
    box = layout.boxes["b"]
    assert len(bend) == 2
    assert bend[0][1] == bend[1][1]
    assert abs(bend[0][1] - box.y) >= box.height / 2 + 16 - 1e-6


def test_a_long_edge_is_straight_where_there_is_room() -> None:
    keys = ["in", "other", "a", "b", "c", "words", "end"]
    edges = [
        ("in", "a"),
        ("a", "b"),
        ("b", "c"),
        ("c", "end"),
        ("other", "words"),
        ("words", "end"),
    ]
    layout = layered(sized(*keys), edges, first=["in", "other"])
    bends = layout.routes["words", "end"][:-1]
    assert len({y for _, y in bends}) == 1


def test_inputs_come_first_and_the_output_last() -> None:
    layout = layered(
        sized("i", "j", "a", "b", "lost", "out"),
        [("i", "a"), ("a", "b"), ("j", "b"), ("a", "out"), ("a", "lost")],
        first=["i", "j"],
        last=["out"],
    )
    x = {key: box.x for key, box in layout.boxes.items()}
    assert x["i"] == x["j"] == min(x.values())
    assert x["out"] == max(x.values())
    assert x["out"] > x["lost"]


def test_what_needs_no_input_starts_beside_the_first_steps() -> None:
    layout = layered(sized("i", "a", "free"), [("i", "a")], first=["i"])
    assert layout.boxes["free"].x == layout.boxes["a"].x


def test_room_below_a_box_stays_free() -> None:
    layout = layered(sized("a", "b", "c"), [("a", "b"), ("a", "c")], below={"b": 30, "c": 30})
    upper, lower = sorted((layout.boxes["b"], layout.boxes["c"]), key=lambda box: box.y)
    assert lower.y - upper.y >= 40 + 16 + 30 - 1e-6
    assert layout.height >= 2 * (40 + 30) + 16 - 1e-6


def test_nothing_and_a_single_box_are_laid_out_too() -> None:
    assert layered({}, []).boxes == {}
    alone = layered(sized("a"), [])
    assert (alone.width, alone.height) == (80, 40)


@st.composite
def graphs(draw: st.DrawFn) -> tuple[dict[Any, tuple[float, float]], list[tuple[Any, Any]]]:
    count = draw(st.integers(1, 12))
    sizes = {i: draw(st.tuples(st.floats(10, 200), st.floats(10, 80))) for i in range(count)}
    pairs = [(a, b) for b in range(count) for a in range(b)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    return sizes, edges


@settings(max_examples=60, deadline=None)
@given(graphs(), st.booleans())
def test_boxes_never_touch_and_all_is_inside(graph: Any, down: bool) -> None:
    sizes, edges = graph
    layout = layered(sizes, edges, down=down)
    boxes = list(layout.boxes.values())
    assert set(layout.boxes) == set(sizes)
    assert set(layout.routes) == set(edges)
    for i, a in enumerate(boxes):
        assert a.x - a.width / 2 >= -1e-6
        assert a.x + a.width / 2 <= layout.width + 1e-6
        assert a.y - a.height / 2 >= -1e-6
        assert a.y + a.height / 2 <= layout.height + 1e-6
        for b in boxes[i + 1 :]:
            apart_x = abs(a.x - b.x) - (a.width + b.width) / 2
            apart_y = abs(a.y - b.y) - (a.height + b.height) / 2
            assert max(apart_x, apart_y) >= 16 - 1e-6


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_every_edge_goes_forward_from_box_to_box(graph: Any) -> None:
    sizes, edges = graph
    layout = layered(sizes, edges)
    for (a, b), route in layout.routes.items():
        start, end = layout.boxes[a], layout.boxes[b]
        assert route[0] == pytest.approx((start.x + start.width / 2, start.y))
        assert route[-1] == pytest.approx((end.x - end.width / 2, end.y))
        assert all(p[0] <= q[0] + 1e-6 for p, q in pairwise(route))


@settings(max_examples=30, deadline=None)
@given(graphs())
def test_the_same_graph_is_always_drawn_the_same(graph: Any) -> None:
    assert layered(*graph) == layered(*graph)
