"""Branches and lists inside one request: what runs, what is skipped, what fails."""

import asyncio

import pytest

from mlkit import batched_step, branch, each, pipeline, step
from mlkit.errors import DefinitionError, InputError, StepError
from mlkit.plan import plan

ran: list[str] = []


@pytest.fixture(autouse=True)
def forget() -> None:
    ran.clear()


@step
def kind(x: int) -> str:
    return "basic" if x < 10 else "premium" if x < 100 else "unknown"


@step
def basic(x: int, by: int = 1) -> int:
    ran.append("basic")
    return x + by


@batched_step
def premium(xs: list[int], bys: list[int]) -> list[int]:
    ran.append("premium")
    return [x * by for x, by in zip(xs, bys, strict=True)]


@step
async def other(x: int, by: int) -> int:
    ran.append("other")
    await asyncio.sleep(0)
    return -x


@step
def twice(x: int) -> int:
    return 2 * x


@pipeline
def routed(x: int) -> int:
    return twice(branch(kind(x), {"basic": basic, "premium": premium})(x, 3))


@pipeline
def fallback(x: int) -> int:
    return branch(kind(x), {"basic": basic}, default=other)(x, 5)


@pipeline
def inner(x: int, by: int) -> int:
    return twice(branch(kind(x), {"basic": basic, "premium": premium}, default=other)(x, by))


@pipeline
def nested(tier: str, x: int) -> int:
    return branch(tier, {"plain": basic, "full": inner})(x, 2)


@pytest.mark.parametrize(("x", "result", "arm"), [(1, 8, "basic"), (20, 120, "premium")])
def test_only_the_chosen_arm_runs(x, result, arm) -> None:
    run = routed.run(x)
    assert (run.value, ran) == (result, [arm])
    assert {node.name: node.status for node in run.nodes if node.name in ("basic", "premium")} == {
        name: "done" if name == arm else "skipped" for name in ("basic", "premium")
    }


def test_a_key_without_an_arm_is_an_error_of_the_request() -> None:
    with pytest.raises(InputError, match="no arm for this") as caught:
        routed(100)
    assert caught.value.status == 422
    assert (caught.value.expected, caught.value.got) == ("one of 'basic', 'premium'", "'unknown'")
    assert ran == []


def test_every_other_key_takes_the_default() -> None:
    assert [fallback(1), fallback(50), ran] == [6, -50, ["basic", "other"]]


def test_branches_stand_inside_each_other_and_on_arguments() -> None:
    assert nested("plain", 1) == 3
    assert nested("full", 1) == 6
    assert nested("full", 50) == 200
    assert nested("full", 500) == -1000
    with pytest.raises(InputError, match="branch on tier"):
        nested("none", 1)


def test_many_requests_take_their_own_ways() -> None:
    inputs = [i % 100 for i in range(400)]
    assert routed.map(inputs, progress=False) == [routed(x) for x in range(100)] * 4


def test_outside_a_pipeline_the_chosen_arm_is_called() -> None:
    assert branch("basic", {"basic": basic, "premium": premium})(1, 3) == 4
    with pytest.raises(InputError):
        branch("none", {"basic": basic})


def test_arms_of_types_that_do_not_fit_are_problems() -> None:
    @step
    def text(x: int, by: int) -> str:
        return ""

    @pipeline
    def mixed(x: int) -> int:
        return twice(branch(kind(x), {"basic": basic, "premium": text})(x, 3))

    (problem,) = mixed.problems
    assert "'text'" in problem.what
    assert not routed.problems
    assert not nested.problems


def test_what_a_branch_is_made_of_is_in_the_graph_and_survives_a_plan() -> None:
    text = str(routed.graph)
    assert "if kind is 'basic'" in text
    made = plan(routed, layout="per_step")
    assert {segment.name for segment in made.cut.segments} >= {"basic", "premium"}


# ---- each ------------------------------------------------------------------------------------


@step
def crops(n: int) -> list[int]:
    return list(range(n))


@batched_step(max_batch_size=4)
def square(xs: list[int], plus: list[int]) -> list[int]:
    ran.append(f"square {len(xs)}")
    if 13 in xs:
        raise ValueError("thirteen")
    return [x * x + p for x, p in zip(xs, plus, strict=True)]


@step
async def wait(x: int) -> int:
    await asyncio.sleep(0.001)
    return -x


@step
def total(xs: list[int]) -> int:
    return sum(xs)


@pipeline
def listed(n: int, plus: int = 0) -> list[int]:
    return each(square, crops(n), plus=plus)


@pipeline
def summed(n: int) -> int:
    return total(each(wait, each(twice, crops(n))))


def test_a_step_runs_over_a_list_in_batches() -> None:
    run = listed.run(10, plus=1)
    assert run.value == [x * x + 1 for x in range(10)]
    assert sorted(ran) == ["square 2", "square 4", "square 4"]
    assert run["square"].value == run.value
    assert run["square"].batch_size == 4


def test_plain_and_async_steps_run_over_lists_too() -> None:
    assert summed(10) == -90


def test_an_empty_list_gives_an_empty_list() -> None:
    assert listed(0) == []
    assert summed(0) == 0


def test_items_of_several_requests_share_batches(requests, gate) -> None:
    sizes = []

    @batched_step(max_batch_size=8)
    def held(xs: list[int]) -> list[int]:
        sizes.append(len(xs))
        gate.pass_through()
        return xs

    @pipeline
    def listed(xs: list[int]) -> list[int]:
        return each(held, xs)

    sent = requests(listed, workers=1)
    sent.submit([0])
    gate.wait_for(1)  # the only worker is busy
    sent.submit([1, 2], [3], [4, 5, 6])
    gate.open()
    assert sent.outcomes() == [[0], [1, 2], [3], [4, 5, 6]]
    assert sizes == [1, 6]


def test_the_item_at_fault_is_named_and_others_are_not_harmed() -> None:
    results = listed.map([14, 5], on_error="keep", progress=False)
    assert results[1] == [0, 1, 4, 9, 16]
    assert isinstance(results[0], StepError)
    assert "item 13: ValueError: thirteen" in str(results[0])
    assert results[0].step == "square"


def test_what_is_no_list_is_refused_where_it_is_written_or_told_where_it_runs() -> None:
    with pytest.raises(DefinitionError, match="needs a list"):

        @pipeline
        def wrong(x: int) -> list[int]:
            return each(twice, twice(x))

    @pipeline
    def texts(xs: list[str]) -> list[int]:
        return each(twice, xs)

    (problem,) = texts.problems
    assert problem.node == "twice"


def test_outside_a_pipeline_a_list_is_gone_through() -> None:
    assert each(twice, [1, 2]) == [2, 4]
    assert each(square, [1, 2, 3, 4, 5], plus=1) == [2, 5, 10, 17, 26]
    assert ran == ["square 4", "square 1"]


def test_a_step_used_twice_in_one_graph_is_two_nodes() -> None:
    @pipeline
    def both(a: int, b: int) -> list[int]:
        return crops(total([square(a, 0), square(b, 1)]))

    run = both.run(2, 3)
    assert (run["square"].value, run["square_2"].value) == (4, 10)
