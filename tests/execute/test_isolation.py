"""A step that changes what it gets affects no other request."""

import threading
from typing import Any

import numpy as np
import pytest

from mlkit import batched_step, pipeline, step
from mlkit.execute import Executor, compile_graph

TABLE = {"rows": [1]}


@step
def change_argument(values: list[int]) -> int:
    values.append(0)
    return len(values)


@step
async def change_argument_async(values: list[int]) -> int:
    values.append(0)
    return len(values)


@step
def change_default(x: int, seen: list[int] = []) -> int:  # noqa: B006
    seen.append(x)
    return len(seen)


@batched_step
def change_default_of_batch(x: list[int], seen: list[int] = []) -> list[int]:  # noqa: B006
    seen.append(1)
    return [len(seen)] * len(x)


@step
def change_table(x: int, table: dict[str, list[int]]) -> int:
    table["rows"].append(x)
    return len(table["rows"])


@pipeline
def argument(values: list[int]) -> int:
    return change_argument(values)


@pipeline
def argument_async(values: list[int]) -> int:
    return change_argument_async(values)


@pipeline
def default(values: list[int] = [1]) -> int:  # noqa: B006
    return change_argument(values)


@pipeline
def step_default(x: int) -> int:
    return change_default(x)


@pipeline
def step_default_async(x: int, values: list[int] = [1]) -> int:  # noqa: B006
    return change_argument_async(values)


@pipeline
def step_default_of_batch(x: int) -> int:
    return change_default_of_batch(x)


@pipeline
def constant(x: int) -> int:
    return change_table(x, TABLE)


@pipeline
def literal(x: int) -> int:
    return change_table(x, {"rows": [1]})


def name_of(value: Any) -> str:
    return getattr(value, "name", "")


CASES: list[tuple[Any, dict[str, Any], int]] = [
    (default, {}, 2),
    (step_default, {"x": 1}, 1),
    (step_default_async, {"x": 1}, 2),
    (step_default_of_batch, {"x": 1}, 1),
    (constant, {"x": 1}, 2),
    (literal, {"x": 1}, 2),
]


@pytest.mark.parametrize(("pipe", "arguments", "result"), CASES, ids=name_of)
def test_each_call_in_this_process_begins_anew(pipe: Any, arguments: Any, result: int) -> None:
    assert [pipe(**arguments) for _ in range(3)] == [result] * 3
    assert TABLE == {"rows": [1]}


@pytest.mark.parametrize(("pipe", "arguments", "result"), CASES[1:], ids=name_of)
def test_so_does_each_request_to_one_program(pipe: Any, arguments: Any, result: int) -> None:
    """As in a replica, which compiles the graph once."""
    defaults = {p.name: p.default for p in pipe.graph.parameters if not p.required}
    results: list[Any] = []
    with Executor(compile_graph(pipe.graph), workers=1) as executor:
        for _ in range(3):
            done = threading.Event()
            executor.submit(
                {**defaults, **arguments, **({"values": [1]} if defaults else {})},
                lambda execution, done=done: (results.append(execution.output), done.set()),  # type: ignore[misc]
            )
            done.wait(5)
    assert results == [result] * 3


@pytest.mark.parametrize("pipe", [argument, argument_async])
def test_the_caller_s_own_list_is_not_changed(pipe: Any) -> None:
    values = [1]
    assert pipe(values) == pipe(values) == 2
    assert pipe.map([{"values": values}] * 2, progress=False) == [2, 2]
    assert values == [1]


def test_nor_is_the_caller_s_array() -> None:
    @step
    def double(values: np.ndarray) -> float:
        values *= 2
        return float(values.sum())

    @pipeline
    def doubled(values: np.ndarray) -> float:
        return double(values)

    values = np.ones(3)
    assert doubled(values) == doubled(values) == 6.0
    assert values.sum() == 3
