"""Parameters whose values a function changes, as its source shows."""

import copy
import dataclasses
import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import BaseModel

from mlkit import resource, step
from mlkit.define.mutation import changed_parameters


class Model(BaseModel):
    items: list[int] = []
    count: int = 0


@dataclass
class Basket:
    items: list[int] = field(default_factory=list)
    model: Model = field(default_factory=Model)

    def put(self, item: int) -> None:
        self.items.append(item)

    def total(self) -> int:
        return sum(self.items)

    def first(self) -> "Basket":
        return self


def append(rows: list[int]) -> None:
    rows.append(1)


def assign_item(record: dict[str, int]) -> None:
    record["k"] = 1


def augment_item(record: dict[str, int]) -> None:
    record["k"] += 1


def delete_item(record: dict[str, int]) -> None:
    del record["k"]


def assign_column(frame: pd.DataFrame) -> None:
    frame["k"] = 1


def assign_location(frame: pd.DataFrame) -> None:
    frame.loc[0, "k"] = 1


def sort_in_place(frame: pd.DataFrame) -> None:
    frame.sort_values("k", inplace=True)


def augment(array: np.ndarray) -> None:
    array *= 2


def assign_slice(array: np.ndarray) -> None:
    array[:, 0] = 1


def output_into(array: np.ndarray) -> None:
    np.clip(array, 0, 1, out=array)


def change_view(array: np.ndarray) -> None:
    flat = np.asarray(array).reshape(-1)
    flat[0] = 1


def change_slice(array: np.ndarray) -> None:
    half = array[:2]
    half += 1


def in_place_of_torch(tensor: Any) -> None:
    tensor.clamp_(0)


def assign_attribute(model: Model) -> None:
    model.count = 1


def append_to_attribute(model: Model) -> None:
    model.items.append(1)


def augment_attribute(model: Model) -> None:
    model.count += 1


def set_attribute(model: Model) -> None:
    setattr(model, "count", 1)  # noqa: B010


def shuffle(rows: list[int]) -> None:
    random.shuffle(rows)


def push(rows: list[int]) -> None:
    heapq.heappush(rows, 1)


def augment_list(rows: list[int]) -> None:
    rows += [1]


def alias(rows: list[int]) -> None:
    same = rows
    same.append(1)


def bound_method(rows: list[int]) -> None:
    add = rows.append
    add(1)


def item_of_loop(rows: list[dict[str, int]]) -> None:
    for row in rows:
        row["k"] = 1


def item_of_enumerate(rows: list[dict[str, int]]) -> None:
    for i, row in enumerate(rows):
        row["k"] = i


def value_of_items(records: dict[str, list[int]]) -> None:
    for name, values in records.items():
        if name:
            values.append(1)


def item_of_get(records: dict[str, list[int]]) -> None:
    records.setdefault("k", []).append(1)


def item_of_shallow_copy(rows: list[dict[str, int]]) -> None:
    new = rows.copy()
    new[0]["k"] = 1


def item_of_new_list(rows: list[dict[str, int]]) -> None:
    chosen = [row for row in rows if row]
    chosen[0]["k"] = 1


def item_of_filled_list(rows: list[dict[str, int]]) -> None:
    chosen = []
    for row in rows:
        chosen.append(row)  # noqa: PERF402
    chosen[0]["k"] = 1


def in_comprehension(rows: list[list[int]]) -> None:
    [row.append(1) for row in rows]


def in_branch(rows: list[int]) -> None:
    if len(rows) > 3:
        rows = list(rows)
    rows.append(1)


def in_handler(rows: list[int]) -> None:
    try:
        len(rows)
    except ValueError:
        rows.clear()


def in_match(rows: list[list[int]]) -> None:
    match rows:
        case [first, *_]:
            first.append(1)


def in_second_round(rows: list[int]) -> None:
    current: list[int] = []
    while len(current) < 3:
        current.append(1)
        current = rows


def in_inner_function(rows: list[int]) -> None:
    def add() -> None:
        rows.append(1)

    add()


def through_inner_function(rows: list[int]) -> None:
    def add(to: list[int]) -> None:
        to.append(1)

    add(rows)


def through_helper(rows: list[int]) -> None:
    append(rows)


def through_keyword(rows: list[int]) -> None:
    append(rows=rows)


def itself(values: list[int]) -> list[int]:
    return values


def through_returned(rows: list[int]) -> None:
    itself(rows).append(1)


def through_decorated(rows: list[int]) -> None:
    decorated(rows)


def through_recursion(rows: list[int], n: int = 2) -> None:
    if n:
        through_recursion(rows, n - 1)
    else:
        rows.append(1)


def through_method(basket: Basket) -> None:
    basket.put(1)


def through_method_of_item(baskets: list[Basket]) -> None:
    for _, basket in enumerate(baskets):
        basket.first().put(1)


def through_constructor(rows: list[int]) -> None:
    basket = Basket(rows)
    basket.items.append(1)


def unpacked(pair: tuple[list[int], int]) -> None:
    first, _ = pair
    first.append(1)


