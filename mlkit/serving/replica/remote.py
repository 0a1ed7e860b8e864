"""Calls from the front to stages: pickling, routing, errors."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import traceback
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import cloudpickle

from mlkit.define.graph import Graph
from mlkit.errors import MlkitError, Overloaded, StepError
from mlkit.metrics.context import current_request
from mlkit.plan import RemoteStep
from mlkit.serving.http.observer import HOPS, Hop
from mlkit.serving.http.outcome import cause_of, outcome_of

__all__ = ["Answer", "Fault", "Route", "Router", "fault_of", "pack", "unpack"]


def pack(value: Any) -> bytes:
    """Pickle a value for another replica of the same app.

    Ray's own pickle is a second copy of cloudpickle, for which the classes of notebook cells are
    not the same as those of the bundles.
    """
    try:
        return pickle.dumps(value, protocol=5)
    except (pickle.PicklingError, AttributeError, TypeError):  # of a notebook cell's class
        data: bytes = cloudpickle.dumps(value, protocol=5)
        return data


unpack = pickle.loads
"""Unpickle a value; only replicas of the same app send them, under Ray's authentication token."""


@dataclass(frozen=True)
class Fault:
    """The failure of a step in another process.

    Attributes:
        step: name of the node that failed, if any.
        cause: the exception, or its class, arguments and attributes, pickled; b"" if it cannot be
            pickled.
        message: the exception in one line.
        traceback: formatted traceback.
        status: HTTP status for the error.
    """

    step: str | None
    cause: bytes
    message: str
    traceback: str
    status: int

    def error(self, pipeline: str, segment: str) -> StepError:
        """Return the error as a local step would have raised it."""
        cause = self._cause()
        cause.__cause__ = _RemoteTraceback(self.traceback)
        parts = {
            part: getattr(cause, part, None)
            for part in ("expected", "got", "fix")
            if isinstance(cause, MlkitError)
        }
        error = StepError(self.message, step=self.step or segment, pipeline=pipeline, **parts)
        error.__cause__ = cause
        return error

    def _cause(self) -> BaseException:
        try:
            return _unpacked(self.cause)
        except Exception:
            replacement = MlkitError(self.message)
            replacement.status = self.status
            return replacement


class _RemoteTraceback(Exception):
    """The traceback of another process, printed as the cause (as `multiprocessing` does)."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def fault_of(error: BaseException) -> Fault:
    """Convert an error that ended a segment, for the caller's process."""
    cause = cause_of(error)
    try:
        pickled = pack(_parts(cause))
        _unpacked(pickled)  # some exceptions pickle but do not unpickle
    except Exception:
        pickled = b""
    _, status = outcome_of(error)
    message = str(error.what) if isinstance(error, MlkitError) else _line(error)
    text = "".join(traceback.format_exception(cause))
    return Fault(getattr(error, "step", None), pickled, message, text, status)


def _parts(error: BaseException) -> Any:
    """What to pickle of an exception.

    Python unpickles an exception by calling its class with ``args``, which a constructor with
    parameters of its own does not accept, or makes another message of. Such an exception is
    rebuilt without it.
    """
    kind = type(error)
    if kind.__reduce__ is BaseException.__reduce__ and inspect.isfunction(kind.__init__):
        return kind, error.args, vars(error)
    return error


def _unpacked(data: bytes) -> BaseException:
    value = unpack(data)
    if isinstance(value, BaseException):
        return value
    kind, args, attributes = value
    error: BaseException = kind.__new__(kind, *args)
    error.args = args
    vars(error).update(attributes)
    return error


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


@dataclass(frozen=True)
class Answer:
    """The response to a call of a segment: its values, or its failure; of a stream, its end.

    Attributes:
        spans: for each node its name, when it was ready, began and ended, in seconds since the
            call was received, and its batch size.
        held_s: duration of the call in the stage, in seconds.
    """

    values: tuple[Any, ...] = ()
    fault: Fault | None = None
    spans: tuple[tuple[Any, ...], ...] = ()
    held_s: float = 0.0


