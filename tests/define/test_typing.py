"""Whether one type goes into another, and what is in a type."""

# ruff: noqa: UP007, UP045 -- the old spellings are what is tested

import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, Optional, Protocol, TypeVar, Union

import numpy as np
import numpy.typing as npt
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import TypeAliasType

from mlkit.define.types import ImageSource, Upload
from mlkit.define.typing import field_types, fits, item_type, refreshed, show, tuple_types

T = TypeVar("T")
Words = TypeAliasType("Words", list[str])
Several = TypeAliasType("Several", list[T], type_params=(T,))  # as NDArray is made
Metres = TypeAliasType("Metres", Annotated[Words, "metres"])


class Animal:
    pass


class Dog(Animal):
    pass


class Sized(Protocol):
    def __len__(self) -> int: ...


class Label(NamedTuple):
    name: str
    score: float


class Model(pydantic.BaseModel):
    name: str
    score: float | None = None


FITS = [
    (int, int),
    (Dog, Animal),
    (bool, int),
    (int, float),
    (Dog, Animal | None),
    (None, Animal | None),
    (None, type(None)),
    (Optional[Dog], Union[Animal, None]),
    (int | str, str | int | None),
    (Any, Dog),
    (Dog, Any),
    (Dog, object),
    (Parameter.empty, Dog),
    (T, Dog),
    (list[Dog], list[Animal]),
    (list[Dog], Sequence[Animal]),
    (list[Dog], Iterable[Animal]),
    (list, list[Dog]),
    (list[Dog], list),
    (list[Any], list[Dog]),
    (dict[str, Dog], Mapping[str, Animal]),
    (tuple[int, str], tuple[int, str]),
    (tuple[bool, str], tuple[int, str]),
    (tuple[int, int], tuple[int, ...]),
    (tuple[int, ...], Sequence[int]),
    (tuple[int, str], Sequence[int | str]),
    (Label, tuple),
    (str, Sequence[str]),
    (Literal["a"], str),
    (Literal["a"], Literal["a", "b"]),
    (Literal["a", 1], str | int),
    (Literal["a"], Literal["a"] | None),
    (Literal["a"] | None, Literal["a", "b"] | None),
    (Annotated[int, "metres"], int),
    (int, Annotated[int, "metres"]),
    (np.ndarray, npt.NDArray[np.float32]),
    (npt.NDArray[np.uint8], np.ndarray),
    (list[int], Sized),
    (Callable[[int], str], Callable[[int], str]),
    (ImageSource, str | bytes),
    (str, ImageSource),
    (type[Dog], type[Animal]),
    (Words, list[str]),
    (list[str], Metres),
    (Several[Dog], Sequence[Animal]),
]

DOES_NOT = [
    (int, str),
    (Animal, Dog),
    (float, int),
    (str, bytes),
    (Animal | None, Animal),
    (Animal | None, Dog | None),
    (int | str, int),
    (None, int),
    (list[Animal], list[Dog]),
    (list[int], list[str]),
    (list[int], tuple[int, ...]),
    (dict[str, int], dict[str, str]),
    (dict[str, int], list[int]),
    (tuple[int, str], tuple[str, int]),
    (tuple[int, str], tuple[int, str, int]),
    (tuple[int, ...], tuple[int, int]),
    (tuple[int, str], tuple[int, ...]),
    (tuple[int, str], Sequence[int]),
    (Literal["c"], Literal["a", "b"]),
    (str, Literal["a"]),
    (str, Literal["a"] | None),
    (Literal[1], Literal[True]),
    (Literal["a", None], str),
    (Literal["a"], int),
    (Annotated[int, "metres"], str),
    (np.ndarray, list),
    (Path, str),
    (Label, Model),
    (ImageSource, bytes),
    (Words, list[int]),
    (Several[Animal], list[Dog]),
]


@pytest.mark.parametrize(("value", "place"), FITS, ids=str)
def test_it_fits(value: Any, place: Any) -> None:
    assert fits(value, place)


@pytest.mark.parametrize(("value", "place"), DOES_NOT, ids=str)
def test_it_does_not_fit(value: Any, place: Any) -> None:
    assert not fits(value, place)


simple = st.sampled_from([int, str, bytes, bool, float, Dog, Animal, Label, Model, type(None)])
types = st.recursive(
    simple,
    lambda inner: st.one_of(
        inner.map(lambda t: list[t]),  # type: ignore[valid-type]
        inner.map(lambda t: Sequence[t]),  # type: ignore[valid-type]
        inner.map(lambda t: tuple[t, ...]),  # type: ignore[valid-type]
        st.tuples(inner, inner).map(lambda ts: tuple[ts]),
        st.tuples(inner, inner).map(lambda ts: dict[ts]),
        st.tuples(inner, inner).map(lambda ts: Union[ts]),
        inner.map(lambda t: Annotated[t, "said"]),
    ),
    max_leaves=6,
)


@given(types)
def test_a_type_fits_itself_and_what_is_wider(type_: Any) -> None:
    assert fits(type_, type_)
    assert fits(type_, Union[type_, None])
    assert fits(type_, Any)
    assert fits(list[type_], Sequence[type_])
    assert fits(Annotated[type_, "x"], type_)


