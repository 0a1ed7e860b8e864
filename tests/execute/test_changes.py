"""A step that changes an argument in place is the only one to see the change, wherever it runs."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pydantic import BaseModel

from mlkit import batched_step, each, pipeline, step
from mlkit.execute import Executor, compile_graph
from mlkit.plan import cut
from mlkit.serving.replica.remote import pack, unpack


class Model(BaseModel):
    items: list[int] = [1]


@dataclass
class Basket:
    items: list[int] = field(default_factory=lambda: [1])


@dataclass(frozen=True)
class Frozen:
    items: list[int] = field(default_factory=lambda: [1])


class Plain:
    def __init__(self) -> None:
        self.items = [1]

    def put(self, item: int) -> None:
        self.items.append(item)


class Slotted:
    __slots__ = ("items",)

    def __init__(self) -> None:
        self.items = [1]


def change_list(value: list[int]) -> int:
    value.append(1)
    return len(value)


def change_dict(value: dict[str, int]) -> int:
    value["k"] = 1
    return len(value)


def change_nested(value: dict[str, list[int]]) -> int:
    value["a"] += [1]
    return len(value["a"])


def change_set(value: set[int]) -> int:
    value |= {9}
    return len(value)


def change_frame(value: pd.DataFrame) -> int:
    value.loc[0, "a"] = 5
    return int(value["a"].sum())


def change_array(value: np.ndarray) -> int:
    value *= 2
    return int(value.sum())


def change_tensor(value: torch.Tensor) -> int:
    value.mul_(2)
    return int(value.sum())


def change_picture(value: Image.Image) -> int:
    value.putpixel((0, 0), 7)
    return int(value.getpixel((0, 0)))  # type: ignore[arg-type]


def change_model(value: Model) -> int:
    value.items.append(1)
    return len(value.items)


def change_dataclass(value: Basket) -> int:
    value.items = [*value.items, 1]
    return len(value.items)


def change_frozen(value: Frozen) -> int:
    value.items.append(1)
    return len(value.items)


def change_instance(value: Plain) -> int:
    value.put(1)
    return len(value.items)


def change_slots(value: Slotted) -> int:
    value.items.append(1)
    return len(value.items)


def change_instances(value: list[Plain]) -> int:
    for plain in value:
        plain.put(1)
    return len(value[0].items)


def change_library_s(value: ElementTree.Element) -> int:
    value.attrib["k"] = "1"
    return len(value.attrib)


@dataclass
class Kind:
    make: Callable[[], Any]
    change: Callable[[Any], int]
    measure: Callable[[Any], Any]
    measured: tuple[Any, int]
    """What is measured of the value, and what the step returns."""


KINDS = {
    "list": Kind(lambda: [1], change_list, len, (1, 2)),
    "dict": Kind(lambda: {"a": 1}, change_dict, len, (1, 2)),
    "nested": Kind(lambda: {"a": [1]}, change_nested, lambda v: len(v["a"]), (1, 2)),
    "set": Kind(lambda: {1}, change_set, len, (1, 2)),
    "frame": Kind(
        lambda: pd.DataFrame({"a": [1, 2]}), change_frame, lambda v: int(v["a"].sum()), (3, 7)
    ),
    "array": Kind(lambda: np.ones(2), change_array, lambda v: int(v.sum()), (2, 4)),
    "tensor": Kind(lambda: torch.ones(2), change_tensor, lambda v: int(v.sum()), (2, 4)),
    "picture": Kind(
        lambda: Image.new("L", (1, 1)), change_picture, lambda v: v.getpixel((0, 0)), (0, 7)
    ),
    "model": Kind(Model, change_model, lambda v: len(v.items), (1, 2)),
    "dataclass": Kind(Basket, change_dataclass, lambda v: len(v.items), (1, 2)),
    "frozen": Kind(Frozen, change_frozen, lambda v: len(v.items), (1, 2)),
    "instance": Kind(Plain, change_instance, lambda v: len(v.items), (1, 2)),
    "slots": Kind(Slotted, change_slots, lambda v: len(v.items), (1, 2)),
    "library's": Kind(
        lambda: ElementTree.Element("a"), change_library_s, lambda v: len(v.attrib), (0, 1)
    ),
    "instances": Kind(lambda: [Plain()], change_instances, lambda v: len(v[0].items), (1, 2)),
}


def annotated(fn: Callable[..., Any], **types: Any) -> Any:
    fn.__annotations__ = types
    return step(fn)


def pipelines_of(kind: Kind) -> tuple[Any, Any]:
    """A pipeline that measures a value after a step has changed it, and one that streams that."""
    type_ = kind.change.__annotations__["value"]

    def make_value(x):
        return kind.make()

    make = annotated(make_value, x=int, **{"return": type_})
    change = step(kind.change)

    def measure(value, result):
        return [kind.measure(value), result]

    def measure_items(value, result):
        yield kind.measure(value)
        yield result

    types = {"value": type_, "result": int}
    measure_step = annotated(measure, **types, **{"return": list[int]})
    stream_step = annotated(measure_items, **types, **{"return": Iterator[int]})

    @pipeline
    def whole(x: int) -> list[int]:
        value = make(x)
        return measure_step(value, change(value))

    @pipeline
    def items(x: int) -> Iterator[int]:
        value = make(x)
        return stream_step(value, change(value))

    return whole, items


def run_per_step(pipe: Any, **arguments: Any) -> Any:
    """The output of a pipeline whose steps are in stages of their own, values being packed."""
    parts = cut(pipe.graph, {node.name: node.name for node in pipe.graph})

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        inner = {
            s.name: Executor(compile_graph(s.graph), workers=1, loop=loop) for s in parts.segments
        }

        async def call(step: Any, inputs: dict[str, Any]) -> Any:
            execution = await inner[step.segment].run(unpack(pack(inputs)))
            assert execution.error is None, execution.error
            return unpack(pack(execution.output))

        for node in parts.front:
            node.step.call = call  # type: ignore[attr-defined]
        with Executor(compile_graph(parts.front, loop=loop), workers=1, loop=loop) as front:
            execution = await front.run(arguments)
        for executor in inner.values():
            executor.close()
        assert execution.error is None, execution.error
        return execution.output

    return asyncio.run(main())


@pytest.mark.parametrize("name", KINDS)
def test_no_other_step_sees_a_change(name: str) -> None:
    kind = KINDS[name]
    whole, items = pipelines_of(kind)
    expected = list(kind.measured)
    assert whole(0) == expected
    assert whole.map([0, 1], progress=False, workers=1) == [expected] * 2
    assert list(items.stream(0)) == items(0) == expected
    assert run_per_step(whole, x=0) == expected


def test_nor_does_the_pipeline_s_result_nor_its_run() -> None:
    change = step(change_list)

    @pipeline
    def both(value: list[int]) -> dict[str, Any]:
        return {"value": value, "result": change(value)}

    run = both.run([1])
    assert run.value == {"value": [1], "result": 2}
    assert run.arguments == {"value": [1]}
    assert run_per_step(both, value=[1]) == run.value


def test_a_value_that_a_step_passes_on_is_not_changed_under_its_first_name() -> None:
    @step
    def itself(value: list[int]) -> list:  # type: ignore[type-arg]
        return value  # a check of its items would copy it

    change = step(change_list)

    @step
    def add(value: list[int], result: int) -> int:
        return 10 * len(value) + result

    @pipeline
    def passed(value: list[int]) -> int:
        return add(value, change(itself(value)))

    assert passed([1]) == run_per_step(passed, value=[1]) == 12


def test_a_given_value_and_the_caller_s_own_are_not_changed() -> None:
    whole, _ = pipelines_of(KINDS["list"])
    make = next(iter(whole.graph)).name
    given = [1]
    assert whole.run(given={make: given}).value == [1, 2]
    assert given == [1]

    @step
    def stream_changed(value: list[int]) -> Iterator[int]:
        value.append(1)
        yield from value

    @pipeline
    def streamed(value: list[int]) -> Iterator[int]:
        return stream_changed(value)

    assert list(streamed.stream(given)) == [1, 1]
    assert given == [1]


def test_items_that_share_a_value_change_a_copy_each() -> None:
    @step
    def repeat(n: int) -> list[list[int]]:
        return [[1]] * n

    change = step(change_list)

    @step
    def sizes(rows: list[list[int]], results: list[int]) -> list[int]:
        return [*map(len, rows), *results]

    @pipeline
    def spread(n: int) -> list[int]:
        rows = repeat(n)
        return sizes(rows, each(change, rows))

    assert spread(2) == run_per_step(spread, n=2) == [1, 1, 2, 2]


def test_a_batch_that_is_split_gets_its_items_unchanged() -> None:
    @batched_step(max_batch_size=4, batch_wait_timeout_s=0.2)
    def change(rows: list[list[int]], fails: list[bool]) -> list[int]:
        for row in rows:
            row.append(1)
        if any(fails):
            raise ValueError
        return [len(row) for row in rows]

    @pipeline
    def sized(row: list[int], fails: bool = False) -> int:
        return change(row, fails)

    inputs = [{"row": [1]}, {"row": [1], "fails": True}, {"row": [1]}]
    results = sized.map(inputs, on_error="keep", progress=False)
    assert [r for r in results if isinstance(r, int)] == [2, 2]


def test_a_default_of_a_class_of_one_s_own_is_not_changed() -> None:
    @step
    def change(x: int, plain: Plain = Plain()) -> int:  # noqa: B008
        plain.put(x)
        return len(plain.items)

    @pipeline
    def sized(x: int) -> int:
        return change(x)

    assert [sized(1), sized(1)] == [2, 2]


def test_a_value_that_is_only_read_is_not_copied() -> None:
    seen: list[int] = []

    @step
    def make(x: int) -> np.ndarray:
        array = np.ones(2)
        seen.append(id(array))
        return array

    @step
    def read(value: np.ndarray) -> bool:
        return id(value) == seen[-1]

    @pipeline
    def same(x: int) -> bool:
        return read(make(x))

    assert same(0)
    assert all(not task.changes for task in compile_graph(same.graph).tasks)
