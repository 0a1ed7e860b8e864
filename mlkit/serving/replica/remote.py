"""A call from one stage to another: what goes there and what comes back."""

from __future__ import annotations

import asyncio
import pickle
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import cloudpickle

from mlkit.define.graph import Graph
from mlkit.errors import MlkitError, Overloaded, StepError
from mlkit.plan import RemoteStep
from mlkit.serving.http.observe import HOPS, Hop
from mlkit.serving.http.outcome import outcome_of

__all__ = ["Answer", "Fault", "Route", "Router", "fault_of", "pack", "unpack"]


def pack(value: Any) -> bytes:
    """A value for another replica of the same app.

    Not by Ray's own pickle: that is a second copy of cloudpickle, which takes a class of a cell for
    another one than the bundles' does, and its instances for strangers.
    """
    try:
        return pickle.dumps(value, protocol=5)
    except (pickle.PicklingError, AttributeError, TypeError):  # of a class or function of a cell
        made: bytes = cloudpickle.dumps(value, protocol=5)
        return made


unpack = pickle.loads
"""The value again; from replicas of the same app alone, which Ray's token keeps to themselves."""


@dataclass(frozen=True)
class Fault:
    """How a step failed in another process.

    Attributes:
        step: the node that failed; None where it was none.
        cause: what it raised, pickled; b"" where it cannot be.
        words: the exception in one line.
        traceback: as Python prints it.
        status: the HTTP status that it stands for.
    """

    step: str | None
    cause: bytes
    words: str
    traceback: str
    status: int

    def error(self, pipeline: str, segment: str) -> StepError:
        """The error as it would have been raised here."""
        cause = self._cause()
        cause.__cause__ = _Elsewhere(self.traceback)
        parts = {
            part: getattr(cause, part, None)
            for part in ("expected", "got", "fix")
            if isinstance(cause, MlkitError)
        }
        error = StepError(self.words, step=self.step or segment, pipeline=pipeline, **parts)
        error.__cause__ = cause
        return error

    def _cause(self) -> BaseException:
        try:
            cause = unpack(self.cause)
        except Exception:
            cause = None
        if isinstance(cause, BaseException):
            return cause
        made = MlkitError(self.words)
        made.status = self.status
        return made


class _Elsewhere(Exception):
    """The traceback of another process, printed as the cause (as `multiprocessing` does)."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"


def fault_of(error: BaseException) -> Fault:
    """What can be sent of an error that ended a segment."""
    cause = error.__cause__ if isinstance(error, StepError) and error.__cause__ else error
    try:
        pickled = pack(cause)
        unpack(pickled)  # some exceptions pickle and cannot be made again
    except Exception:
        pickled = b""
    _, status = outcome_of(error)
    words = str(error.what) if isinstance(error, MlkitError) else _line(error)
    text = "".join(traceback.format_exception(cause))
    return Fault(getattr(error, "step", None), pickled, words, text, status)


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


@dataclass(frozen=True)
class Answer:
    """What a segment gave: its values, or how it failed.

    Attributes:
        spans: of each node its name, then when it was ready, began and ended, in seconds since the
            call came in, and the size of its batch.
        held_s: seconds from the call's coming in to this.
    """

    values: tuple[Any, ...] = ()
    fault: Fault | None = None
    spans: tuple[tuple[Any, ...], ...] = ()
    held_s: float = 0.0


@dataclass(frozen=True)
class Route:
    """Where a stage is: the Serve application, its deployment, and the version to ask for."""

    application: str
    deployment: str
    version: str


class Router:
    """Calls the segments of a graph where its table says they are.

    Args:
        pipeline: name of the app, for errors.
        table: where each stage is.
        handle_of: returns what calls a deployment of an application.
    """

    def __init__(
        self, pipeline: str, table: Mapping[str, Route], handle_of: Callable[[str, str], Any]
    ) -> None:
        self.pipeline = pipeline
        self.table = dict(table)
        self._handle_of = handle_of
        self._handles: dict[str, Any] = {}

    def connect(self, graphs: Mapping[str, Graph]) -> None:
        """Have the graphs' remote steps call through this."""
        for graph in graphs.values():
            for node in graph:
                if isinstance(node.step, RemoteStep):
                    node.step.call = self.call

    async def call(self, step: RemoteStep, inputs: dict[str, Any]) -> Any:
        """Run one segment; giving this up gives it up there.

        Raises:
            StepError: one of its steps raised.
            Overloaded: the stage is full, or has no replica at the moment.
        MlkitError: the stage itself failed.
        """
        response = self._handle(step.stage).remote(
            self.table[step.stage].version, step.segment, pack(inputs)
        )
        try:
            answer: Answer = unpack(await response)
        except asyncio.CancelledError:
            response.cancel()
            raise
        except Exception as error:
            raise _stage_error(step.stage, error) from error
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
        """Make sure that every stage answers, so that no request has to wait for its router."""
        for stage in self.table:
            await self._handle(stage).loaded.remote()


def _stage_error(stage: str, error: Exception) -> MlkitError:
    """The error for a call that brought no `Answer`: overload, absence, or a fault of the stage."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "BackPressureError" in kinds:
        return Overloaded("too many requests are queued for it", where=f"stage {stage!r}")
    # Ray raises what the replica's own code raised as a RayTaskError of that type; its other
    # errors, and those of gRPC, mean that there is no replica to ask at the moment.
    if "RayTaskError" not in kinds and kinds & {"RayError", "RayServeException", "RpcError"}:
        return Overloaded(
            f"it did not answer: {type(error).__name__}",
            where=f"stage {stage!r}",
            fix="try again in a second",
        )
    return MlkitError(f"it failed: {_line(error)}", where=f"stage {stage!r}")
