"""Running a pipeline here on many inputs, as fast as the machine allows: the offline limit."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from mlkit.define.pipeline import Pipeline
from mlkit.errors import Cancelled, InputError, MlkitError
from mlkit.execute.execution import Execution
from mlkit.execute.executor import Executor
from mlkit.execute.inputs import is_frame, rows
from mlkit.execute.local import localise_arguments
from mlkit.execute.program import compile_graph

__all__ = ["frame_of", "map_inputs", "stream"]

OnError = Literal["raise", "keep"]


def map_inputs(
    pipeline: Pipeline[..., Any],
    inputs: Iterable[Any],
    *,
    on_error: OnError = "raise",
    progress: bool = True,
    workers: int | None = None,
) -> Any:
    """Run a pipeline on many inputs in this process; see `Pipeline.map`."""
    if on_error not in ("raise", "keep"):
        raise InputError("unknown on_error", expected="'raise' or 'keep'", got=repr(on_error))
    graph = pipeline.graph
    arguments = [pipeline.bind(**row) for row in rows(inputs, graph.parameters)]
    with Executor(compile_graph(graph), workers=workers) as executor:
        results = stream(executor, arguments, on_error=on_error, progress=progress)
    return frame_of(inputs, results, graph.name) if is_frame(inputs) else results


def stream(
    executor: Executor,
    arguments: Sequence[Mapping[str, Any]],
    *,
    on_error: OnError,
    progress: bool,
) -> list[Any]:
    """Push requests through an executor, a bounded number at a time; results in order.

    An interrupt ends it early, with `Cancelled` in the place of what was not done.
    """
    from tqdm.auto import tqdm

    going = _Stream(executor, arguments, stop_at_failure=on_error == "raise")
    bar = tqdm(arguments, desc=executor.program.graph.name, unit=" inputs", disable=not progress)
    try:
        for i, _ in enumerate(bar):
            if not going.submit(i):
                break
        going.drain()
    except KeyboardInterrupt:
        print(f"interrupted: {going.done} of {len(arguments)} done")
        return going.results
    finally:
        bar.close()
    if going.first_error is not None:
        raise going.first_error
    return going.results


class _Stream:
    """Requests of one map on their way through an executor."""

    def __init__(
        self, executor: Executor, arguments: Sequence[Mapping[str, Any]], *, stop_at_failure: bool
    ) -> None:
        largest = max((task.max_batch_size for task in executor.program.tasks), default=1)
        self.executor = executor
        self.arguments = arguments
        self.stop_at_failure = stop_at_failure
        self.results: list[Any] = [Cancelled("interrupted before it was done")] * len(arguments)
        self.done = 0
        self.first_error: BaseException | None = None
        # Enough in flight that every worker can have a full batch and the next one fills meanwhile.
        self._size = executor.workers * max(2, 2 * largest)
        self._window = threading.Semaphore(self._size)
        self._lock = threading.Lock()

    def submit(self, i: int) -> bool:
        """Start one request when there is room; False when there is no sense in going on."""
        self._window.acquire()
        if self.first_error is not None:
            return False
        try:
            values = localise_arguments(self.executor.program.graph, self.arguments[i])
        except (MlkitError, OSError) as error:
            self._record(i, error, failed=True)
        else:
            self.executor.submit(values, lambda execution: self._finished(i, execution))
        return True

    def drain(self) -> None:
        """Wait for what is in flight."""
        for _ in range(self._size):
            if self.first_error is not None:
                return
            self._window.acquire()

    def _finished(self, i: int, execution: Execution) -> None:
        if execution.error is None:
            self._record(i, execution.output, failed=False)
        else:
            execution.to_run()  # hangs the values so far on the error
            self._record(i, execution.error, failed=True)

    def _record(self, i: int, result: Any, *, failed: bool) -> None:
        with self._lock:
            self.results[i] = result
            self.done += 1
            if failed and self.stop_at_failure and self.first_error is None:
                self.first_error = result
        self._window.release()


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
