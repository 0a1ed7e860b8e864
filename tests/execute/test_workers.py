"""Which workers are woken, and how many are busy at a time."""

import pytest

from mlkit.define import step
from mlkit.execute import cores
from mlkit.execute.queues import Queues
from mlkit.pipelines import pipeline


@pytest.fixture
def fork(gate):
    """Two steps that depend on one, and hold on until the gate is opened."""

    @step
    def begin(x: int) -> int:
        return x

    @step
    def left(x: int) -> int:
        gate.pass_through()
        return x

    @step
    def right(x: int) -> int:
        gate.pass_through()
        return x

    @step
    def join(a: int, b: int) -> int:
        return a + b

    @pipeline
    def forked(x: int) -> int:
        first = begin(x)
        return join(left(first), right(first))

    return forked


@pytest.fixture
def held(gate):
    @step
    def hold(x: int) -> int:
        gate.pass_through()
        return x

    @pipeline
    def holding(x: int) -> int:
        return hold(x)

    return holding


def test_what_does_not_depend_on_one_another_runs_side_by_side(requests, gate, fork) -> None:
    sent = requests(fork, workers=2)
    sent.submit(1)
    gate.wait_for(2)
    gate.open()
    assert sent.outcomes() == [2]


def test_nobody_is_woken_for_what_waits_beside_a_brief_step(
    requests, gate, fork, soon, monkeypatch
) -> None:
    monkeypatch.setattr(Queues, "brief", lambda self, task: True)
    sent = requests(fork, workers=2)
    sent.submit(1)
    gate.wait_for(1)
    assert soon(lambda: len(sent.executor._asleep) == 1)
    assert sorted(sent.executor.queued().values()) == [0, 0, 0, 1]
    sent.submit(2)  # somebody is woken, who takes the older one's first
    gate.wait_for(1)
    gate.open()
    assert sent.outcomes() == [2, 4]


def test_of_the_default_workers_one_rests_until_work_piles_up(
    requests, gate, held, soon, monkeypatch
) -> None:
    monkeypatch.setattr(cores, "cores", lambda: 2)
    sent = requests(held, workers=None)
    executor = sent.executor
    executor._flow.queues.ran(executor.program.tasks[0], 0.001)
    sent.submit(*range(4))
    gate.wait_for(3)
    assert executor.workers == 4
    assert soon(lambda: len(executor._asleep) == 1)
    assert executor.queued() == {"hold": 1}
    monkeypatch.setattr(Queues, "_throughput_first", True)
    sent.submit(4)
    gate.wait_for(1)
    assert executor.queued() == {"hold": 1}
    gate.open()
    assert sent.outcomes() == [0, 1, 2, 3, 4]


def test_workers_that_were_asked_for_may_all_be_busy(requests, gate, held, monkeypatch) -> None:
    monkeypatch.setattr(cores, "cores", lambda: 2)
    sent = requests(held, workers=6)
    executor = sent.executor
    executor._flow.queues.ran(executor.program.tasks[0], 0.001)
    sent.submit(*range(6))
    gate.wait_for(6)
    gate.open()
    assert sent.outcomes() == list(range(6))


def test_fewer_workers_may_be_busy_while_replicas_share_the_cores(
    requests, gate, held, soon, monkeypatch
) -> None:
    monkeypatch.setattr(Queues, "_throughput_first", True)
    sent = requests(held, workers=3)
    executor = sent.executor
    executor.max_busy = 1
    sent.submit(*range(4))
    gate.wait_for(1)
    assert soon(lambda: len(executor._asleep) == 2)
    assert executor.queued() == {"hold": 3}
    executor.max_busy = 3  # those that rest take what is queued
    gate.wait_for(2)
    assert executor.queued() == {"hold": 1}
    gate.open()
    assert sent.outcomes() == [0, 1, 2, 3]


def test_workers_above_the_limit_rest_after_their_call(requests, gate, held) -> None:
    sent = requests(held, workers=3)
    sent.submit(*range(3))
    gate.wait_for(3)
    sent.executor.max_busy = 1
    gate.open()
    assert sent.outcomes() == [0, 1, 2]
    sent.submit(3, 4)
    assert sent.outcomes() == [0, 1, 2, 3, 4]
