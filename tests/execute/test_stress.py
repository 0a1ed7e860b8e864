"""Random graphs, failures and cancellations: every request ends once, with what it should."""

import asyncio
import contextlib
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlkit.define import batched_step, step
from mlkit.define.graph import Argument, Graph, Node, Parameter, Result
from mlkit.errors import Cancelled, DeadlineExceeded, StepError
from mlkit.execute import Executor, compile_graph
from mlkit.execute.execution import Execution

BAD = 7
SLOW_MACHINES = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def value_of(node: int, inputs: tuple[int, ...]) -> int:
    return (31 * node + sum(inputs)) % 1_000_003


def is_bad(node: int, inputs: tuple[int, ...], bad_nodes: frozenset[int]) -> bool:
    return node in bad_nodes and sum(inputs) % BAD == 0


def make_step(node: int, kind: str, size: int, bad_nodes: frozenset[int]) -> Any:
    def one(inputs: tuple[int, ...]) -> int:
        if is_bad(node, inputs, bad_nodes):
            raise ValueError(node)
        return value_of(node, inputs)

    if kind == "batched":

        def many(a: list[int], b: list[int], c: list[int]) -> list[int]:
            assert len(a) <= size
            return [one(inputs) for inputs in zip(a, b, c, strict=True)]

        return batched_step(max_batch_size=size)(many)
    if kind == "async":

        async def later(a: int, b: int, c: int) -> int:
            if (a + node) % 2:
                await asyncio.sleep(0)
            return one((a, b, c))

        return step(later)

    def plain(a: int, b: int, c: int) -> int:
        return one((a, b, c))

    return step(plain)


@dataclass
class Case:
    """A graph, and what it gives for an argument worked out the plain way."""

    inputs: list[tuple[int, int, int]]  # -1 is the argument
    bad_nodes: frozenset[int]
    graph: Graph = field(init=False)

    def expected(self, x: int) -> tuple[int | None, set[str]]:
        """The value, or the names of the nodes that may be the one to fail."""
        values: dict[int, int | None] = {-1: x}
        failing = set()
        for node, ups in enumerate(self.inputs):
            got = tuple(values[up] for up in ups)
            if None in got:
                values[node] = None
            elif is_bad(node, got, self.bad_nodes):
                failing.add(f"n{node}")
                values[node] = None
            else:
                values[node] = value_of(node, got)
        return values[len(self.inputs) - 1], failing


@st.composite
def cases(draw: st.DrawFn) -> Case:
    count = draw(st.integers(1, 9))
    inputs = []
    for node in range(count):
        # Every node takes from near ones, so that most of them matter for the last.
        near = st.integers(max(-1, node - 4), node - 1)
        inputs.append((draw(near), draw(near), draw(near)))
    bad = draw(st.frozensets(st.integers(0, count - 1), max_size=2))
    case = Case(inputs, bad)
    nodes = []
    for node, ups in enumerate(inputs):
        kind = draw(st.sampled_from(["plain", "plain", "batched", "async"]))
        made = make_step(node, kind, draw(st.integers(1, 5)), bad)
        sources = [Argument("x") if up < 0 else Result(f"n{up}") for up in ups]
        nodes.append(Node(f"n{node}", made, dict(zip("abc", sources, strict=True))))
    parameters = (Parameter("x", int, required=True),)
    case.graph = Graph("random", parameters, tuple(nodes), Result(f"n{count - 1}"), int)
    return case


@pytest.fixture(autouse=True)
def _switch_threads_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class Ledger:
    """Counts how often each request ends."""

    def __init__(self) -> None:
        self.ends: Counter[Execution] = Counter()
        self._changed = threading.Condition()

    def __call__(self, execution: Execution) -> None:
        with self._changed:
            self.ends[execution] += 1
            self._changed.notify_all()

    def wait(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.ends) >= count, timeout=20)


