"""Which request goes first: by deadline and priority, and nobody waits for ever."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlkit.define import batched_step, step
from mlkit.errors import InputError
from mlkit.execute import compile_graph
from mlkit.execute.priority import HORIZON_S, Priority, places, rank
from mlkit.execute.queues import Queues
from mlkit.pipelines import pipeline

BULK, INTERACTIVE = Priority.BULK, Priority.INTERACTIVE

times = st.floats(0, 1e6)
timeouts = st.none() | st.floats(0.001, 3600)
priorities = st.sampled_from(Priority)


def rank_of(began: float, timeout_s: float | None, priority: Priority = INTERACTIVE) -> float:
    return rank(began, None if timeout_s is None else began + timeout_s, priority)


@given(times, timeouts, timeouts, st.floats(0.001, HORIZON_S))
def test_an_interactive_request_passes_the_bulk_ones_before_it(began, one, other, later) -> None:
    bulk, interactive = rank_of(began, one, BULK), rank_of(began + later, other)
    assert interactive <= bulk or later + min(other or HORIZON_S, HORIZON_S) > HORIZON_S
    assert rank_of(began, other) <= bulk  # whatever the deadlines are


@given(times, timeouts, priorities, timeouts, priorities, st.floats(0.01, 1e4))
def test_nobody_waits_for_those_that_come_much_later(began, one, first, other, second, by) -> None:
    later = began + len(Priority) * HORIZON_S + by
    assert rank_of(began, one, first) < rank_of(later, other, second)


@given(times, st.floats(0.01, 9), st.floats(0.01, 1), priorities)
def test_the_earliest_deadline_of_a_class_goes_first(began, timeout_s, more_s, priority) -> None:
    assert rank_of(began, timeout_s, priority) < rank_of(began, timeout_s + more_s, priority)


@given(times, st.floats(0.01, 100), timeouts, priorities)
def test_requests_with_one_timeout_and_class_go_in_order_of_arrival(
    began, later, timeout_s, priority
) -> None:
    assert rank_of(began, timeout_s, priority) < rank_of(began + later, timeout_s, priority)


@given(st.integers(1, 10_000))
def test_a_job_leaves_places_to_interactive_requests_and_has_some(limit) -> None:
    assert places(limit, INTERACTIVE) == limit
    assert 1 <= places(limit, BULK) <= limit
    assert limit < 4 or places(limit, BULK) < limit


def test_a_priority_has_a_name() -> None:
    assert [Priority.named(name) for name in ("interactive", "bulk")] == [INTERACTIVE, BULK]
    with pytest.raises(InputError, match="interactive or bulk"):
        Priority.named("urgent")


# ---- in queues ----------------------------------------------------------------------------------


@step
def one(x: int) -> int:
    return x


@batched_step(max_batch_size=2)
def many(xs: list[int]) -> list[int]:
    return xs


@pipeline
def flow(x: int) -> int:
    return many(one(x))


PROGRAM = compile_graph(flow.graph)
TASKS = {task.name: task for task in PROGRAM.tasks}


def request(name: str, began: float, timeout_s: float | None, priority: Priority) -> Any:
    place = rank_of(began, timeout_s, priority)
    return SimpleNamespace(
        name=name, rank=place, finished=False, deadline=None, expired=False, ready_at=[began] * 2
    )


@pytest.fixture(params=["latency", "throughput"])
def queues(request) -> Queues:
    """Queues under each of the two policies; batches are full ones."""
    queues = Queues(PROGRAM, now=lambda: 0.0)
    if request.param == "latency":
        queues.took(TASKS["many"], 1, 0.010)
        queues.took(TASKS["many"], 2, 0.020)
    return queues


def order(queues: Queues) -> list[str]:
    """The order in which requests run."""
    taken = []
    while (job := queues.pick([])) is not None:
        taken += [work.name for work in job.work]
    return taken


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_queue_is_in_the_order_of_class_deadline_and_arrival(queues, task) -> None:
    for waiting in (
        request("bulk", 0.0, None, BULK),
        request("patient", 1.0, None, INTERACTIVE),
        request("hasty", 2.0, 3.0, INTERACTIVE),
        request("hasty bulk", 2.0, 0.5, BULK),
        request("new", 3.0, None, INTERACTIVE),
        request("very late", 25.0, None, INTERACTIVE),
    ):
        queues.push(task, waiting)
    assert order(queues) == ["hasty", "patient", "hasty bulk", "new", "bulk", "very late"]


@given(st.lists(st.tuples(st.floats(0, 50), timeouts, priorities), max_size=30))
def test_whatever_comes_is_taken_by_rank_and_by_arrival_among_equals(arrivals) -> None:
    queues = Queues(PROGRAM, now=lambda: 0.0)
    came = [request(f"{i}", *arrival) for i, arrival in enumerate(arrivals)]
    for waiting in came:
        queues.push(TASKS["one"], waiting)
    assert order(queues) == [work.name for work in sorted(came, key=lambda work: work.rank)]
