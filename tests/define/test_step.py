"""Steps are still functions: called from a script, from a cell, from other steps."""

import asyncio
import inspect
import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from mlkit.define import BatchedStep, batched_step, resource, step
from mlkit.define.shipping import dumps
from mlkit.errors import DefinitionError


@step
def double(x: int, by: int = 2) -> int:
    """Doubles."""
    return x * by


@step
async def slow(x: int) -> str:
    await asyncio.sleep(0)
    return f"{x} in {threading.current_thread().name}"


@batched_step(max_batch_size=4)
def classify(
    xs: list[int], shift: list[int] | None = None, *, scale: int = resource(value=10)
) -> list[int]:
    shift = shift or [0] * len(xs)
    return [x * scale + s for x, s in zip(xs, shift, strict=True)]


@batched_step
def arrays(xs: npt.NDArray[np.float64]) -> np.ndarray:
    return xs.sum(axis=tuple(range(1, xs.ndim)))


def in_a_running_loop(call: Callable[[], Any]) -> Any:
    """What the call gives where a loop already runs, as it does in a notebook's cell."""

    async def cell() -> Any:
        return call()

    return asyncio.run(cell())


def test_calling_a_step_runs_it() -> None:
    assert double(2) == 4
    assert double(2, by=3) == 6
    assert double(x=2) == 4


def test_calling_an_async_step_returns_its_value() -> None:
    assert slow(1) == "1 in mlkit-loop"


def test_it_does_so_where_a_loop_runs_already() -> None:
    assert in_a_running_loop(lambda: slow(2)) == "2 in mlkit-loop"
    assert in_a_running_loop(lambda: double(2)) == 4


def test_an_error_of_an_async_step_comes_through() -> None:
    @step
    async def fail(x: int) -> int:
        raise ZeroDivisionError(str(x))

    with pytest.raises(ZeroDivisionError, match="3"):
        fail(3)


def test_calling_a_batched_step_takes_one_item() -> None:
    assert classify(1) == 10
    assert classify(1, 5) == 15
    assert classify(xs=1, shift=5) == 15


def test_its_batch_takes_the_list() -> None:
    assert classify.batch([1, 2, 3]) == [10, 20, 30]
    assert classify.batch([1, 2], shift=[1, 1]) == [11, 21]
    assert classify.batch([]) == []


def test_a_test_passes_its_own_resource() -> None:
    assert classify.fn([1], scale=3) == [3]
    assert classify(1, scale=3) == 3
    assert classify.batch([1], scale=3) == [3]


def test_items_are_stacked_where_an_array_is_wanted_and_results_are_split() -> None:
    assert arrays(np.ones((2, 3))) == 6
    results = arrays.batch([np.ones((2, 3)), np.zeros((2, 3))])
    assert isinstance(results, list)
    assert results == [6, 0]


@pytest.mark.parametrize(
    ("returned", "got"),
    [
        ([1], "1"),
        ([1, 2, 3], "3"),
        (None, "NoneType"),
        (5, "int"),
        ("ab", "str"),
        ({1: 2, 3: 4}, "dict"),
    ],
)
def test_a_batch_with_a_wrong_number_of_results_is_an_error(returned: Any, got: str) -> None:
    @batched_step
    def wrong(xs: list[int]) -> list[int]:
        return returned  # type: ignore[no-any-return]

    with pytest.raises(DefinitionError, match="one result per item") as caught:
        wrong.batch([1, 2])
    assert caught.value.expected == "2 results"
    assert caught.value.got == got


def test_a_tuple_is_as_good_as_a_list() -> None:
    @batched_step
    def paired(xs: list[int]) -> tuple[int, ...]:
        return tuple(xs)

    assert paired.batch([1, 2]) == [1, 2]


def test_a_step_inside_a_step_names_the_way_out() -> None:
    @step
    def outer(x: int) -> int:
        return double(x)

    with pytest.raises(
        DefinitionError, match="step 'double' is called inside step 'outer'"
    ) as caught:
        outer(1)
    assert "double.fn(...)" in str(caught.value)
    assert double(1) == 2  # and afterwards all is as before


def test_its_function_may_be_called_inside_a_step() -> None:
    @step
    def outer(x: int) -> int:
        return double.fn(x) + classify.fn([x], scale=1)[0]

    assert outer(1) == 3


def test_an_async_step_inside_an_async_step_is_found_out_too() -> None:
    @step
    async def outer(x: int) -> str:
        return slow(x)

    with pytest.raises(DefinitionError, match="inside step 'outer'"):
        outer(1)


def test_it_keeps_name_words_and_signature() -> None:
    assert double.name == double.__name__ == "double"
    assert double.__doc__ == "Doubles."
    assert inspect.signature(double) == inspect.signature(double.fn)
    assert repr(double) == "<step double(x: int, by: int = 2) -> int>"
    assert repr(classify).startswith("<batched step classify(xs: list[int]")


def test_resources_are_told_from_parameters() -> None:
    assert list(classify.parameters) == ["xs", "shift"]
    assert list(classify.resources) == ["scale"]


def test_types_of_a_batched_step_are_those_of_one_item() -> None:
    assert classify.input_type("xs") is int
    assert classify.return_type is int
    assert double.input_type("x") is int


def test_a_type_that_a_later_cell_defines_counts_from_then_on(cell: Any) -> None:
    names = cell("""
        from mlkit import step
        @step
        def later(x: "Label") -> "Label": return x
    """)
    assert names["later"].hints == {}
    exec("class Label: pass", names)
    assert names["later"].input_type("x") is names["Label"]


async def an_async_one(xs: list[int]) -> list[int]:
    return xs


def a_generator(x: int) -> Any:
    yield x


def with_stars(*xs: int) -> int:
    return 0


def with_keywords(**xs: int) -> int:
    return 0


def positional_only(x: int, /) -> int:
    return 0


def early_resource(model: int = resource(value=1)) -> int:
    return model


def without_items(*, model: int = resource(value=1)) -> list[int]:
    return []


@pytest.mark.parametrize(
    ("decorate", "fn", "message"),
    [
        (batched_step, a_generator, "cannot stream"),
        (step, with_stars, "named parameters"),
        (step, with_keywords, "named parameters"),
        (step, positional_only, "named parameters"),
        (step, len, "is a function"),
        (step, int, "is a function"),
        (step, double, "already a step"),
        (step, early_resource, "keyword-only"),
        (batched_step, an_async_one, "cannot be async"),
        (batched_step, without_items, "at least one sequence"),
        (batched_step(max_batch_size=0), lambda xs: xs, "at least 1"),
        (batched_step(max_batch_size=True), lambda xs: xs, "at least 1"),
        (batched_step(max_batch_size="8"), lambda xs: xs, "at least 1"),
    ],
)
def test_what_cannot_be_a_step_is_refused_at_once(decorate: Any, fn: Any, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        decorate(fn)


def test_a_step_travels_with_its_options_and_types() -> None:
    again = pickle.loads(dumps(classify))
    assert isinstance(again, BatchedStep)
    assert (again.name, again.max_batch_size, again.return_type) == ("classify", 4, int)
    assert again(2) == 20


@pytest.mark.parametrize("results", [{1, 2}, pd.DataFrame({"a": [1, 2], "b": [3, 4]})])
def test_results_without_an_order_of_their_own_are_refused(results) -> None:
    @batched_step
    def double(xs: list[int]) -> list[int]:
        return results

    with pytest.raises(DefinitionError, match="one result per item"):
        double.batch([1, 2])
