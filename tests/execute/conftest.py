import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mlkit.execute import Executor, compile_graph
from mlkit.execute.execution import Execution
from mlkit.pipelines import Pipeline


class Requests:
    """Submits requests and waits for them; every wait has an end, so that a lost one is seen."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.finished: list[Execution] = []
        self._executions: list[Execution] = []
        self._done = threading.Condition()

    def submit(self, *values: Any, **options: Any) -> list[Execution]:
        names = [p.name for p in self.executor.program.graph.parameters]
        new = [
            self.executor.submit({names[0]: value}, self._finished, **options) for value in values
        ]
        self._executions += new
        return new

    def _finished(self, execution: Execution) -> None:
        with self._done:
            self.finished.append(execution)
            self._done.notify_all()

    def wait(self, count: int | None = None) -> list[Execution]:
        """Return when that many are finished; all that were submitted by default."""
        wanted = len(self._executions) if count is None else count
        with self._done:
            assert self._done.wait_for(lambda: len(self.finished) >= wanted, timeout=20), (
                f"{len(self.finished)} of {wanted} ended"
            )
        return self._executions

    def outcomes(self) -> list[Any]:
        """Of each request its output, or the type of what it failed with."""
        return [e.output if e.error is None else type(e.error) for e in self.wait()]


@pytest.fixture
def requests() -> Iterator[Callable[..., Requests]]:
    """Make an executor of a pipeline and send requests through it; closed at the end."""
    made: list[Executor] = []

    def make(pipeline: Pipeline[..., Any], workers: int = 2, **options: Any) -> Requests:
        program = compile_graph(pipeline.graph)
        made.append(Executor(program, workers=workers, **options))
        return Requests(made[-1])

    yield make
    for executor in made:
        executor.close()


@pytest.fixture
def soon() -> Callable[[Callable[[], bool]], bool]:
    """Whether something comes true: another thread may be about to see to it."""

    def comes_true(condition: Callable[[], bool]) -> bool:
        for _ in range(2000):
            if condition():
                return True
            time.sleep(0.002)
        return False

    return comes_true


class Gate:
    """Holds up steps until it is opened, and says how many have come."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._came = threading.Semaphore(0)

    def pass_through(self) -> None:
        self._came.release()
        assert self._open.wait(timeout=20)

    def wait_for(self, count: int = 1) -> None:
        for _ in range(count):
            assert self._came.acquire(timeout=20)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open()
