"""Which job goes next, without any thread."""

from time import perf_counter
from types import SimpleNamespace
from typing import Any

import pytest

from mlkit.define import batched_step, step
from mlkit.execute import compile_graph
from mlkit.execute.queues import Queues
from mlkit.pipelines import pipeline


@step
def begin(x: int) -> int:
    return x


@batched_step(max_batch_size=3)
def many(xs: list[int]) -> list[int]:
    return xs


@step
def end(x: int) -> int:
    return x


@pipeline
def flow(x: int) -> int:
    return end(many(begin(x)))


TASKS = {task.name: task for task in compile_graph(flow.graph).tasks}


@pytest.fixture
def queues() -> Queues:
    return Queues(compile_graph(flow.graph))


def request(
    name: str,
    *,
    began: float = 0.0,
    finished: bool = False,
    late: bool = False,
    ready_at: float = 0.0,
) -> Any:
    return SimpleNamespace(
        name=name,
        rank=began,
        finished=finished,
        deadline=0.0,
        expired=late,
        ready_at=[ready_at] * 3,
    )


def pick(queues: Queues) -> tuple[str, list[str]] | None:
    job = queues.pick([])
    return job and (job.task.name, [execution.name for execution in job.work])


def push(queues: Queues, task: str, *requests: Any) -> None:
    for waiting in requests:
        queues.push(TASKS[task], waiting)


def test_nothing_waiting_is_no_job(queues: Queues) -> None:
    assert pick(queues) is None


def test_full_batches_then_single_items_from_the_end_then_part_batches(queues: Queues) -> None:
    push(queues, "begin", request("a"))
    push(queues, "end", request("b"), request("c"))
    push(queues, "many", *map(request, "defg"))
    order = [pick(queues) for _ in range(5)]
    assert order == [
        ("many", ["d", "e", "f"]),
        ("end", ["b"]),
        ("end", ["c"]),
        ("begin", ["a"]),
        ("many", ["g"]),
    ]
    assert pick(queues) is None


def test_a_batch_that_waited_longer_than_it_takes_goes_before_single_items() -> None:
    clock = [10.0]
    queues = Queues(compile_graph(flow.graph), now=lambda: clock[0])
    queues.took(TASKS["many"], 3, 0.5)
    waiting = request("old")
    waiting.ready_at = {TASKS["many"].index: 10.0}
    push(queues, "many", waiting)
    push(queues, "begin", *map(request, "abc"))
    clock[0] = 10.4
    assert pick(queues) == ("begin", ["a"])
    clock[0] = 10.6
    assert pick(queues) == ("many", ["old"])
    push(queues, "many", waiting)
    queues.took(TASKS["many"], 3, 1.5)  # calls have become longer: 0.8 * 0.5 + 0.2 * 1.5
    clock[0] = 10.65
    assert pick(queues) == ("begin", ["b"])
    clock[0] = 10.75
    assert pick(queues) == ("many", ["old"])


def test_a_batch_is_as_old_as_its_oldest_request_wherever_that_is_in_the_queue() -> None:
    queues = Queues(compile_graph(flow.graph), now=lambda: 10.6)
    queues.took(TASKS["many"], 3, 0.5)
    push(queues, "begin", request("single"))
    push(queues, "many", request("old", began=2.0, ready_at=10.0))
    push(queues, "many", request("hasty", began=1.0, ready_at=10.5))
    assert pick(queues) == ("many", ["hasty", "old"])


@pytest.fixture
def flat() -> Queues:
    """With what was measured of a step whose batches are no quicker; one worker."""
    queues = Queues(compile_graph(flow.graph), now=lambda: 0.0)
    queues.took(TASKS["many"], 1, 0.010)
    queues.took(TASKS["many"], 3, 0.027)
    return queues


def test_where_batches_are_not_quicker_the_oldest_request_goes_first_and_alone(
    flat: Queues,
) -> None:
    push(flat, "begin", request("new", began=3.0))
    push(flat, "many", request("old", began=1.0), request("younger", began=2.0))
    assert [pick(flat) for _ in range(4)] == [
        ("many", ["old"]),
        ("many", ["younger"]),
        ("begin", ["new"]),
        None,
    ]


