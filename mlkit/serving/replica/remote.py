"""Calls from the front to stages: pickling, routing, errors."""

from __future__ import annotations

import asyncio
import inspect
import io
import pickle
import traceback
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

import cloudpickle

from mlkit.define.classes import parametrization
from mlkit.define.graph import Graph
from mlkit.errors import MlkitError, Overloaded, StepError
from mlkit.metrics.context import current_request
from mlkit.plan import RemoteStep
from mlkit.serving.http.observer import HOPS, Hop
from mlkit.serving.http.outcome import cause_of, outcome_of
from mlkit.serving.http.terms import TERMS, Terms
from mlkit.serving.replica.affinity import model_key
from mlkit.serving.retries import Retries, RetryBudget

__all__ = ["Answer", "Fault", "Route", "Router", "fault_of", "pack", "unpack"]


def pack(value: Any) -> bytes:
    """Pickle a value for another replica of the same app.

    Ray's own pickle is a second copy of cloudpickle, for which the classes of notebook cells are
    not the same as those of the bundles.
    """
    try:
        return pickle.dumps(value, protocol=5)
    except (pickle.PicklingError, AttributeError, TypeError):  # of a notebook cell's class
        buffer = io.BytesIO()
        _Pickler(buffer, protocol=5).dump(value)
        return buffer.getvalue()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def reducer_override(self, obj: Any) -> Any:
        return parametrization(obj) or super().reducer_override(obj)


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
        sleep: waits before a retry, for a number of seconds.
    """

    def __init__(
        self,
        pipeline: str,
        table: Mapping[str, Route],
        handle_of: Callable[[str, str], Any],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.pipeline = pipeline
        self.table = dict(table)
        self._handle_of = handle_of
        self._handles: dict[str, Any] = {}
        self._sleep = sleep
        self._budgets: dict[str, RetryBudget] = defaultdict(RetryBudget)
        self._idempotent: dict[RemoteStep, bool] = {}

    def connect(self, graphs: Mapping[str, Graph]) -> None:
        """Route the calls of the graphs' remote steps through this router."""
        for graph in graphs.values():
            for node in graph:
                if isinstance(node.step, RemoteStep):
                    self._idempotent[node.step] = graph.idempotent
                    node.step.call = self.stream if node.step.yields else self.call

    async def call(self, step: RemoteStep, inputs: dict[str, Any]) -> Any:
        """Run a segment; cancelling this cancels the call in the stage.

        If the replica is lost before it answers, the call goes to another one; see `Retries`.

        Raises:
            StepError: one of its steps raised.
            Overloaded: the stage's queue is full, or it has no replica at the moment.
            MlkitError: the stage itself failed.
        """
        handle = _for_model(self._handle(step.stage), step, inputs)
        packed, terms = pack(inputs), TERMS.get()
        retries = Retries(self._budgets[step.stage], idempotent=self._idempotent.get(step, False))
        while True:
            response = handle.remote(*self._call(step, packed, terms))
            try:
                answer: Answer = unpack(await response)
            except asyncio.CancelledError:
                response.cancel()
                raise
            except Exception as error:
                left_s = inf if terms is None else terms.left_s
                wait_s = retries.wait_s(left_s) if _lost(error) else None
                if wait_s is None:
                    raise _stage_error(step.stage, error) from error
                await self._sleep(wait_s)
            else:
                return self._values(step, answer)

    def _call(self, step: RemoteStep, packed: bytes, terms: Terms | None) -> tuple[Any, ...]:
        """Arguments of a call; with the remaining time instead of a deadline: clocks differ."""
        call = self.table[step.stage].version, step.segment, packed, current_request()
        if terms is None:  # a replay, which is no request
            return call
        return *call, terms.left_s, int(terms.priority)

    async def stream(self, step: RemoteStep, inputs: dict[str, Any]) -> AsyncGenerator[Any, None]:
        """Run a segment that streams; closing this cancels the call in the stage.

        Raises:
            As `call`.
        """
        handle = _for_model(self._handle(step.stage), step, inputs)
        handle = handle.options(method_name="stream", stream=True)
        messages = handle.remote(*self._call(step, pack(inputs), TERMS.get()))
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


def _for_model(handle: Any, step: RemoteStep, inputs: Mapping[str, Any]) -> Any:
    """Return the handle for a call that uses the model which its inputs name, if they name one."""
    id = inputs.get(step.model) if step.model is not None else None
    if not isinstance(id, str):  # `each` takes a list of them
        return handle
    return handle.options(multiplexed_model_id=model_key(id))


def _kinds(error: Exception) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


_LOST = {"NodeDiedError", "RayActorError", "ReplicaUnavailableError", "WorkerCrashedError"}


def _lost(error: Exception) -> bool:
    """Whether a call got no answer because its replica died, or the connection to it was lost."""
    kinds = _kinds(error)
    if "RayTaskError" in kinds:
        return False
    if "RpcError" in kinds:  # of gRPC
        code = getattr(error, "code", None)
        return callable(code) and getattr(code(), "name", "") == "UNAVAILABLE"
    return bool(kinds & _LOST)


def _stage_error(stage: str, error: Exception) -> MlkitError:
    """The error for a call without an `Answer`: overload, no replica, or a fault of the stage."""
    kinds = _kinds(error)
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
