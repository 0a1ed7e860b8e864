"""Graphs cut along their stages: what is left in front, and what runs in one call elsewhere."""

import asyncio
from typing import ClassVar, Generic, NamedTuple, TypeVar

import pytest
from pydantic import BaseModel

from mlkit import batched_step, branch, each, pipeline, resource, step
from mlkit.execute import Executor, compile_graph
from mlkit.plan import cut

T = TypeVar("T")


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


def run_cut(graph, stages, models=None, **arguments):
    """The output of a graph whose segments run in executors of their own.

    The model that each call asks a pool for is appended to ``models``.
    """
    made = cut(graph, stages)
    calls = []

    async def main():
        loop = asyncio.get_running_loop()
        inner = {s.name: Executor(compile_graph(s.graph), loop=loop) for s in made.segments}

        async def call(step, inputs):
            calls.append(step.segment)
            if models is not None:
                models.append(step.model and inputs[step.model])
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


class Request(BaseModel):
    text: str
    model: str


class Drawer(Generic[T]):
    """Stands for a pool of models."""

    routed_by: ClassVar = ("model_id", "model_ids")


@step
def one(text: str, model_id: str, *, drawer: Drawer[str] = resource(Drawer)) -> str:
    return text + model_id


@batched_step
def many(texts: list[str], model_ids: list[str], *, drawer: Drawer = resource(Drawer)) -> list[str]:
    return texts


@step
def without_pool(text: str, model_id: str, *, drawer: dict = resource(dict)) -> str:
    return text


@step
def named(text: str) -> str:
    return text


@pipeline
def asked(text: str, model: str) -> str:
    return one(named(text), model)


@pipeline
def asked_in_batches(text: str, model: str) -> str:
    return many(text, model)


@pipeline
def asked_by_field(request: Request) -> str:
    return one(request.text, request.model)


@pipeline
def asked_by_a_step(text: str) -> str:
    return one(text, named(text))


@pipeline
def asked_for_all(texts: list[str], model: str) -> list[str]:
    return each(one, texts, model_id=model)


@pipeline
def asked_for_none(text: str, model: str) -> str:
    return without_pool(text, model)


@pytest.mark.parametrize(
    ("asking", "moved", "inputs", "model"),
    [
        (asked, ["one"], {"text": "a", "model": "m"}, "m"),
        (asked, ["one", "named"], {"text": "a", "model": "m"}, "m"),
        (asked, ["named"], {"text": "a", "model": "m"}, None),
        (asked_in_batches, ["many"], {"text": "a", "model": "m"}, "m"),
        (asked_by_field, ["one"], {"request": Request(text="a", model="m")}, "m"),
        (asked_by_a_step, ["one"], {"text": "m"}, "m"),
        (asked_by_a_step, ["one", "named"], {"text": "m"}, None),  # known there only
        (asked_for_all, ["one"], {"texts": ["a"], "model": "m"}, "m"),
        (asked_for_none, ["without_pool"], {"text": "a", "model": "m"}, None),
    ],
)
def test_a_call_knows_the_model_that_it_asks_a_pool_for(asking, moved, inputs, model) -> None:
    models = []
    run_cut(asking.graph, dict.fromkeys(moved, "models"), models=models, **inputs)
    assert models == [model]