def test_of_two_that_came_together_the_one_nearer_to_its_result_goes_first(flat: Queues) -> None:
    push(flat, "begin", request("a", began=1.0))
    push(flat, "end", request("b", began=1.0))
    assert pick(flat) == ("end", ["b"])


def test_where_work_has_piled_up_batches_are_made_whatever_was_measured() -> None:
    clock = [0.0]
    queues = Queues(compile_graph(flow.graph), workers=1, now=lambda: clock[0])
    queues.took(TASKS["many"], 1, 0.010)
    queues.took(TASKS["many"], 3, 0.027)
    push(queues, "begin", request("oldest", began=0.5))
    push(queues, "many", *(request(name, began=1.0) for name in "abcdef"))
    clock[0] = 0.1  # a burst is no pile
    assert pick(queues) == ("begin", ["oldest"])
    clock[0] = 0.6
    assert pick(queues) == ("many", ["a", "b", "c"])


def short_calls(usual: int, clock: list[float]) -> Queues:
    """Queues whose tasks are known to be short, and whose batches bring nothing."""
    queues = Queues(compile_graph(flow.graph), workers=4, usual=usual, now=lambda: clock[0])
    queues.took(TASKS["many"], 1, 0.010)
    queues.took(TASKS["many"], 3, 0.030)
    for task in TASKS.values():
        queues.ran(task, 0.010)
    return queues


def test_not_all_workers_are_busy_where_calls_are_short_and_little_waits() -> None:
    queues = short_calls(2, [0.0])
    assert [queues.room(busy) for busy in range(4)] == [True, True, False, False]


def test_there_is_room_for_all_workers_where_work_has_piled_up() -> None:
    clock = [0.0]
    queues = short_calls(2, clock)
    push(queues, "begin", *(request(f"{i}") for i in range(9)))
    assert not queues.room(2)  # a burst is no pile
    clock[0] = 1.0
    assert queues.room(2)


def test_there_is_room_for_all_workers_where_batches_are_worth_it() -> None:
    queues = short_calls(2, [0.0])
    queues.took(TASKS["many"], 3, 0.012)
    assert queues.room(2)


def test_there_is_room_for_all_workers_beside_a_step_that_takes_long_until_it_does_not() -> None:
    queues = short_calls(2, [0.0])
    queues.ran(TASKS["end"], 5.0)
    assert queues.room(2)
    for _ in range(100):
        queues.ran(TASKS["end"], 0.010)
    assert not queues.room(2)


def test_there_is_room_for_all_workers_until_it_is_known_how_long_steps_take() -> None:
    queues = Queues(compile_graph(flow.graph), workers=4, usual=2, now=lambda: 0.0)
    assert queues.room(3)


def test_a_step_is_brief_by_its_average_and_one_that_was_never_called_is_not(
    queues: Queues,
) -> None:
    assert not queues.brief(TASKS["end"])
    for _ in range(200):
        queues.ran(TASKS["end"], 0.0001)
    assert queues.brief(TASKS["end"])
    queues.ran(TASKS["end"], 0.010)  # the interpreter was taken from it
    assert queues.brief(TASKS["end"])
    queues.ran(TASKS["end"], 0.100)
    assert not queues.brief(TASKS["end"])


def test_batches_that_have_become_quicker_are_made_again(flat: Queues) -> None:
    flat.took(TASKS["many"], 3, 0.012)
    push(flat, "many", request("a", began=1.0), request("b", began=2.0))
    assert pick(flat) == ("many", ["a", "b"])


def test_calls_that_were_held_up_say_nothing_of_what_batches_gain(flat: Queues) -> None:
    for _ in range(10):
        flat.took(TASKS["many"], 1, 0.035)  # it waited for the model that others used
    push(flat, "many", request("a", began=1.0), request("b", began=2.0))
    assert pick(flat) == ("many", ["a"])


def test_so_long_as_nothing_is_known_batches_are_made(queues: Queues) -> None:
    queues.took(TASKS["many"], 1, 0.010)
    push(queues, "many", request("a", began=1.0), request("b", began=2.0))
    assert pick(queues) == ("many", ["a", "b"])


