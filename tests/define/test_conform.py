"""Results of steps against their annotations: what passes, what is converted, what is refused."""

import datetime as dt
import decimal
import enum
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from pydantic import AfterValidator, BaseModel, Field, HttpUrl, field_validator
from typing_extensions import TypedDict

from mlkit import batched_step, pipeline, step
from mlkit.define.conform import conform_to
from mlkit.errors import DefinitionError, StepError
from mlkit.media.image import Image

T = TypeVar("T")
calls: list[float] = []


class Result(BaseModel):
    n: int


class Longer(Result):
    m: int = 1


class Price(BaseModel):
    eur: float

    @field_validator("eur")
    @classmethod
    def from_cents(cls, value: float) -> float:
        return value / 100


@dataclass
class Point:
    x: int


class Row(TypedDict):
    n: int


class Pair(NamedTuple):
    name: str
    n: int


class Page(BaseModel, Generic[T]):
    items: list[T]


class Kind(enum.Enum):
    shirt = 1


class Foreign:
    def __repr__(self) -> str:  # the same in all processes, for the names of tests
        return "Foreign()"


def halved(value: float) -> float:
    calls.append(value)
    return value / 2


FOREIGN = Foreign()
IMAGE = Image(np.zeros((2, 2, 3), np.uint8), 2, 2)

PASS = [
    (int, 3),
    (float, 0.5),
    (bool, True),
    (str, "a"),
    (bytes, b"a"),
    (None, None),
    (int | None, None),
    (Literal["a", 1], 1),
    (Kind, Kind.shirt),
    (list[int], [1, 2]),
    (list, [1, "a"]),
    (set[int], {1}),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2)),
    (Sequence[int], (1, 2)),
    (Sequence[int], [1, 2]),
    (Mapping[str, int], {"a": 1}),
    (dict[str, Any], {"a": FOREIGN}),
    (Result, Result(n=1)),
    (Result, Longer(n=1)),
    (list[Result], [Longer(n=1)]),
    (Page[int], Page[int](items=[1])),
    (Price, Price(eur=1250)),
    (Point, Point(1)),
    (Row, {"n": 1}),
    (Pair, Pair("a", 1)),
    (Foreign, FOREIGN),
    (list[Foreign], [FOREIGN]),
    (Image, IMAGE),
    (dict[str, Image], {"a": IMAGE}),
    (decimal.Decimal, decimal.Decimal("1.10")),
    (dt.datetime, dt.datetime(2026, 1, 2)),
    (pathlib.Path, pathlib.Path("a")),
    (HttpUrl, HttpUrl("http://a.example")),
    (Annotated[int, Field(ge=0)], 0),
]


@pytest.mark.parametrize(("type_", "value"), PASS, ids=str)
def test_a_result_of_its_type_is_left_alone(type_: Any, value: Any) -> None:
    conform = conform_to(type_)
    assert conform is not None
    result = conform(value)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize("type_", [np.ndarray, npt.NDArray[np.float32]], ids=str)
def test_an_array_is_left_alone(type_: Any) -> None:
    array = np.zeros(3)
    conform = conform_to(type_)
    assert conform is not None
    assert conform(array) is array


def test_a_table_is_left_alone() -> None:
    frame = pd.DataFrame({"a": [1]})
    conform = conform_to(pd.DataFrame)
    assert conform is not None
    assert conform(frame) is frame


