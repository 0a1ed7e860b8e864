"""Steps and pipelines that are called inside of a step."""

from typing import Any

import pytest

from mlkit import batched_step, each, pipeline, step
from mlkit.define.nesting import nested_calls


@step
def double(x: int) -> int:
    return 2 * x


@step
async def wait(x: int) -> int:
    return x


@batched_step
def many(xs: list[int]) -> list[int]:
    return xs


@pipeline
def doubled(x: int) -> int:
    return double(x)


def calls_a_step(x: int) -> int:
    return double(x) + 1


def calls_a_batched_step(x: int) -> int:
    return many(x)


def calls_a_pipeline(x: int) -> int:
    return doubled(x)


def runs_a_pipeline(x: int) -> Any:
    return doubled.run(x)


def maps_a_pipeline(x: int) -> Any:
    return doubled.map([x])


def maps_a_step(x: int) -> list[int]:
    return list(map(double, [x]))


def each_of_a_step(x: int) -> list[int]:
    return each(double, [x])


def inside_a_lambda(x: int) -> int:
    return (lambda y: double(y))(x)


async def awaits_a_step(x: int) -> int:
    return await wait(x)  # type: ignore[misc]


def calls_the_function(x: int) -> int:
    return double.fn(x)


def calls_a_batch(x: int) -> list[int]:
    return [*many.batch([x]), *each(many, [x])]


def calls_an_argument(double: Any) -> Any:
    return double(1)


def names_a_step(x: int) -> str:
    return double.name


@pytest.mark.parametrize(
    ("function", "called"),
    [
        (calls_a_step, [double]),
        (calls_a_batched_step, [many]),
        (calls_a_pipeline, [doubled]),
        (runs_a_pipeline, [doubled]),
        (maps_a_pipeline, [doubled]),
        (maps_a_step, [double]),
        (each_of_a_step, [double]),
        (inside_a_lambda, [double]),
        (awaits_a_step, [wait]),
        (calls_the_function, []),
        (calls_a_batch, []),
        (calls_an_argument, []),
        (names_a_step, []),
        (doubled.fn, []),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_a_function_calls_is_named(function: Any, called: list[Any]) -> None:
    assert list(nested_calls(function)) == called


@pytest.mark.parametrize("helper", [False, True], ids=["step", "helper"])
def test_a_nested_call_is_a_problem_with_a_way_out(helper: bool) -> None:
    def look(x: int) -> int:
        return double(x)

    def look_through(x: int) -> int:
        return calls_a_step(x)

    look_step = step(look_through if helper else look)

    @pipeline
    def looked(x: int) -> int:
        return look_step(x)

    (problem,) = looked.problems
    who = "calls_a_step" if helper else "it"
    assert f"{who} calls the step 'double'" in problem.what
    assert "double.fn(...)" in str(problem.fix)


def test_a_nested_call_of_a_pipeline_is_one_as_well() -> None:
    look = step(calls_a_pipeline)

    @pipeline
    def looked(x: int) -> int:
        return look(x)

    (problem,) = looked.problems
    assert "calls the pipeline 'doubled'" in problem.what
