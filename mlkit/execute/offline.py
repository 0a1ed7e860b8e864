"""Running a pipeline here on many inputs, as fast as the machine allows: the offline limit."""

from __future__ import annotations

import inspect
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from queue import SimpleQueue
from types import FrameType
from typing import Any, Literal

from mlkit.define.graph import Graph
from mlkit.errors import Cancelled, InputError, MlkitError
from mlkit.execute.cores import prompt_switching
from mlkit.execute.execution import Execution
from mlkit.execute.executor import Executor
from mlkit.execute.inputs import is_frame, read
from mlkit.execute.local import localiser
from mlkit.execute.program import compile_graph

__all__ = ["frame_of", "map_inputs", "stream"]

OnError = Literal["raise", "keep"]


def map_inputs(
    graph: Graph,
    inputs: Iterable[Any],
    *,
    on_error: OnError = "raise",
    progress: bool = True,
    workers: int | None = None,
) -> Any:
    """Run a graph on many inputs in this process; see `Pipeline.map`.

    A list or DataFrame is checked before anything runs. Any other iterable is read as it is
    worked through, a bounded number of inputs ahead; it may be endless, for an interrupt to end.
    """
    arguments = read(inputs, graph.parameters)
    total = len(inputs) if isinstance(inputs, Sized) else None
    program = compile_graph(graph)
    with prompt_switching(), Executor(program, workers=workers) as executor:
        results = stream(executor, arguments, total=total, on_error=on_error, progress=progress)
    return frame_of(inputs, results, graph.name) if is_frame(inputs) else results


def stream(
    executor: Executor,
    arguments: Iterable[Mapping[str, Any] | InputError],
    *,
    total: int | None = None,
    on_error: OnError = "raise",
    progress: bool = False,
) -> list[Any]:
    """Push requests through an executor, a bounded number at a time; results in order.

    An interrupt ends it early, with `Cancelled` in the place of what was not done, and closes the
    executor without waiting for the functions that run.

    Args:
        executor: runs them.
        arguments: by name, for each request; an error in the place of those that do not fit.
        total: how many there are, where that is known.
        on_error: "raise" stops at the first failure. "keep" puts errors in the places of results;
            they keep tracebacks but no values, so that memory does not grow with what failed.
        progress: whether to show a bar.

    Raises:
        InputError: unknown ``on_error``, or arguments that do not fit.
        StepError: the first failure.
    """
    if on_error not in ("raise", "keep"):
        raise InputError("unknown on_error", expected="'raise' or 'keep'", got=repr(on_error))
    going = _Stream(executor, keep=on_error == "keep")
    try:
        with _bar(executor.program.graph.name, total, progress) as show:
            for values in arguments:
                if not going.submit(values):
                    break
                show(going.done)
            for _ in going.drain():
                show(going.done)
    except KeyboardInterrupt:
        done = going.done
        executor.close(wait=False)
        print(f"interrupted: {done}{'' if total is None else f' of {total}'} done")  # noqa: T201
        missing = (total or 0) - len(going.results)
        return going.results + [_NOT_DONE] * missing
    if going.first_error is not None:
        raise going.first_error
    return going.results


_NOT_DONE = Cancelled("interrupted before it was done")


class _Stream:
    """Requests of one map on their way through an executor."""

    def __init__(self, executor: Executor, *, keep: bool) -> None:
        largest = max((task.max_batch_size for task in executor.program.tasks), default=1)
        self.executor = executor
        self.keep = keep
        self.results: list[Any] = []
        self.done = 0
        self.first_error: BaseException | None = None
        # Enough in flight that every worker can have a full batch and the next one fills meanwhile.
        self._size = executor.workers * max(2, 2 * largest)
        self._room: SimpleQueue[None] = (
            SimpleQueue()
        )  # unlike a semaphore, an interrupt leaves it whole
        for _ in range(self._size):
            self._room.put(None)
        self._lock = threading.Lock()
        self._localise = localiser(executor.program.graph)

    def submit(self, arguments: Mapping[str, Any] | InputError) -> bool:
        """Start one request when there is room; False when there is no sense in going on."""
        self._room.get()
        if self.first_error is not None:
            return False
        i = len(self.results)
        self.results.append(_NOT_DONE)
        try:
            if isinstance(arguments, InputError):
                raise arguments
            values = self._localise(arguments)
        except MlkitError as error:
            self._failed(i, error)
        else:
            self.executor.submit(values, lambda execution: self._finished(i, execution))
        return True

    def drain(self) -> Iterator[None]:
        """Wait for what is in flight; yields each time there is something to show."""
        for _ in range(self._size):
            if self.first_error is not None:
                return
            self._room.get()
            yield

    def _finished(self, i: int, execution: Execution) -> None:
        if execution.error is None:
            self._record(i, execution.output)
            return
        if self.keep:
            _forget_values(execution.error)
        else:
            execution.to_run()  # hangs the values so far on the error
        self._failed(i, execution.error)

    def _failed(self, i: int, error: BaseException) -> None:
        if not self.keep:
            error.add_note(f"It was input {i} of the map (counted from 0).")
            self.first_error = self.first_error or error
        self._record(i, error)

    def _record(self, i: int, result: Any) -> None:
        with self._lock:
            self.results[i] = result
            self.done += 1
        self._room.put(None)


def _forget_values(error: BaseException) -> None:
    """Let go of the variables that the tracebacks of a step's failure keep, and keep their lines.

    Coroutines and generators are left alone, but for the step itself, which has ended: another one
    that the exception came through may be waiting (a client's reader), and clearing would end it.
    """
    cause, seen = error.__cause__, {id(error)}
    if cause is not None and cause.__traceback__ is not None:
        _clear(cause.__traceback__.tb_frame)
        _clear_functions(cause.__traceback__.tb_frame.f_back)
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        for frame, _ in traceback.walk_tb(cause.__traceback__):
            if not frame.f_code.co_flags & _WAITS:
                _clear(frame)
        cause = cause.__cause__ or cause.__context__


_WAITS = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


def _clear_functions(frame: FrameType | None) -> None:
    """Clear the frames of the functions, ours, that called the step and have returned."""
    while frame is not None and not frame.f_code.co_flags & _WAITS and _clear(frame):
        frame = frame.f_back


def _clear(frame: FrameType) -> bool:
    try:
        frame.clear()
    except RuntimeError:  # it still runs
        return False
    return True


@contextmanager
def _bar(name: str, total: int | None, shown: bool) -> Iterator[Callable[[int], None]]:
    """A function that shows how many are done."""
    if not shown:
        yield lambda done: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, desc=name, unit=" inputs") as bar:

        def show(done: int) -> None:
            bar.update(done - bar.n)

        yield show


def frame_of(inputs: Any, results: Sequence[Any], name: str) -> Any:
    """Results as a DataFrame with the inputs' index: a column for each field, and ``error``.

    Results that have no fields are one column, named like the pipeline. ``error`` is there where
    something failed.
    """
    import pandas as pd

    records = [{} if isinstance(r, Exception) else _record(r, name) for r in results]
    frame = pd.DataFrame.from_records(records, index=inputs.index)
    errors = [str(r) if isinstance(r, Exception) else None for r in results]
    if any(errors):
        frame["error"] = errors
    return frame


def _record(result: Any, name: str) -> dict[str, Any]:
    from mlkit.define.typing import field_types

    fields = field_types(type(result))
    if fields is not None:
        return {field: getattr(result, field) for field in fields}
    if isinstance(result, dict) and all(isinstance(key, str) for key in result):
        return result
    return {name: result}
