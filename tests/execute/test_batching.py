"""Batched steps in the executor: no waiting for company, full batches first, one bad item alone."""

import numpy as np
import pytest

from mlkit.define import batched_step, step
from mlkit.errors import Cancelled, DefinitionError, StepError
from mlkit.execute.queues import Queues
from mlkit.pipelines import pipeline


@pytest.fixture(autouse=True)
def never_late(monkeypatch) -> None:
    """Batches do not go early: what waits for longer than a call takes would, and these take
    microseconds."""
    monkeypatch.setattr(Queues, "took", lambda *call: None)


@step
def same(x: int) -> int:
    return x


def sizes(executions) -> list[int]:
    return [execution.to_run()["many"].batch_size for execution in executions]


def test_a_lone_request_never_waits_for_company(requests) -> None:
    calls = []

    @batched_step(max_batch_size=64)
    def many(xs: list[int]) -> list[int]:
        calls.append(list(xs))
        return xs

    @pipeline
    def lone(x: int) -> int:
        return many(x)

    sent = requests(lone)
    for x in (1, 2):
        sent.submit(x)
        sent.wait()  # the second is only sent when the first is answered
    assert calls == [[1], [2]]


def test_what_queues_up_meanwhile_goes_together_up_to_the_limit(requests, gate) -> None:
    calls = []

    @batched_step(max_batch_size=4)
    def many(xs: list[int]) -> list[int]:
        calls.append(list(xs))
        gate.pass_through()
        return [10 * x for x in xs]

    @pipeline
    def queued(x: int) -> int:
        return many(x)

    sent = requests(queued, workers=1)
    sent.submit(0)
    gate.wait_for()
    executions = sent.submit(*range(1, 11))
    assert sent.executor.queued() == {"many": 10}
    gate.open()
    assert sent.outcomes() == [10 * x for x in range(11)]
    assert calls == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]
    assert sizes(executions) == [4] * 8 + [2] * 2


def test_a_full_batch_goes_before_single_items_and_those_before_a_part_of_one(
    requests, gate
) -> None:
    calls: list[object] = []

    @step
    def hold(x: int) -> int:
        if x < 0:
            gate.pass_through()
        else:
            calls.append(x)
        return x

    @batched_step(max_batch_size=3)
    def many(xs: list[int]) -> list[int]:
        calls.append(list(xs))
        return xs

    @pipeline
    def flow(x: int) -> int:
        return many(hold(x))

    sent = requests(flow, workers=1)
    sent.submit(-1)
    gate.wait_for()
    sent.submit(0, 1, 2, 3)
    gate.open()
    sent.wait()
    # The batch of three is full once -1, 0 and 1 are there; then 2 and 3, alone at last, follow.
    assert calls == [0, 1, [-1, 0, 1], 2, 3, [2, 3]]


def test_single_items_that_are_nearer_to_a_result_go_first(requests, gate) -> None:
    calls = []

    @step
    def begin(x: int) -> int:
        if x < 0:
            gate.pass_through()
        calls.append(("begin", x))
        return x

    @step
    def end(x: int) -> int:
        calls.append(("end", x))
        return x

    @pipeline
    def flow(x: int) -> int:
        return end(begin(x))

    sent = requests(flow, workers=1)
    sent.submit(-1)
    gate.wait_for()
    sent.submit(0, 1)
    gate.open()
    sent.wait()
    assert calls == [(name, x) for x in (-1, 0, 1) for name in ("begin", "end")]


def test_several_inputs_and_left_out_ones_reach_a_batch_as_columns(requests) -> None:
    @batched_step
    def many(xs: list[int], ys: list[int], scale: int = 100) -> list[int]:
        return [scale * x + y for x, y in zip(xs, ys, strict=True)]

    @pipeline
    def flow(x: int) -> int:
        return many(x, same(x))

    sent = requests(flow)
    sent.submit(1, 2, 3)
    assert sent.outcomes() == [101, 202, 303]


def test_arrays_go_in_stacked_and_come_out_split(requests, gate) -> None:
    shapes = []

    @step
    def fill(x: int) -> np.ndarray:
        return np.full(2, x)

    @batched_step(max_batch_size=8)
    def many(rows: np.ndarray) -> np.ndarray:
        gate.pass_through()
        shapes.append(rows.shape)
        return rows.sum(axis=1)

    @step
    def number(row: np.ndarray) -> int:
        return int(row)

    @pipeline
    def flow(x: int) -> int:
        return number(many(fill(x)))

    sent = requests(flow, workers=1)
    sent.submit(0)
    gate.wait_for()
    sent.submit(1, 2, 3)
    gate.open()
    assert sent.outcomes() == [0, 2, 4, 6]
    assert shapes == [(1, 2), (3, 2)]


