"""What functions change outside of a request."""

import io
import itertools
import random
import types
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlkit import resource
from mlkit.define.shared import changed_state

SEEN: list[int] = []
COUNTS: dict[str, int] = {}
TAGS: set[str] = set()
TOTALS = Counter({"a": 1})
TABLE = pd.DataFrame({"a": [1]})
ARRAY = np.zeros(3)
NUMBER = 0
NESTED = {"inner": {"list": [1]}}
STATE = types.SimpleNamespace(count=0)


class Account:
    total = 0

    def __init__(self) -> None:
        self.items: list[int] = []


ACCOUNT = Account()


def append_item(x: int) -> None:
    SEEN.append(x)


def assign_item(x: str) -> None:
    COUNTS[x] = 1


def augment_item(x: str) -> None:
    COUNTS[x] += 1


def delete_item(x: str) -> None:
    del COUNTS[x]


def add_item(x: str) -> None:
    TAGS.add(x)


def update_counts(x: str) -> None:
    TOTALS.update([x])


def assign_location(x: int) -> None:
    TABLE.loc[0, "a"] = x


def sort_in_place(x: int) -> None:
    TABLE.sort_values("a", inplace=True)


def assign_slice(x: int) -> None:
    ARRAY[:2] = x


def rebind_global(x: int) -> None:
    global NUMBER
    NUMBER = x


def augment_global(x: int) -> None:
    global NUMBER
    NUMBER += x


def change_nested(x: int) -> None:
    NESTED["inner"]["list"].append(x)


def unpack_into_item(x: int) -> None:
    (COUNTS["a"], _) = x, x


def assign_attribute(x: int) -> None:
    STATE.count = x


def append_to_attribute(x: int) -> None:
    ACCOUNT.items.append(x)


def assign_class_attribute(x: int) -> None:
    Account.total += x


def by_another_function(x: int) -> None:
    append_item(x)


def inside_another_function(x: int) -> None:
    def inner() -> None:
        SEEN.append(x)

    inner()


def resource_value(x: int, *, table: Any = resource(value={"a": 1})) -> None:
    table["a"] = x


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (append_item, "SEEN"),
        (assign_item, "COUNTS"),
        (augment_item, "COUNTS"),
        (delete_item, "COUNTS"),
        (add_item, "TAGS"),
        (update_counts, "TOTALS"),
        (assign_location, "TABLE"),
        (sort_in_place, "TABLE"),
        (assign_slice, "ARRAY"),
        (rebind_global, "NUMBER"),
        (augment_global, "NUMBER"),
        (change_nested, "NESTED"),
        (unpack_into_item, "COUNTS"),
        (assign_attribute, "STATE"),
        (append_to_attribute, "ACCOUNT"),
        (assign_class_attribute, "Account"),
        (by_another_function, "SEEN"),
        (inside_another_function, "SEEN"),
        (resource_value, "table"),
    ],
)
def test_what_a_function_changes_outside_of_it_is_named(function: Any, name: str) -> None:
    assert list(changed_state([function])) == [name]


def test_variables_of_an_enclosing_function_count_as_well() -> None:
    memo: dict[int, int] = {}
    number = 0

    def change(x: int) -> int:
        nonlocal number
        number += 1
        memo[x] = number
        return x

    assert set(changed_state([change])) == {"memo", "number"}


def reads(x: int) -> int:
    return len(SEEN) + COUNTS.get("a", 0) + SEEN[0] + STATE.count


def changes_a_copy(x: int) -> list[int]:
    SEEN = [x]  # noqa: N806
    SEEN.append(x)
    return SEEN


def changes_its_argument(seen: list[int]) -> list[int]:
    seen.append(1)
    return seen


def changes_a_loaded_resource(x: int, *, cache: Any = resource(dict)) -> int:
    cache[x] = x
    return x


def seeds(x: int) -> None:
    np.random.default_rng(x)
    pd.options.display.width = 80


IDS = itertools.count()
LINES = io.StringIO("a")
RNG, LEGACY, PYTHONS = np.random.default_rng(0), np.random.RandomState(0), random.Random(0)


def advances_an_iterator(x: int) -> int:
    return next(IDS)


def reads_a_file(x: int) -> str:
    return LINES.readline()


def draws(x: int) -> float:
    return RNG.random()


def draws_as_before(x: int) -> float:
    return LEGACY.rand()


def draws_from_pythons(x: int) -> float:
    return PYTHONS.random()


def sets_an_attribute_of_a_function(x: int) -> None:
    reads.calls = x


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (advances_an_iterator, "IDS"),
        (reads_a_file, "LINES"),
        (draws, "RNG"),
        (draws_as_before, "LEGACY"),
        (draws_from_pythons, "PYTHONS"),
        (sets_an_attribute_of_a_function, "reads"),
    ],
)
def test_what_changes_by_being_used_is_named(function: Any, name: str) -> None:
    assert list(changed_state([function])) == [name]


@pytest.mark.parametrize(
    "function",
    [reads, changes_a_copy, changes_its_argument, changes_a_loaded_resource, seeds, print],
)
def test_what_stays_within_a_call_or_a_process_is_not(function: Any) -> None:
    assert changed_state([function]) == {}
