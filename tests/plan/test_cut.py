"""Graphs cut along their stages: what is left in front, and what runs in one call elsewhere."""

import asyncio
from typing import NamedTuple

import pytest

from mlkit import branch, each, pipeline, step
from mlkit.execute import Executor, compile_graph
from mlkit.plan import cut


class Pair(NamedTuple):
    left: int
    right: int


@step
def double(x: int) -> int:
    return 2 * x


@step
def split(x: int) -> Pair:
    return Pair(x, -x)


@step
def add(a: int, b: int) -> int:
    return a + b


@step
def sign(x: int) -> str:
    return "plus" if x >= 0 else "minus"


@step
def negate(x: int) -> int:
    return -x


@step
def count(n: int) -> list[int]:
    return list(range(n))


@pipeline
def chain(x: int, y: int = 1) -> int:
    pair = split(double(x))
    return add(double(pair.left), add(pair.right, y))


@pipeline
def routed(x: int) -> int:
    y = double(x)
    return add(branch(sign(y), {"plus": double, "minus": negate})(y), x)


@pipeline
def listed(n: int) -> list[int]:
    return each(double, each(negate, count(n)))


def run_cut(graph, stages, **arguments):
    """The output of a graph whose segments run in executors of their own."""
    made = cut(graph, stages)
    calls = []

    async def main():
        loop = asyncio.get_running_loop()
        inner = {s.name: Executor(compile_graph(s.graph), loop=loop) for s in made.segments}

        async def call(step, inputs):
            calls.append(step.segment)
            execution = await inner[step.segment].run(inputs)
            assert execution.error is None, execution.error
            return execution.output

        for node in made.front:
            if node.step.name in inner:
                node.step.call = call
        with Executor(compile_graph(made.front), loop=loop) as front:
            execution = await front.run(arguments)
        for executor in inner.values():
            executor.close()
        assert execution.error is None, execution.error
        return execution.output

    return asyncio.run(main()), calls


NODES = ("double", "split", "double_2", "add", "add_2")


@pytest.mark.parametrize("x", [3, -4])
def test_every_way_of_cutting_gives_the_same(x) -> None:
    wanted = chain(x, 5)
    for code in range(3 ** len(NODES)):
        places = [code // 3**i % 3 for i in range(len(NODES))]
        stages = {n: f"s{p}" for n, p in zip(NODES, places, strict=True) if p}
        assert run_cut(chain.graph, stages, x=x, y=5)[0] == wanted, stages


@pytest.mark.parametrize("x", [3, -4])
def test_only_the_chosen_arm_is_called_wherever_it_is(x) -> None:
    names = [node.name for node in routed.graph]
    for stages in (
        {name: name for name in names},
        dict.fromkeys(names, "all"),
        {"double_2": "arms", "negate": "arms"},
        {"sign": "other"},
    ):
        result, calls = run_cut(routed.graph, stages, x=x)
        assert result == routed(x), stages
        if len(set(stages.values())) == len(names):
            assert ("negate" in calls, "double_2" in calls) == (x < 0, x >= 0)


def test_lists_are_gone_through_wherever_they_are() -> None:
    for stages in ({}, {"double": "a", "negate": "b"}, {"negate": "a", "count": "a"}):
        assert run_cut(listed.graph, stages, n=4)[0] == [0, -2, -4, -6]


def test_what_can_run_in_one_call_does() -> None:
    made = cut(chain.graph, {"double": "m", "split": "m"})
    (segment,) = made.segments
    assert segment.nodes == ("double", "split")
    assert segment.name == "m"
    assert [node.name for node in made.front] == ["m", "double_2", "add", "add_2"]
    # Only the parts that are used come back.
    assert len(segment.graph.output.items) == 2


def test_a_stage_is_entered_again_where_something_happens_in_between() -> None:
    made = cut(chain.graph, {"double": "m", "double_2": "m"})
    assert [s.nodes for s in made.segments] == [("double",), ("double_2",)]


def test_a_stage_may_be_named_like_a_node_of_the_front() -> None:
    made = cut(chain.graph, {"double": "add", "split": "add"})
    names = [node.name for node in made.front]
    assert len(set(names)) == len(names)
    assert run_cut(chain.graph, {"double": "add", "split": "add"}, x=2, y=1)[0] == chain(2, 1)