@pytest.mark.parametrize("error", [ValueError, DefinitionError])
@pytest.mark.parametrize("bad", [{5}, {0, 7}, {2, 3}])
def test_one_bad_item_fails_alone(requests, gate, bad: set[int], error) -> None:
    calls = []

    @batched_step(max_batch_size=8)
    def many(xs: list[int]) -> list[int]:
        gate.pass_through()
        calls.append(list(xs))
        if bad & set(xs):
            raise error(f"bad: {sorted(bad & set(xs))}")
        return [10 * x for x in xs]

    @pipeline
    def flow(x: int) -> int:
        return many(x)

    sent = requests(flow, workers=1)
    sent.submit(-1)
    gate.wait_for()
    sent.submit(*range(8))
    gate.open()
    expected = [StepError if x in bad else 10 * x for x in range(-1, 8)]
    assert sent.outcomes() == expected
    # Halving: the batch, then two halves at each of three levels, for each one that is bad.
    assert len(calls) <= 1 + 1 + 6 * len(bad)
    for x in bad:
        assert f"bad: [{x}]" in str(sent.wait()[x + 1].error)


def test_a_bad_item_is_found_by_halving_and_not_one_by_one(requests, gate) -> None:
    calls = []

    @batched_step(max_batch_size=64)
    def many(xs: list[int]) -> list[int]:
        gate.pass_through()
        calls.append(len(xs))
        if 40 in xs:
            raise ValueError
        return xs

    @pipeline
    def flow(x: int) -> int:
        return many(x)

    sent = requests(flow, workers=1)
    sent.submit(-1)
    gate.wait_for()
    sent.submit(*range(64))
    gate.open()
    assert sent.outcomes().count(StepError) == 1
    assert len(calls) == 1 + 1 + 2 * 6  # the first, the batch, two halves at six levels


@pytest.mark.parametrize(
    "wrong",
    [lambda xs: xs[1:], lambda xs: [*xs, 0], lambda xs: 3, lambda xs: None, lambda xs: "ab"],
)
def test_a_wrong_number_of_results_names_the_step_and_fails_all(requests, gate, wrong) -> None:
    calls = []

    @batched_step
    def many(xs: list[int]) -> list[int]:
        calls.append(list(xs))
        gate.pass_through()
        return wrong(xs) if len(xs) > 1 else xs

    @pipeline
    def flow(x: int) -> int:
        return many(x)

    sent = requests(flow, workers=1)
    sent.submit(0)
    gate.wait_for()
    executions = sent.submit(1, 2)
    gate.open()
    assert sent.outcomes() == [0, StepError, StepError]
    assert calls == [[0], [1, 2]]  # called once: trying the halves would hide the mistake
    assert isinstance(executions[0].error.__cause__, DefinitionError)
    assert "step 'many'" in str(executions[0].error)
    assert "expected 2 results" in str(executions[0].error)


def test_results_that_cannot_be_told_apart_fail_the_step_and_not_the_worker(requests, gate) -> None:
    import pandas as pd

    @batched_step
    def many(xs: list[int]) -> list[int]:
        gate.pass_through()
        return pd.DataFrame({"x": xs}) if len(xs) > 1 else xs  # iterates over its columns

    @pipeline
    def flow(x: int) -> int:
        return many(x)

    sent = requests(flow, workers=1)
    sent.submit(0)
    gate.wait_for()
    sent.submit(1, 2)
    gate.open()
    assert sent.outcomes() == [0, StepError, StepError]
    sent.submit(3)
    assert sent.outcomes()[-1] == 3


def test_bad_items_that_are_cancelled_meanwhile_are_not_tried_again(requests, gate) -> None:
    calls, crowd = [], []

    @batched_step(max_batch_size=8)
    def many(xs: list[int]) -> list[int]:
        gate.pass_through()
        calls.append(list(xs))
        if len(xs) > 1:
            for execution in crowd[2:]:
                execution.cancel()
            raise ValueError
        return xs

    @pipeline
    def flow(x: int) -> int:
        return many(x)

    sent = requests(flow, workers=1)
    sent.submit(-1)
    gate.wait_for()
    crowd += sent.submit(*range(8))
    gate.open()
    assert sent.outcomes() == [-1, 0, 1, *[Cancelled] * 6]
    assert calls == [[-1], [0, 1, 2, 3, 4, 5, 6, 7], [0, 1], [0], [1]]


def test_each_item_of_a_failed_batch_has_an_error_of_its_own(requests, gate) -> None:
    @batched_step
    def many(xs: list[int]) -> list[int]:
        gate.pass_through()
        return []

    @pipeline
    def flow(x: int) -> int:
        return many(x)

    sent = requests(flow, workers=1)
    sent.submit(0)
    gate.wait_for()
    one, two = sent.submit(1, 2)
    gate.open()
    sent.wait()
    assert one.error is not two.error
    assert one.to_run() is not two.to_run()
    assert one.error.run.arguments == {"x": 1}
    assert two.error.run.arguments == {"x": 2}