@pytest.mark.parametrize(
    ("type_", "value", "expected"),
    [
        (Result, {"n": 1}, Result(n=1)),
        (list[Result], [{"n": 1}, Result(n=2)], [Result(n=1), Result(n=2)]),
        (Point, {"x": 1}, Point(1)),
        (Pair, ("a", 1), Pair("a", 1)),
        (Page[int], Page(items=[1]), Page[int](items=[1])),
        (int, torch.tensor(3), 3),
        (bool, torch.tensor(True), True),
        (list[list[float]], torch.ones(1, 2), [[1.0, 1.0]]),
        (dt.datetime, np.datetime64("2026-01-02", "ns"), dt.datetime(2026, 1, 2)),
        (int, np.int64(3), 3),
        (float, np.float32(0.5), 0.5),
        (float, 3, 3.0),
        (bool, np.bool_(True), True),
        (str, np.str_("a"), "a"),
        (list[float], np.array([0.5, 1.5]), [0.5, 1.5]),
        (dict[str, float], {"a": np.float64(1)}, {"a": 1.0}),
        (tuple[int, float], (np.int32(1), np.float32(2)), (1, 2.0)),
    ],
    ids=str,
)
def test_a_result_that_stands_for_its_type_is_converted(
    type_: Any, value: Any, expected: Any
) -> None:
    conform = conform_to(type_)
    assert conform is not None
    result = conform(value)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("type_", "value", "where"),
    [
        (int, "3", "valid integer"),
        (int, True, "valid integer"),
        (int, 3.5, "valid integer"),
        (str, 3, "valid string"),
        (bytes, "a", "valid bytes"),
        (list[int], (1, 2), "valid list"),
        (list[int], [1, "a"], r"\[1\]"),
        (Result, {"n": "many"}, "n"),
        (Result, {}, "n"),
        (Result, Point(1), "not a Result, but Point"),
        (list[Result], [Result(n=1), None], r"\[1\]"),
        (Page[int], Page[str](items=["a"]), r"items\[0\]"),
        (Row, {"n": "a"}, "n"),
        (Kind, 1, "instance of Kind"),
        (Literal["a"], "b", "'a'"),
        (dt.datetime, "2026-01-01", "valid datetime"),
        (pathlib.Path, "a", "instance of Path"),
        (np.ndarray, [1], "instance of ndarray"),
        (pd.DataFrame, [1], "instance of DataFrame"),
        (Image, IMAGE.pixels, "instance of Image"),
        (Foreign, 3, "Foreign"),
        (Annotated[int, Field(ge=0)], -1, "greater than or equal"),
        (None, 3, "should be None"),
    ],
    ids=str,
)
def test_any_other_result_is_refused_and_named(type_: Any, value: Any, where: str) -> None:
    conform = conform_to(type_)
    assert conform is not None
    with pytest.raises(DefinitionError, match=where) as caught:
        conform(value)
    assert type(value).__name__ in str(caught.value)
    assert "expected" in str(caught.value)


@pytest.mark.parametrize("type_", [Any, object], ids=str)
def test_any_value_fits_no_check(type_: Any) -> None:
    assert conform_to(type_) is None


@pytest.mark.parametrize(("type_", "value"), [(Literal[1], True), (Literal[True], 1)])
def test_true_is_not_one(type_: Any, value: Any) -> None:
    conform = conform_to(type_)
    assert conform is not None
    with pytest.raises(DefinitionError):
        conform(value)


def test_a_scalar_of_numpy_is_an_array_without_dimensions() -> None:
    conform = conform_to(np.ndarray)
    assert conform is not None
    array = conform(np.float32(1.5))
    assert (type(array), array.dtype, array.shape) == (np.ndarray, np.float32, ())


def test_validators_do_not_run_again() -> None:
    for type_, value in (
        (Price, Price(eur=1250)),
        (list[Price], [Price(eur=1250)]),
        (Annotated[float, AfterValidator(halved)], 100.0),
    ):
        conform = conform_to(type_)
        assert conform is not None
        assert conform(value) == value
    assert calls == []


def test_an_iterator_is_not_read() -> None:
    numbers = iter([1, 2])
    conform = conform_to(Iterator[int])
    assert conform is None or conform(numbers) is numbers
    assert list(numbers) == [1, 2]


@step
def count(x: int) -> Result:
    return {"n": "many" if x < 0 else x}  # type: ignore[return-value]


@pipeline
def counted(x: int) -> Result:
    return count(x)


def test_a_step_is_checked_in_a_pipeline_and_by_itself() -> None:
    assert count(3) == counted(3) == Result(n=3)
    with pytest.raises(StepError, match="does not match its annotation") as caught:
        counted(-1)
    assert caught.value.step == "count"
    assert caught.value.expected == "Result"
    with pytest.raises(DefinitionError, match="does not match its annotation"):
        count(-1)


@step
async def count_async(x: int) -> Result:
    return {"n": "many" if x < 0 else x}  # type: ignore[return-value]


@pipeline
def counted_async(x: int) -> Result:
    return count_async(x)


def test_an_async_step_is_checked() -> None:
    assert counted_async(3) == Result(n=3)
    with pytest.raises(StepError, match="does not match its annotation"):
        counted_async(-1)


@batched_step
def count_batch(xs: list[int]) -> list[Result]:
    return [{"n": "many" if x < 0 else x} for x in xs]  # type: ignore[misc]


@pipeline
def counted_in_batches(x: int) -> Result:
    return count_batch(x)


def test_one_wrong_result_of_a_batch_fails_alone() -> None:
    results = counted_in_batches.map([1, -1, 2], on_error="keep", progress=False)
    assert [results[0], results[2]] == [Result(n=1), Result(n=2)]
    assert isinstance(results[1], StepError)
    assert count_batch.batch([1, 2]) == [Result(n=1), Result(n=2)]


@step
def anything(x: int) -> Any:
    return "text" if x < 0 else x


@pipeline
def number(x: int) -> int:
    return anything(x)


def test_a_result_of_any_type_is_checked_against_the_pipelines_annotation() -> None:
    assert number(3) == 3
    with pytest.raises(StepError, match="does not match its annotation") as caught:
        number(-1)
    assert caught.value.step == "anything"
