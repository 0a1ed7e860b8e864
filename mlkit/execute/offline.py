"""Offline execution: a pipeline on many inputs in this process, for throughput."""

from __future__ import annotations

import inspect
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from queue import SimpleQueue
from types import FrameType
from typing import Any, Literal

from mlkit.define.fresh import fresh
from mlkit.define.graph import Graph
from mlkit.define.typing import field_types
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

    A list or DataFrame is checked before anything runs. Any other iterable is read lazily, a
    bounded number of inputs ahead; it may be endless, until an interrupt ends the call.
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
    """Run requests on an executor, with a bounded number in flight; return the results in order.

    An interrupt ends it early, with `Cancelled` for unfinished requests, and closes the executor
    without waiting for running functions.

    Args:
        executor: an open executor.
        arguments: by name, for each request; an error for an input that does not match.
        total: number of requests, if known.
        on_error: "raise" stops at the first failure. "keep" returns errors as results; they keep
            tracebacks without local variables, so that failures do not hold memory.
        progress: whether to show a progress bar.

    Raises:
        InputError: unknown ``on_error``, or arguments that do not match the parameters.
        StepError: the first failure.
    """
    if on_error not in ("raise", "keep"):
        raise InputError("unknown on_error", expected="'raise' or 'keep'", got=repr(on_error))
    pending = _Stream(executor, keep=on_error == "keep")
    try:
        with _bar(executor.program.graph.name, total, progress) as show:
            for values in arguments:
                if not pending.submit(values):
                    break
                show(pending.done)
            for _ in pending.drain():
                show(pending.done)
    except KeyboardInterrupt:
        done = pending.done
        executor.close(wait=False)
        print(f"interrupted: {done}{'' if total is None else f' of {total}'} done")  # noqa: T201
        missing = (total or 0) - len(pending.results)
        return pending.results + [_NOT_DONE] * missing
    if pending.first_error is not None:
        raise pending.first_error
    return pending.results


_NOT_DONE = Cancelled("interrupted before it finished")


class _Stream:
    """The requests of one map: slots in flight, and results."""

    def __init__(self, executor: Executor, *, keep: bool) -> None:
        largest = max((task.max_batch_size for task in executor.program.tasks), default=1)
        self.executor = executor
        self.keep = keep
        self.results: list[Any] = []
        self.done = 0
        self.first_error: BaseException | None = None
        # Enough in flight for every worker to run a full batch while the next one fills.
        self._size = executor.workers * max(2, 2 * largest)
        # Unlike a semaphore, a queue survives an interrupt.
        self._slots: SimpleQueue[None] = SimpleQueue()
        for _ in range(self._size):
            self._slots.put(None)
        self._lock = threading.Lock()
        self._localise = localiser(executor.program.graph)

    def submit(self, arguments: Mapping[str, Any] | InputError) -> bool:
        """Start a request as soon as a slot is free; False after a failure that stops the map."""
        self._slots.get()
        if self.first_error is not None:
            return False
        i = len(self.results)
        self.results.append(_NOT_DONE)
        try:
            if isinstance(arguments, InputError):
                raise arguments
            local = self._localise(arguments)
            values = {name: fresh(value) for name, value in local.items()}
        except MlkitError as error:
            self._failed(i, error)
        else:
            self.executor.submit(values, lambda execution: self._finished(i, execution))
        return True

    def drain(self) -> Iterator[None]:
        """Wait for the requests in flight; yield after each."""
        for _ in range(self._size):
            if self.first_error is not None:
                return
            self._slots.get()
            yield

    def _finished(self, i: int, execution: Execution) -> None:
        if execution.error is None:
            self._record(i, execution.output)
            return
        if self.keep:
            _forget_values(execution.error)
        else:
            execution.to_run()  # attaches the computed values to the error
        self._failed(i, execution.error)

    def _failed(self, i: int, error: BaseException) -> None:
        if not self.keep:
            error.add_note(f"Raised for input {i} of the map (counted from 0).")
            self.first_error = self.first_error or error
        self._record(i, error)

    def _record(self, i: int, result: Any) -> None:
        with self._lock:
            self.results[i] = result
            self.done += 1
        self._slots.put(None)


def _forget_values(error: BaseException) -> None:
    """Clear the local variables in the tracebacks of a step's failure, but keep their lines.

    Coroutines and generators are skipped, except for the step itself, which has ended: another one
    in the traceback may be suspended (a client's reader), and clearing its frame would end it.
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
    """Clear the frames of mlkit's functions that called the step and have returned."""
    while frame is not None and not frame.f_code.co_flags & _WAITS and _clear(frame):
        frame = frame.f_back


def _clear(frame: FrameType) -> bool:
    try:
        frame.clear()
    except RuntimeError:  # it is still running
        return False
    return True


@contextmanager
def _bar(name: str, total: int | None, shown: bool) -> Iterator[Callable[[int], object]]:
    """Progress bar: yield a function that takes the number of finished requests."""
    if not shown:
        yield lambda done: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, desc=name, unit=" inputs") as bar:
        yield lambda done: bar.update(done - bar.n)


def frame_of(inputs: Any, results: Sequence[Any], name: str) -> Any:
    """Return results as a DataFrame with the inputs' index: a column per field, and ``error``.

    Results without fields go in one column, named after the pipeline. The column ``error`` exists
    only if an input failed.
    """
    import pandas as pd

    records = [{} if isinstance(r, Exception) else _record(r, name) for r in results]
    frame = pd.DataFrame.from_records(records, index=inputs.index)
    errors = [str(r) if isinstance(r, Exception) else None for r in results]
    if any(errors):
        frame["error"] = errors
    return frame


def _record(result: Any, name: str) -> dict[str, Any]:
    fields = field_types(type(result))
    if fields is not None:
        return {field: getattr(result, field) for field in fields}
    if isinstance(result, dict) and all(isinstance(key, str) for key in result):
        return result
    return {name: result}
