"""Inputs of failed and of slow requests, kept in the session's folder to reproduce them.

They are pickled, by the replica that had them, into files that only this user can read; the
notebook of the same session is the only reader. Number, size and time spent are bounded.
"""

from __future__ import annotations

import io
import os
import pickle
import time
from bisect import insort
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle

from mlkit.define.graph import Argument, Result, sources
from mlkit.execute.execution import Execution
from mlkit.metrics import Recorder, Trace
from mlkit.serving.http.observer import LAST
from mlkit.serving.http.problem import Failure, Failures

__all__ = ["Inputs", "InputsOf", "Kept", "KeptFailures", "KeptRecorder", "read_inputs"]

MAX_BYTES = 4 * 2**20
"""Maximum size of the inputs of one request; larger ones are not kept."""
KEPT_FAILED, KEPT_SLOW = 20, 10
SLOW_FOR_S = 900.0
"""A slow request is kept for as long as `App.slowest` shows it."""
REST = 50
"""Writing takes at most one part in so many of the time: after it, nothing is kept for a while."""


@dataclass(frozen=True)
class InputsOf:
    """The inputs of a request.

    Attributes:
        arguments: of the pipeline; for a failure, those that the step takes.
        results: of the nodes that the failed one takes values from.
        node: name of the node that failed, or of the segment with it; "" if none has.
        item: position of the failed item, of a step that runs over a list.
    """

    arguments: dict[str, Any]
    results: dict[str, Any] = field(default_factory=dict)
    node: str = ""
    item: int | None = None


class _TooLarge(Exception):
    pass


class _Bounded(io.BytesIO):
    """A file that refuses to grow beyond `MAX_BYTES`, before all is pickled."""

    def write(self, data: Any, /) -> int:
        if self.tell() + memoryview(data).nbytes > MAX_BYTES:
            raise _TooLarge
        return super().write(data)


def _packed(inputs: InputsOf) -> bytes | None:
    """The inputs, pickled; None if they are too large, or cannot be."""
    for dump in (pickle.dump, cloudpickle.dump):  # the latter for classes of notebook cells
        file = _Bounded()
        try:
            dump(inputs, file, protocol=5)
        except _TooLarge:
            return None
        except Exception:
            continue
        return file.getvalue()
    return None