def check(
    case: Case, x: int, execution: Execution, *, cancelled: bool = False, hurried: bool = False
) -> None:
    value, failing = case.expected(x)
    error = execution.error
    if isinstance(error, Cancelled):
        assert cancelled
    elif isinstance(error, DeadlineExceeded):
        assert hurried
    elif isinstance(error, StepError):
        assert error.step in failing
        assert isinstance(error.__cause__, ValueError)
    else:
        assert error is None
        assert not failing
        assert execution.output == value


@settings(SLOW_MACHINES, max_examples=60)
@given(case=cases(), workers=st.none() | st.integers(1, 4), seed=st.integers(0, 2**16))
def test_every_request_ends_once_with_what_it_should(
    case: Case, workers: int | None, seed: int
) -> None:
    chance = random.Random(seed)
    count, ledger = 60, Ledger()
    victims = {x for x in range(count) if chance.random() < 0.2}
    hurried = {x for x in range(count) if chance.random() < 0.1}
    executions: list[Execution] = []

    def cancel_some() -> None:
        for x in sorted(victims):
            while len(executions) <= x:
                time.sleep(1e-5)
            executions[x].cancel()

    with Executor(compile_graph(case.graph), workers=workers) as executor:
        canceller = threading.Thread(target=cancel_some)
        canceller.start()
        for x in range(count):
            deadline = perf_counter() + chance.random() * 1e-3 if x in hurried else None
            executions.append(executor.submit({"x": x}, ledger, deadline=deadline))
        canceller.join(20)
        ledger.wait(count)
        assert executor.in_flight == 0
    assert set(ledger.ends.values()) == {1}
    for x, execution in enumerate(executions):
        check(case, x, execution, cancelled=x in victims, hurried=x in hurried)


@settings(SLOW_MACHINES, max_examples=30)
@given(case=cases(), seed=st.integers(0, 2**16))
def test_closing_in_the_middle_ends_every_request_once(case: Case, seed: int) -> None:
    ledger, count = Ledger(), 40
    executor = Executor(compile_graph(case.graph), workers=3)
    executions = [executor.submit({"x": x}, ledger) for x in range(count)]
    closers = [threading.Thread(target=executor.close) for _ in range(2)]
    for thread in closers:
        thread.start()
    for thread in closers:
        thread.join(20)
    ledger.wait(count)
    assert set(ledger.ends.values()) == {1}
    for x, execution in enumerate(executions):
        check(case, x, execution, cancelled=True)


@settings(SLOW_MACHINES, max_examples=20)
@given(case=cases(), seed=st.integers(0, 2**16))
def test_clients_in_two_loops_get_their_own_answers(case: Case, seed: int) -> None:
    with Executor(compile_graph(case.graph), workers=3) as executor:

        async def client(x: int, chance: random.Random) -> None:
            run = asyncio.ensure_future(executor.run({"x": x}))
            if chance.random() < 0.2:
                await asyncio.sleep(chance.random() * 1e-3)
                run.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                check(case, x, await run)

        async def many(seed: int) -> None:
            chance = random.Random(seed)
            await asyncio.wait_for(asyncio.gather(*(client(x, chance) for x in range(40))), 20)

        failures: list[BaseException] = []

        def in_a_thread(seed: int) -> None:
            try:
                asyncio.run(many(seed))
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=in_a_thread, args=(seed + i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not failures, failures
        assert not any(thread.is_alive() for thread in threads)


def test_nothing_is_lost_between_threads_that_finish_and_a_loop_that_waits() -> None:
    @step
    def same(x: int) -> int:
        return x

    nodes = (Node("same", same, {"x": Argument("x")}),)
    graph = Graph("tight", (Parameter("x", int, required=True),), nodes, Result("same"), int)

    async def clients(executor: Executor, workers: int, each: int) -> list[int]:
        async def client() -> int:
            return sum([(await executor.run({"x": 1})).output for _ in range(each)])

        return await asyncio.gather(*(client() for _ in range(workers)))

    with Executor(compile_graph(graph), workers=4) as executor:
        got = asyncio.run(asyncio.wait_for(clients(executor, 8, 500), 60))
    assert got == [500] * 8