@given(types, types)
def test_a_union_fits_where_each_of_its_members_does(one: Any, other: Any) -> None:
    assert fits(Union[one, other], object)
    for place in (int, Animal, one, list[other]):
        both = fits(one, place) and fits(other, place)
        assert fits(Union[one, other], place) == both


@given(types, types)
def test_every_question_has_an_answer(one: Any, other: Any) -> None:
    assert fits(one, other) in (True, False)
    assert isinstance(show(one), str)


@pytest.mark.parametrize(
    ("type_", "text"),
    [
        (int, "int"),
        (None, "None"),
        (Parameter.empty, "?"),
        (Any, "Any"),
        (list[Label], "list[Label]"),
        (Optional[Label], "Label | None"),
        (dict[str, list[int]], "dict[str, list[int]]"),
        (tuple[int, ...], "tuple[int, ...]"),
        (Sequence[Model], "Sequence[Model]"),
        (Literal["a", 1], "Literal['a', 1]"),
        (Annotated[int, "metres"], "int"),
        (npt.NDArray[np.uint8], "ndarray"),
        (np.ndarray, "ndarray"),
        (ImageSource, "ImageSource"),
        (list[ImageSource], "list[ImageSource]"),
        (ImageSource | None, "ImageSource | None"),
        (Callable[[int], str], "Callable[[int], str]"),
        (Annotated[bytes, Upload()], "bytes"),
        (T, "T"),
        ("Label", "Label"),
        (type[Dog], "type[Dog]"),
        (Words, "list[str]"),
        (Several[int], "list[int]"),
    ],
    ids=str,
)
def test_a_type_is_shown_as_a_person_writes_it(type_: Any, text: str) -> None:
    assert show(type_) == text


@pytest.mark.parametrize(
    ("type_", "item"),
    [
        (list[int], int),
        (Sequence[Label], Label),
        (tuple[int, ...], int),
        (list, Any),
        (np.ndarray, Any),
        (npt.NDArray[np.uint8], Any),
        (Any, Any),
        (Parameter.empty, Parameter.empty),
        (Annotated[list[int], "x"], int),
        (Metres, str),
        (Several[int], int),
        (str, Parameter.empty),
        (bytes, Parameter.empty),
        (int, Parameter.empty),
        (tuple[int, str], Parameter.empty),
        (tuple[int, str, float], Parameter.empty),
        (dict[str, int], Parameter.empty),
    ],
    ids=str,
)
def test_the_type_of_one_item(type_: Any, item: Any) -> None:
    assert item_type(type_) == item


def test_fields_of_models_dataclasses_and_named_tuples() -> None:
    @dataclasses.dataclass
    class Data:
        size: int
        words: list[str]

    assert field_types(Data) == {"size": int, "words": list[str]}
    assert field_types(Model) == {"name": str, "score": float | None}
    assert field_types(Label) == {"name": str, "score": float}
    assert field_types(Annotated[Label, "x"]) == {"name": str, "score": float}


@pytest.mark.parametrize("type_", [int, dict[str, int], Any, None, "Label", Label | None])
def test_nothing_else_has_fields(type_: Any) -> None:
    assert field_types(type_) is None


def test_tuples_of_known_length() -> None:
    assert tuple_types(tuple[int, str]) == (int, str)
    assert tuple_types(Label) == (str, float)
    assert tuple_types(tuple[int, ...]) is None
    assert tuple_types(tuple) is None
    assert tuple_types(list[int]) is None


def test_a_field_that_names_something_undefined_is_of_any_type() -> None:
    @dataclasses.dataclass
    class Data:
        size: "Nowhere"  # type: ignore[name-defined]  # noqa: F821

    assert field_types(Data) == {"size": Any}


def test_a_class_of_a_cell_that_was_run_again_is_the_current_one(monkeypatch) -> None:
    main = sys.modules["__main__"]
    old, new, other = (type("Label", (), {"__module__": "__main__"}) for _ in range(3))
    monkeypatch.setattr(main, "Label", new, raising=False)
    assert refreshed(old) is new
    assert refreshed(list[old]) == list[new]
    assert (
        refreshed(Annotated[dict[str, old | None], "mark"])
        == Annotated[dict[str, new | None], "mark"]
    )
    assert refreshed(tuple[old, ...]) == tuple[new, ...]
    for untouched in (int, list[int], Any, None, Literal["a"], new, int | None):
        assert refreshed(untouched) is untouched
    monkeypatch.setattr(main, "Label", other.__name__)  # the name stands for something else now
    assert refreshed(old) is old


class Page(pydantic.BaseModel, Generic[T]):
    item: T


def test_a_generic_model_is_refreshed_by_its_arguments(monkeypatch) -> None:
    one, two = (pydantic.create_model("Item", n=(int, ...)) for _ in range(2))
    first, second = Page[one], Page[two]
    for page in (first, second):  # as those that a cell makes
        page.__module__ = "__main__"
    monkeypatch.setattr(sys.modules["__main__"], first.__qualname__, first, raising=False)
    assert refreshed(first) is first
    assert refreshed(second) is second
    old, new = (pydantic.create_model("Label", __module__="__main__") for _ in range(2))
    monkeypatch.setattr(sys.modules["__main__"], "Label", new, raising=False)
    assert refreshed(list[Page[old]]) == list[Page[new]]