class Inputs:
    """Files of inputs, of the last requests of one kind.

    Args:
        prefix: path of the files, without their names; None to keep nothing.
        most: maximum number of files.
        now: clock in seconds.
    """

    def __init__(
        self, prefix: Path | None, most: int, now: Callable[[], float] = time.perf_counter
    ) -> None:
        self.enabled = True
        self._prefix = prefix
        self._most = most
        self._now = now
        self._names: deque[str] = deque()
        self._rests_until = float("-inf")

    def keep(self, name: str, inputs: InputsOf, instead_of: str = "") -> bool:
        """Write the inputs of a request; True if written.

        Args:
            name: id of the request.
            inputs: its inputs.
            instead_of: the request whose inputs are deleted for it, by default the oldest if there
                are too many.
        """
        began = self._now()
        if self._prefix is None or not self.enabled or began < self._rests_until:
            return False
        data = _packed(inputs)
        if data is not None:
            if instead_of:
                self.drop(instead_of)
            while len(self._names) >= self._most:
                self.drop(self._names[0])
            try:
                path = self._path(name)
                path.touch(mode=0o600)
                path.write_bytes(data)
                self._names.append(name)
            except OSError:  # a full disk must not fail the request
                data = None
        ended = self._now()
        self._rests_until = ended + REST * (ended - began)
        return data is not None

    def drop(self, name: str) -> None:
        """Delete the inputs of a request."""
        with suppress(ValueError):
            self._names.remove(name)
        with suppress(OSError):
            self._path(name).unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete all."""
        for name in list(self._names):
            self.drop(name)

    def _path(self, name: str) -> Path:
        assert self._prefix is not None
        return self._prefix.with_name(f"{self._prefix.name}.{name}.inputs")


class Kept:
    """The inputs that a replica keeps.

    Args:
        folder: the session's folder of output; None to keep nothing.
        app: name of the app.
    """

    def __init__(self, folder: Path | None, app: str) -> None:
        prefix = None if folder is None else folder / f"{app}.{os.getpid()}"
        if folder is not None:
            _sweep(folder, app)
        self.failed = Inputs(prefix, KEPT_FAILED)
        self.slow = Inputs(prefix, KEPT_SLOW)
        self._slowest: list[tuple[float, float, str]] = []
        self._expires_at = float("inf")

    def enable(self, enabled: bool) -> None:
        """Enable it, or disable it and delete the kept inputs."""
        for inputs in (self.failed, self.slow):
            inputs.enabled = enabled
            if not enabled:
                inputs.clear()
        if not enabled:
            self._slowest = []

    def add_failed(self, failure: Failure) -> None:
        """Keep the inputs of the step that has just failed in this context."""
        execution = LAST.get()
        if execution is not None and execution.failed is not None:
            self.failed.keep(failure.id, _of_failed(execution))

    def add_slow(self, trace: Trace) -> None:
        """Keep the arguments of the request that has just ended, if it is among the slowest."""
        execution = LAST.get()
        if execution is None or not trace.id:
            return
        slowest, first = self._slowest, ""
        if len(slowest) >= KEPT_SLOW:
            if trace.at >= self._expires_at:
                first = min(slowest, key=lambda entry: entry[1])[2]
            elif trace.total_s <= slowest[0][0]:
                return
            else:
                first = slowest[0][2]
        if self.slow.keep(trace.id, InputsOf(dict(execution.arguments)), instead_of=first):
            self._slowest = [entry for entry in slowest if entry[2] != first]
            insort(self._slowest, (trace.total_s, trace.at, trace.id))
            self._expires_at = min(at for _, at, _ in self._slowest) + SLOW_FOR_S


def _sweep(folder: Path, app: str) -> None:
    """Delete what replicas that have ended left, but for the last of it."""
    left = []
    for path in folder.glob(f"{app}.*.inputs"):
        with suppress(OSError):  # another replica is doing the same
            if not Path("/proc", path.name.split(".")[1]).exists():
                left.append((path.stat().st_mtime, path))
    for _, path in sorted(left)[: -(KEPT_FAILED + KEPT_SLOW)]:
        path.unlink(missing_ok=True)


def _of_failed(execution: Execution) -> InputsOf:
    task = execution.failed
    assert task is not None
    node = execution.program.graph[task.name]
    taken = [s for source in node.inputs.values() for s in sources(source, (Argument, Result))]
    arguments = {s.name: execution.arguments[s.name] for s in taken if isinstance(s, Argument)}
    results = {s.node: execution.results.get(s.node) for s in taken if isinstance(s, Result)}
    item = execution.failed_item if task.each is not None else None
    return InputsOf(arguments, results, task.name, item)


class KeptFailures(Failures):
    """Failures whose inputs are kept."""

    def __init__(self, keep: Callable[[dict[str, Any]], None], kept: Kept) -> None:
        super().__init__(keep)
        self._kept = kept

    def record(self, error: BaseException) -> Failure:
        """Record an error; see `Failures.record`."""
        recorded = self.last[-1] if self.last else None
        failure = super().record(error)
        if self.last and self.last[-1] is failure and failure is not recorded:
            self._kept.add_failed(failure)
        return failure


class KeptRecorder(Recorder):
    """Metrics of a replica that keeps the arguments of the slowest requests."""

    kept: Kept | None = None

    def request(self, trace: Trace, *args: Any, **kwargs: Any) -> None:
        """Record a request; see `Recorder.request`."""
        super().request(trace, *args, **kwargs)
        if self.kept is not None:
            self.kept.add_slow(trace)


def read_inputs(folder: Path, app: str, name: str) -> InputsOf | None:
    """Return the kept inputs by the id of a failure or request, or None."""
    if not name.isalnum() and not name.replace("-", "").isalnum():
        return None  # it comes from a client, and is part of a path
    for path in folder.glob(f"{app}.*.{name}.inputs"):
        try:
            inputs = pickle.loads(path.read_bytes())
        except (OSError, EOFError, pickle.UnpicklingError):  # being written, or dropped
            continue
        assert isinstance(inputs, InputsOf)
        return inputs
    return None
