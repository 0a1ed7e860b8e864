"""What a step's result refuses while its pipeline is traced, and what it allows."""

import asyncio
import dataclasses
import math
import operator
from typing import Any, NamedTuple

import numpy as np
import pydantic
import pytest

from mlkit.define import step
from mlkit.define.graph import Argument, Result
from mlkit.define.tracing import Placeholder
from mlkit.errors import PlaceholderError
from mlkit.pipelines import pipeline


@step
def number(x: int) -> int:
    return x


@pytest.fixture
def placeholder() -> Placeholder:
    return Placeholder(Result("number"), int, "the result of step 'number'")


def use_with(value: Any) -> None:
    with value:
        pass


def set_item(value: Any) -> None:
    value[0] = 1


def delete_item(value: Any) -> None:
    del value[0]


async def wait_for(value: Any) -> None:
    await value


OPERATORS = (
    ("+", operator.add),
    ("-", operator.sub),
    ("*", operator.mul),
    ("@", operator.matmul),
    ("/", operator.truediv),
    ("//", operator.floordiv),
    ("%", operator.mod),
    ("power", operator.pow),
    ("&", operator.and_),
    ("|", operator.or_),
    ("^", operator.xor),
    ("<<", operator.lshift),
    (">>", operator.rshift),
)

REFUSED = {
    "bool": bool,
    "if": lambda v: 1 if v else 2,
    "and": lambda v: v and 1,
    "not": operator.not_,
    "==": lambda v: v == 1,
    "!=": lambda v: v != 1,
    "<": lambda v: v < 1,
    "<=": lambda v: v <= 1,
    ">": lambda v: v > 1,
    ">=": lambda v: v >= 1,
    "hash": hash,
    "key": lambda v: {v: 1},
    "in a list": lambda v: v in [1, 2],
    "divmod": lambda v: divmod(v, 2),
    "neg": operator.neg,
    "pos": operator.pos,
    "abs": abs,
    "invert": operator.invert,
    "round": round,
    "trunc": math.trunc,
    "path": open,
    "array": np.asarray,
    "array of them": lambda v: np.stack([v, v]),
    "numpy on the left": lambda v: np.float64(1) * v,
    "max": lambda v: max(v, 1),
    "sum": lambda v: sum([v]),
    "next": next,
    "floor": math.floor,
    "ceil": math.ceil,
    "int": int,
    "float": float,
    "complex": complex,
    "index": operator.index,
    "len": len,
    "iter": iter,
    "for": lambda v: [x + 1 for x in v],
    "unpack": lambda v: (lambda a, b: a)(*v),
    "reversed": reversed,
    "contains": lambda v: 1 in v,
    "item": lambda v: v[0],
    "slice": lambda v: v[1:],
    "set item": set_item,
    "delete item": delete_item,
    "str": str,
    "format": lambda v: f"{v}",
    "format spec": lambda v: f"{v:.2f}",
    "bytes": bytes,
    "call": lambda v: v(),
    "await": lambda v: asyncio.run(wait_for(v)),
    "with": use_with,
    "attribute": lambda v: v.size,
    "method": lambda v: v.upper(),
    "set attribute": lambda v: setattr(v, "size", 1),
    "delete attribute": lambda v: delattr(v, "size"),
    "**": lambda v: dict(**v),
}


@pytest.mark.parametrize(("sign", "operate"), OPERATORS)
def test_it_is_not_calculated_with(placeholder: Placeholder, sign: str, operate: Any) -> None:
    with pytest.raises(PlaceholderError, match="calculated with"):
        operate(placeholder, 1)
    with pytest.raises(PlaceholderError, match="calculated with"):
        operate(1, placeholder)


@pytest.mark.parametrize("use", REFUSED.values(), ids=REFUSED.keys())
def test_it_has_no_value_to_use(placeholder: Placeholder, use: Any) -> None:
    with pytest.raises(PlaceholderError) as caught:
        use(placeholder)
    assert "the result of step 'number'" in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize("look", [repr, lambda v: f"{v!r}"])
def test_its_repr_says_what_it_stands_for(placeholder: Placeholder, look: Any) -> None:
    assert look(placeholder) == "<the result of step 'number': int>"


def test_a_cell_that_shows_one_does_not_fail(placeholder: Placeholder) -> None:
    assert not hasattr(placeholder, "_repr_html_")
    assert not hasattr(placeholder, "_ipython_display_")


def test_is_none_cannot_be_refused_and_is_false(placeholder: Placeholder) -> None:
    assert placeholder is not None


def test_the_error_names_where_it_stands_in_a_pipeline() -> None:
    with pytest.raises(PlaceholderError, match="the argument 'x' of pipeline 'tag'") as caught:

        @pipeline
        def tag(x: int) -> int:
            return number(1) if x else number(2)

    assert "condition" in str(caught.value)
    assert "inside a step" in str(caught.value)


class Model(pydantic.BaseModel):
    name: str
    inner: "Inner"


class Inner(pydantic.BaseModel):
    score: float


@dataclasses.dataclass
class Data:
    name: str
    pair: tuple[int, str]


class Named(NamedTuple):
    name: str
    score: float


@pytest.mark.parametrize(("declared", "field"), [(Model, "name"), (Data, "name"), (Named, "score")])
def test_a_declared_field_is_a_part_of_the_result(declared: type, field: str) -> None:
    picked = getattr(Placeholder(Result("a"), declared, "a"), field)
    assert picked._mlkit_source == Result("a", (field,))


def test_fields_of_fields_and_members_of_them_are_followed() -> None:
    a: Any = Placeholder(Argument("a"), Model, "a")
    assert a.inner.score._mlkit_source == Argument("a", ("inner", "score"))
    assert a.inner.score._mlkit_type is float
    _, second = Placeholder(Result("d"), Data, "d").pair
    assert second._mlkit_source == Result("d", ("pair", 1))
    assert second._mlkit_type is str


def test_a_field_that_is_not_declared_is_refused_with_those_that_are() -> None:
    with pytest.raises(PlaceholderError, match="one of name, inner"):
        _ = Placeholder(Result("a"), Model, "a").nmae


def test_a_method_is_not_a_field() -> None:
    with pytest.raises(PlaceholderError, match="no declared field 'model_dump'"):
        Placeholder(Result("a"), Model, "a").model_dump()


@pytest.mark.parametrize("declared", [tuple[int, str], Named])
def test_a_tuple_of_known_length_is_unpacked(declared: Any) -> None:
    first, second = Placeholder(Result("a"), declared, "a")
    assert first._mlkit_source == Result("a", (0,))
    assert second._mlkit_source == Result("a", (1,))


@pytest.mark.parametrize("declared", [tuple, tuple[int, ...], list[int], str, int])
def test_nothing_else_is_unpacked(declared: Any) -> None:
    with pytest.raises(PlaceholderError, match=r"annotate the step's return as tuple\[A, B\]"):
        _, _ = Placeholder(Result("a"), declared, "a")


def test_unpacking_into_too_few_names_is_pythons_own_error() -> None:
    with pytest.raises(ValueError, match="too many values"):
        _, _ = Placeholder(Result("a"), tuple[int, int, int], "a")
