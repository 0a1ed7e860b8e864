"""How the calls in a pipeline become a graph."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from mlkit.define import batched_step, resource, step
from mlkit.define.graph import Argument, Collection, Constant, Result, resolver, sources
from mlkit.errors import DefinitionError
from mlkit.pipelines import pipeline


@step
def double(x: int) -> int:
    return 2 * x


@step
def add(a: int, b: int = 1) -> int:
    return a + b


@step
def split(x: int) -> tuple[int, str]:
    return x, str(x)


@step
def total(xs: Any, scale: float = 1.0) -> int:
    return 0


@batched_step(max_batch_size=4)
def look(xs: list[int], *, model: int = resource(value=3)) -> list[str]:
    return [str(x) for x in xs]


def test_nodes_come_in_the_order_of_the_calls() -> None:
    @pipeline
    def tag(x: int) -> int:
        """Doubles.

        And adds.
        """
        return add(double(x), double(x))

    graph = tag.graph
    assert [node.name for node in graph] == ["double", "double_2", "add"]
    assert graph["add"].inputs == {"a": Result("double"), "b": Result("double_2")}
    assert graph["double"].inputs == {"x": Argument("x")}
    assert graph.output == Result("add")
    assert graph.doc == "Doubles.\n\nAnd adds."


def test_an_argument_left_at_its_default_is_missing() -> None:
    @pipeline
    def tag(x: int) -> int:
        return add(x)

    assert set(tag.graph["add"].inputs) == {"a"}


def test_a_literal_becomes_a_constant() -> None:
    @pipeline
    def tag(x: int) -> int:
        return add(x, b=7)

    source = tag.graph["add"].inputs["b"]
    assert isinstance(source, Constant)
    assert source.value == 7


def test_a_tuple_is_unpacked_into_parts_of_one_result() -> None:
    @pipeline
    def tag(x: int) -> int:
        number, text = split(x)
        return total({"n": number, "t": text})

    graph = tag.graph
    assert [s.path for s in sources(graph["total"].inputs["xs"], Result)] == [(0,), (1,)]
    assert len(graph) == 2


@pytest.mark.parametrize(
    ("build", "kind"),
    [
        (lambda a, b: [a, b], list),
        (lambda a, b: (a, b), tuple),
        (lambda a, b: {"a": a, "b": b}, dict),
    ],
)
def test_a_collection_of_results_is_put_together_when_it_runs(build: Any, kind: type) -> None:
    @pipeline
    def tag(x: int) -> int:
        return total(build(double(x), 5))

    source = tag.graph["total"].inputs["xs"]
    assert isinstance(source, Collection)
    assert source.kind is kind
    assert resolver(source)({}, {"double": 8}) == build(8, 5)


def test_a_collection_of_literals_is_a_constant() -> None:
    @pipeline
    def tag(x: int) -> int:
        return add(x, total([1, {"a": (2, 3)}]))

    assert tag.graph["total"].inputs["xs"].value == [1, {"a": (2, 3)}]  # type: ignore[union-attr]


def test_collections_nest() -> None:
    @pipeline
    def tag(x: int) -> int:
        return total([{"deep": (double(x), 1)}, 2])

    source = tag.graph["total"].inputs["xs"]
    assert resolver(source)({}, {"double": 8}) == [{"deep": (8, 1)}, 2]


def test_a_pipeline_inside_a_pipeline_becomes_part_of_it() -> None:
    @pipeline
    def inner(x: int) -> int:
        return double(double(x))

    @pipeline
    def outer(x: int) -> int:
        return add(inner(x), inner(1))

    graph = outer.graph
    assert [n.name for n in graph] == ["double", "double_2", "double_3", "double_4", "add"]
    assert graph["double_2"].inputs == {"x": Result("double")}


def test_an_inner_pipeline_keeps_its_default_arguments() -> None:
    @pipeline
    def inner(x: int, by: int = 5) -> int:
        return add(x, by)

    @pipeline
    def outer(x: int) -> int:
        return inner(x)

    assert outer.graph["add"].inputs["b"].value == 5  # type: ignore[union-attr]


def test_python_between_the_calls_runs_while_it_is_traced() -> None:
    @pipeline
    def tag(x: int) -> int:
        for _ in range(3):
            x = double(x)
        return x

    assert [n.name for n in tag.graph] == ["double", "double_2", "double_3"]


def test_it_is_traced_anew_each_time(cell: Any) -> None:
    names = cell("""
        from mlkit import pipeline, step
        @step
        def f(x: int) -> int: return 1
        @pipeline
        def tag(x: int) -> int: return f(x)
    """)
    before = names["tag"].graph["f"].step
    exec("@step\ndef f(x: int) -> int: return 2", names)
    assert names["tag"].graph["f"].step is not before
    assert names["tag"](1) == 2


def test_a_call_with_wrong_arguments_is_an_error_of_the_step() -> None:
    with pytest.raises(DefinitionError, match="step 'add': it has no parameter 'bb'") as caught:

        @pipeline
        def tag(x: int) -> int:
            return add(x, bb=1)  # type: ignore[call-arg]

    assert caught.value.expected == "one of a, b"
    assert caught.value.fix == "did you mean 'b'?"


def test_a_resource_is_not_passed_in_a_pipeline() -> None:
    with pytest.raises(DefinitionError, match=r"look\.fn"):

        @pipeline
        def tag(x: int) -> str:
            return look(x, model=4)  # type: ignore[call-arg]


def test_returning_nothing_is_an_error() -> None:
    with pytest.raises(DefinitionError, match="returns nothing"):

        @pipeline
        def tag(x: int) -> None:
            double(x)


def test_an_error_in_the_body_ends_the_trace() -> None:
    with pytest.raises(ZeroDivisionError):

        @pipeline
        def tag(x: int) -> int:
            raise ZeroDivisionError

    assert double(2) == 4  # a plain call again, not a node


def test_a_trace_is_seen_by_its_own_thread_only() -> None:
    seen: list[Any] = []

    @pipeline
    def tag(x: int) -> int:
        thread = threading.Thread(target=lambda: seen.append(double(21)))
        thread.start()
        thread.join()
        return double(x)

    seen.clear()  # of its definition
    assert len(tag.graph) == 1
    assert seen == [42]


def test_links_carry_what_is_known_of_their_types() -> None:
    @pipeline
    def tag(x: int) -> int:
        number, text = split(x)
        return total([number, text])

    links = [(str(k.source), k.target, k.parameter, k.type_name) for k in tag.graph.links]
    assert links == [
        ("x", "split", "x", "int"),
        ("split[0]", "total", "xs", "int"),
        ("split[1]", "total", "xs", "str"),
        ("total", None, None, "int"),
    ]


def test_every_part_has_a_text() -> None:
    @pipeline
    def tag(x: int, scale: float = 0.5) -> int:
        number, _ = split(x)
        return total({"n": [number], "t": (number,)}, scale=2.0)

    graph = tag.graph
    assert graph.signature == "tag(x: int, scale: float = 0.5) -> int"
    assert str(graph["total"]) == "total({'n': [split[0]], 't': (split[0],)}, scale=2.0) -> int"


def test_a_constant_whose_repr_fails_has_a_text_all_the_same() -> None:
    class Bad:
        def __repr__(self) -> str:
            raise RuntimeError

    assert str(Constant(Bad())) == "<Bad>"
    assert "0x" not in str(Constant(object()))
    assert len(str(Constant("x" * 100))) == 40


@pytest.mark.parametrize(
    ("given", "needed"),
    [
        ((), {"double", "split", "add"}),
        (("double",), {"split", "add"}),
        (("split",), {"double", "add"}),
        (("double", "split"), {"add"}),
        (("add",), set()),
    ],
)
def test_what_is_given_need_not_run_nor_what_only_it_needs(given: Any, needed: set[str]) -> None:
    @pipeline
    def tag(x: int) -> int:
        number, _ = split(x)
        return add(double(x), number)

    assert tag.graph.needed(frozenset(given)) == needed


def test_a_node_that_is_not_there_is_an_error_with_those_that_are() -> None:
    @pipeline
    def tag(x: int) -> int:
        return double(x)

    with pytest.raises(KeyError, match="no node 'duoble'; there are double"):
        _ = tag.graph["duoble"]
    assert "double" in tag.graph


def test_resources_of_a_graph_come_once_each() -> None:
    @pipeline
    def tag(x: int) -> str:
        return total([look(x), look(double(x))])

    assert list(tag.graph.resources.values()) == [look.resources["model"]]


def test_what_a_given_node_and_another_share_still_runs() -> None:
    @step
    def base(x: int) -> int:
        return x

    @step
    def left(x: int) -> int:
        return x + 1

    @step
    def right(x: int) -> int:
        return x + 2

    @step
    def add(x: int, y: int) -> int:
        return x + y

    @pipeline
    def diamond(x: int) -> int:
        shared = base(x)
        return add(left(shared), right(shared))

    assert diamond.graph.needed(frozenset({"left"})) == {"base", "right", "add"}
    assert diamond.graph.needed(frozenset({"left", "right"})) == {"add"}