@batched_step(max_batch_size=3, batch_wait_timeout_s=5.0)
def patient(xs: list[int]) -> list[int]:
    return xs


@pipeline
def waits(x: int) -> int:
    return patient(begin(x))


def test_what_lets_a_batch_wait_is_not_overruled_by_age() -> None:
    clock = [0.0]
    program = compile_graph(waits.graph)
    tasks = {task.name: task for task in program.tasks}
    queues = Queues(program, now=lambda: clock[0])
    queues.took(tasks["patient"], 1, 0.010)
    queues.took(tasks["patient"], 3, 0.030)
    queues.push(tasks["patient"], request("old", began=0.0))
    queues.push(tasks["begin"], request("new", began=1.0))
    assert pick(queues) == ("begin", ["new"])
    assert pick(queues) is None
    clock[0] = 5.1
    assert pick(queues) == ("patient", ["old"])


def test_a_batch_waits_from_its_first_request_on_whichever_come_to_stand_before_it() -> None:
    clock = [0.0]
    program = compile_graph(waits.graph)
    task = next(task for task in program.tasks if task.name == "patient")
    queues = Queues(program, now=lambda: clock[0])
    first = request("first", began=9.0, ready_at=0.0)
    queues.push(task, first)
    clock[0] = 4.0
    queues.push(task, request("second", began=1.0, ready_at=4.0))
    assert (queues.due, pick(queues)) == (5.0, None)
    first.finished = True
    assert queues.due == 9.0
    first.finished = False
    clock[0] = 5.1
    assert pick(queues) == ("patient", ["second", "first"])


def test_a_short_side_branch_is_as_near_to_the_result_as_the_end_of_a_long_one() -> None:
    @step
    def side(x: int) -> int:
        return x

    @step
    def both(a: int, b: int) -> int:
        return a + b

    @pipeline
    def joins(x: int) -> int:
        return both(side(x), end(begin(x)))

    tasks = {task.name: task for task in compile_graph(joins.graph).tasks}
    to_go = {name: task.to_go for name, task in tasks.items()}
    assert to_go == {"side": 2, "begin": 3, "end": 2, "both": 1}
    clock = [0.0]
    queues = Queues(compile_graph(joins.graph), workers=0, now=lambda: clock[0])
    clock[0] = 1.0  # work has piled up: for no worker two are many
    queues.push(tasks["begin"], request("a"))
    queues.push(tasks["side"], request("b"))
    assert [pick(queues), pick(queues)] == [("side", ["b"]), ("begin", ["a"])]


def test_finished_requests_are_skipped_and_not_counted(queues: Queues) -> None:
    push(queues, "many", request("a", finished=True), request("b"), request("c", finished=True))
    assert queues.waiting() == [0, 1, 0]
    assert pick(queues) == ("many", ["b"])
    assert pick(queues) is None


def test_a_queue_of_finished_requests_does_not_hide_what_waits_behind_it(queues: Queues) -> None:
    push(queues, "many", *(request("x", finished=True) for _ in range(3)))
    push(queues, "begin", request("a"))
    assert pick(queues) == ("begin", ["a"])


def test_late_requests_are_taken_out_and_handed_over(queues: Queues) -> None:
    late: list[Any] = []
    push(queues, "begin", request("a", late=True), request("b"))
    job = queues.pick(late)
    assert job is not None
    assert [execution.name for execution in job.work] == ["b"]
    assert [(execution.name, task.name) for execution, task in late] == [("a", "begin")]


def test_sweeping_drops_what_is_finished_and_keeps_the_order(queues: Queues) -> None:
    push(queues, "many", request("a"), request("b", finished=True), request("c"))
    queues.sweep()
    assert queues.waiting() == [0, 2, 0]
    assert pick(queues) == ("many", ["a", "c"])


def test_a_deadline_is_on_the_monotonic_clock_of_the_process() -> None:
    from mlkit.execute import Executor

    with Executor(compile_graph(flow.graph), workers=1) as executor:
        execution = executor.submit({"x": 1}, lambda done: None, deadline=perf_counter() + 60)
    assert not execution.expired
    assert 0 < execution.left_s <= 60