@dataclass(frozen=True)
class Route:
    """Address of a stage: Serve application, deployment, and version."""

    application: str
    deployment: str
    version: str


class Router:
    """Calls the segments of a graph in their stages.

    Args:
        pipeline: name of the app, for errors.
        table: route to each stage.
        handle_of: returns the handle of an application's deployment.
    """

    def __init__(
        self, pipeline: str, table: Mapping[str, Route], handle_of: Callable[[str, str], Any]
    ) -> None:
        self.pipeline = pipeline
        self.table = dict(table)
        self._handle_of = handle_of
        self._handles: dict[str, Any] = {}

    def connect(self, graphs: Mapping[str, Graph]) -> None:
        """Route the calls of the graphs' remote steps through this router."""
        for graph in graphs.values():
            for node in graph:
                if isinstance(node.step, RemoteStep):
                    node.step.call = self.stream if node.step.yields else self.call

    async def call(self, step: RemoteStep, inputs: dict[str, Any]) -> Any:
        """Run a segment; cancelling this cancels the call in the stage.

        Raises:
            StepError: one of its steps raised.
            Overloaded: the stage's queue is full, or it has no replica at the moment.
            MlkitError: the stage itself failed.
        """
        response = self._handle(step.stage).remote(
            self.table[step.stage].version, step.segment, pack(inputs), current_request()
        )
        try:
            answer: Answer = unpack(await response)
        except asyncio.CancelledError:
            response.cancel()
            raise
        except Exception as error:
            raise _stage_error(step.stage, error) from error
        return self._values(step, answer)

    async def stream(self, step: RemoteStep, inputs: dict[str, Any]) -> AsyncGenerator[Any, None]:
        """Run a segment that streams; closing this cancels the call in the stage.

        Raises:
            As `call`.
        """
        handle = self._handle(step.stage).options(method_name="stream", stream=True)
        messages = handle.remote(
            self.table[step.stage].version, step.segment, pack(inputs), current_request()
        )
        answer: Answer | None = None
        try:
            while True:
                try:
                    message = unpack(await anext(messages))
                except Exception as error:  # StopAsyncIteration among them: without an answer
                    raise _stage_error(step.stage, error) from error
                if isinstance(message, Answer):
                    answer = message
                    break
                for item in message:
                    yield item
        finally:
            if answer is None:
                messages.cancel()
        self._values(step, answer)

    def _values(self, step: RemoteStep, answer: Answer) -> tuple[Any, ...]:
        hops = HOPS.get()
        if hops is not None:
            hops.append(Hop(step.segment, step.stage, answer.spans, answer.held_s))
        if answer.fault is not None:
            raise answer.fault.error(self.pipeline, step.segment)
        return answer.values

    def _handle(self, stage: str) -> Any:
        handle = self._handles.get(stage)
        if handle is None:
            route = self.table[stage]
            handle = self._handles[stage] = self._handle_of(route.application, route.deployment)
        return handle

    async def reach(self) -> None:
        """Wait until every stage answers, so that no request waits for Serve's router to start."""
        for stage in self.table:
            await self._handle(stage).loaded.remote()


def _stage_error(stage: str, error: Exception) -> MlkitError:
    """The error for a call without an `Answer`: overload, no replica, or a fault of the stage."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "BackPressureError" in kinds:
        return Overloaded("its queue is full", where=f"stage {stage!r}")
    # Ray wraps errors of the replica's own code in RayTaskError; its other errors, and those of
    # gRPC, mean that no replica is available at the moment.
    if "RayTaskError" not in kinds and kinds & {"RayError", "RayServeException", "RpcError"}:
        return Overloaded(
            f"it did not answer: {type(error).__name__}",
            where=f"stage {stage!r}",
            fix="try again in a second",
        )
    return MlkitError(f"it failed: {_line(error)}", where=f"stage {stage!r}")
