"""A pipeline on blocks of rows, without Ray."""

from collections.abc import Callable, Iterator
from datetime import date
from typing import Any, Literal

import pyarrow as pa
import pytest
from pydantic import BaseModel

from mlkit import InputError, Pipeline, batched_step, pipeline, step
from mlkit.serving.replica.blocks import BlockMapper, columns_of


class Part(BaseModel):
    label: Literal["a", "b"]
    score: float | None


class Tree(BaseModel):
    children: list["Tree"] = []


class Tags(BaseModel):
    day: date
    parts: list[Part]
    count: int
    either: int | str
    tree: Tree
    by_name: dict[str, int]


@pytest.fixture
def mapped() -> Iterator[Callable[..., pa.Table]]:
    """Returns a function: pipeline and columns of rows to the table of the results."""
    mappers = []

    def run(pipe: Pipeline[..., Any], id: str = "sku", **columns: list[Any]) -> pa.Table:
        names = {p.name: p.name for p in pipe.graph.parameters if p.name in columns}
        mappers.append(BlockMapper(pipe.graph, id, names, workers=2))
        return mappers[-1](pa.table(columns))

    yield run
    for mapper in mappers:
        mapper.close()


@batched_step(max_batch_size=4)
def halve(numbers: list[int]) -> list[int]:
    if any(number % 2 for number in numbers):
        raise InputError("odd")
    return [number // 2 for number in numbers]


@pipeline
def half(number: int, unused: str = "") -> int:
    return halve(number)


def test_a_bad_row_fails_alone_and_keeps_its_place(mapped) -> None:
    table = mapped(half, sku=["a", "b", "c"], number=[2, 3, 4])
    assert table.column_names == ["sku", "half", "error"]
    assert table["sku"].to_pylist() == ["a", "b", "c"]
    assert table["half"].to_pylist() == [1, None, 2]
    first, second, third = table["error"].to_pylist()
    assert (first, third) == (None, None)
    assert "odd" in second


def test_the_types_of_columns_do_not_depend_on_their_values(mapped) -> None:
    some = mapped(half, sku=["a"], number=[2])
    none = mapped(half, sku=["a"], number=[3])
    assert some.schema == none.schema


def test_a_row_that_is_no_argument_fails_alone(mapped) -> None:
    table = mapped(half, sku=["a", "b"], number=["2", "many"])
    assert table["half"].to_pylist() == [1, None]
    assert "number" in table["error"][1].as_py()


def test_a_missing_value_is_the_default(mapped) -> None:
    @step
    def add(a: int, b: int) -> int:
        return a + b

    @pipeline
    def total(a: int, b: int = 10) -> int:
        return add(a, b)

    assert mapped(total, sku=[1, 2], a=[1, 2], b=[None, 3])["total"].to_pylist() == [11, 5]


def test_fields_become_columns_and_what_has_no_type_json(mapped) -> None:
    @step
    def make(n: int) -> Tags:
        return Tags(
            day=date(2026, 1, n),
            parts=[Part(label="a", score=0.5), Part(label="b", score=None)],
            count=n,
            either="x",
            tree=Tree(children=[Tree()]),
            by_name={"n": n},
        )

    @pipeline
    def tags(n: int) -> Tags:
        return make(n)

    table = mapped(tags, sku=["s"], n=[1])
    part = pa.struct([("label", pa.string()), ("score", pa.float64())])
    assert table.schema.field("parts").type == pa.list_(part)
    assert table.to_pylist() == [
        {
            "sku": "s",
            "day": "2026-01-01",
            "parts": [{"label": "a", "score": 0.5}, {"label": "b", "score": None}],
            "count": 1,
            "either": '"x"',
            "tree": '{"children": [{"children": []}]}',
            "by_name": '{"n": 1}',
            "error": None,
        }
    ]


def test_a_result_that_no_column_can_hold_is_an_error_of_its_row(mapped) -> None:
    @step
    def power(n: int) -> int:
        return 2**n

    @pipeline
    def large(n: int) -> int:
        return power(n)

    table = mapped(large, sku=[1, 2, 3], n=[1, 70, 2])
    assert table["large"].to_pylist() == [2, None, 4]
    assert "does not fit" in table["error"][1].as_py()


@pytest.mark.parametrize(
    ("type_", "expected"),
    [
        (str, pa.string()),
        (bool, pa.bool_()),
        (list[float], pa.list_(pa.float64())),
        (int | None, pa.int64()),
        (int | str, None),
        (tuple[int, str], None),
        (dict[str, int], None),
        (list[Tree], None),
    ],
)
def test_a_result_without_fields_is_one_column(type_: Any, expected: Any) -> None:
    @step
    def make(n: int) -> type_:
        raise NotImplementedError

    @pipeline
    def made(n: int) -> type_:
        return make(n)

    assert columns_of(made.graph) == {"made": expected}
