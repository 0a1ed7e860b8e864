"""Copies of data for each request."""

from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import BaseModel, ConfigDict

from mlkit.define.fresh import fresh, is_shared

Pair = namedtuple("Pair", "a b")


@dataclass
class Box:
    items: list[int] = field(default_factory=lambda: [1])


@dataclass(frozen=True)
class Fixed:
    number: int = 1


@dataclass(frozen=True)
class Holder:
    items: list[int] = field(default_factory=lambda: [1])


class Model(BaseModel):
    items: list[int] = [1]


class FixedModel(BaseModel):
    model_config = ConfigDict(frozen=True)
    number: int = 1


class Net:
    """A model, which is no data."""

    def __repr__(self) -> str:  # the same in all processes, for the names of tests
        return "Net()"


@pytest.mark.parametrize(
    "value",
    [
        [1],
        {"a": 1},
        {1},
        bytearray(b"x"),
        deque([1], maxlen=3),
        Counter("aab"),
        defaultdict(list, a=[1]),
        OrderedDict(a=1),
        ([1], 2),
        Pair([1], 2),
        Box(),
        Holder(),
        Model(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_copy_is_equal_and_of_the_same_type(value: Any) -> None:
    copy = fresh(value)
    assert copy is not value
    assert not is_shared(value)
    assert (copy, type(copy)) == (value, type(value))


def test_a_copy_goes_all_the_way_down() -> None:
    value = {"a": [Box(), (Model(), {"b": np.zeros(2)})]}
    copy = fresh(value)
    copy["a"][0].items.append(2)
    copy["a"][1][0].items.append(2)
    copy["a"][1][1]["b"][0] = 1
    assert value["a"][0].items == [1]
    assert value["a"][1][0].items == [1]
    assert value["a"][1][1]["b"].tolist() == [0, 0]


def test_arrays_and_tables_are_copied() -> None:
    array, frame = np.zeros(2), pd.DataFrame({"a": [1]})
    fresh(array)[0] = 1
    copy = fresh(frame)
    copy.loc[0, "a"] = 2
    assert array.tolist() == [0, 0]
    assert frame.a.tolist() == [1]


@pytest.mark.parametrize(
    "value",
    [None, 1, "text", b"x", (1, "a"), frozenset({1}), Fixed(), FixedModel(), Net(), Box, len],
    ids=repr,
)
def test_what_cannot_change_or_is_no_data_is_shared(value: Any) -> None:
    assert fresh(value) is value
    assert is_shared(value)


def test_what_is_no_data_is_shared_within_data() -> None:
    net = Net()
    assert fresh([net])[0] is net