def drawn(picture: Any) -> None:
    from PIL import ImageDraw

    draw = ImageDraw.Draw(picture)
    draw.line((0, 0, 1, 1))


def decorator(fn: Callable[..., Any]) -> Callable[..., Any]:
    import functools

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return call


@decorator
def decorated(rows: list[int]) -> None:
    rows.append(1)


CHANGING = [
    *(append, assign_item, augment_item, delete_item, assign_column, assign_location),
    *(sort_in_place, augment, assign_slice, output_into, change_view, change_slice),
    *(in_place_of_torch, assign_attribute, append_to_attribute, augment_attribute, set_attribute),
    *(shuffle, push, augment_list, alias, bound_method, item_of_loop, item_of_enumerate),
    *(value_of_items, item_of_get, item_of_shallow_copy, item_of_new_list, item_of_filled_list),
    *(in_comprehension, in_branch, in_handler, in_match, in_second_round, in_inner_function),
    *(through_inner_function, through_helper, through_keyword, through_returned),
    *(through_decorated, through_recursion, through_method, through_method_of_item),
    *(through_constructor, unpacked, drawn, decorated),
]


def reads(rows: list[dict[str, int]]) -> int:
    total = 0
    for row in rows:
        total += row["k"]
        count = row["k"]
        count += 1
    first = rows[0]["k"]
    first += total
    return first


def reads_shape(array: np.ndarray) -> int:
    height, width = array.shape[:2]
    height += 1
    return height * width


def changes_a_copy(rows: list[int]) -> list[int]:
    rows = list(rows)
    rows.append(1)
    return rows


def changes_a_slice_of_a_list(rows: list[int]) -> list[int]:
    new = rows[1:]
    new.append(1)
    return new


def changes_a_copied_frame(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.copy()
    frame["k"] = 1
    frame.loc[0, "k"] = 2
    return frame


def changes_a_result(frame: pd.DataFrame) -> pd.DataFrame:
    new = frame.assign(k=1).reset_index(drop=True)
    new["k"] = 2
    return new


def changes_a_deep_copy(rows: list[list[int]]) -> None:
    new = copy.deepcopy(rows)
    new[0].append(1)


def changes_a_replaced_one(basket: Basket) -> Basket:
    new = dataclasses.replace(basket, items=[])
    new.model = Model()
    return new


def changes_an_updated_dict(record: dict[str, int]) -> dict[str, int]:
    new = {**record, "k": 1}
    new["l"] = 2
    return new


def computes(array: np.ndarray) -> np.ndarray:
    new = array * 2
    new += 1
    new[0] = 3
    return new


def converts(array: np.ndarray) -> np.ndarray:
    new = array.astype(float)
    new /= 255
    return new


def collects(rows: list[int]) -> list[int]:
    out: list[int] = []
    for row in rows:
        out.append(row)  # noqa: PERF402
    return out


def groups(rows: list[str]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for row in rows:
        grouped.setdefault(row[0], []).append(row)
    return grouped


def counts(n: int, text: str | None) -> str:
    n += 1
    text = text or ""
    text += "!"
    return text * n


def shadows(rows: list[int]) -> int:
    return len([rows.append(1) for rows in [[0]]])  # type: ignore[func-returns-value]


def asks(basket: Basket) -> int:
    return basket.total()


def rebinds(rows: list[int]) -> list[int]:
    rows = [2 * row for row in rows]
    rows.sort()
    return rows


@pytest.mark.parametrize("function", CHANGING, ids=lambda fn: fn.__name__)
def test_a_parameter_that_is_changed_is_named(function: Any) -> None:
    (first, *_) = function.__annotations__
    assert changed_parameters(function) == {first}


@pytest.mark.parametrize(
    "function",
    [
        *(reads, reads_shape, changes_a_copy, changes_a_slice_of_a_list, changes_a_copied_frame),
        *(changes_a_result, changes_a_deep_copy, changes_a_replaced_one, changes_an_updated_dict),
        *(computes, converts, collects, groups, counts, shadows, asks, rebinds),
    ],
    ids=lambda fn: fn.__name__,
)
def test_one_that_is_read_or_copied_first_is_not(function: Any) -> None:
    assert changed_parameters(function) == frozenset()


def test_a_step_changes_its_inputs_and_not_its_resources() -> None:
    @step
    def change(rows: list[int], n: int, *, table: dict[str, int] = resource(dict)) -> int:
        rows.append(n)
        table["k"] = 1
        return n

    assert change.changes == {"rows"}


def test_what_a_step_changes_is_known_where_its_source_is_not() -> None:
    from mlkit.define.shipping import dumps, loads

    @step
    def change(rows: list[int]) -> int:
        rows.append(1)
        return len(rows)

    shipped = loads(dumps(change))
    code = shipped.fn.__code__.replace(co_filename="<elsewhere>", co_firstlineno=10_000)
    shipped.fn.__code__ = code
    assert changed_parameters(shipped.fn) == frozenset()
    assert shipped.changes == {"rows"}
