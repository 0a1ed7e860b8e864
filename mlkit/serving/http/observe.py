"""From an execution to a trace, and from a process to whoever gathers what it counted."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias

from starlette.responses import Response

from mlkit.execute import Executor
from mlkit.execute.execution import Execution
from mlkit.metrics import Recorder, Span, Trace
from mlkit.metrics.trace import as_header
from mlkit.plan import RemoteStep
from mlkit.serving.http.outcome import outcome_of

__all__ = [
    "HOPS",
    "Headers",
    "Hop",
    "Observer",
    "gauges_of",
    "length_of",
]

REQUEST_ID = "X-Request-Id"

Headers: TypeAlias = Mapping[bytes, bytes]
"""A request's, by their names in lower case; Starlette's own search the whole list each time."""


class Hop(NamedTuple):
    """What a stage said of one call: its steps, and how long it held the call, in seconds."""

    segment: str
    stage: str
    spans: tuple[tuple[Any, ...], ...]
    held_s: float


HOPS: ContextVar[list[Hop] | None] = ContextVar("mlkit-hops", default=None)
"""Where the calls of a request to other stages are noted."""


def spans_of(execution: Execution, origin: float) -> list[Span]:
    """The steps of an execution that ran, in seconds since a moment on its clock."""
    spans = []
    ready_at = execution.ready_at
    for task, found in zip(execution.program.tasks, execution.spans, strict=True):
        if found is None:
            continue
        start, finish, size = found
        step = task.step
        remote = isinstance(step, RemoteStep)
        spans.append(
            Span(
                task.name,
                ready_at[task.index] - origin,
                start - origin,
                finish - origin,
                size if task.max_batch_size else 0,
                step.stage if isinstance(step, RemoteStep) else "",
                remote,
            )
        )
    return spans


def trace_of(
    execution: Execution | None, came: float, status: int, id: str, hops: Iterable[Hop] = ()
) -> tuple[Trace, list[Span]]:
    """What became of a request that came at a moment of `perf_counter` and is answered now.

    Returns:
        the trace, and those of its spans that ran in this process.
    """
    total = perf_counter() - came
    mine = spans_of(execution, came) if execution is not None else []
    began = execution.began - came if execution is not None else total
    ended = (execution.ended or execution.began) - came if execution is not None else total
    spans = list(mine)
    for hop in hops:
        outer = next((span for span in mine if span.step == hop.segment), None)
        if outer is None:  # given up before it came back
            continue
        # Clocks of processes are not compared: the way there and the way back are taken for equal.
        shift = outer.start_s + max(0.0, outer.took_s - hop.held_s) / 2
        for name, ready, start, finish, batch in hop.spans:
            spans.append(
                Span(
                    name,
                    ready + shift,
                    start + shift,
                    finish + shift,
                    batch,
                    hop.stage,
                    within=hop.segment,
                )
            )
    trace = Trace(id, time.time() - total, total, status, began, ended, tuple(spans), os.getpid())
    return trace, [span for span in mine if not span.hop]


class Observer:
    """Counts the requests of one app in this process, and tells callers where their time went."""

    def __init__(self, recorder: Recorder | None) -> None:
        self.recorder = recorder

    def answered(
        self,
        execution: Execution | None,
        came: float,
        response: Response | None,
        headers: Headers,
    ) -> None:
        """Count a request, and put its times into the answer's ``Server-Timing``.

        Args:
            execution: of its steps; None where none could begin.
            came: when it came, on `perf_counter`'s clock.
            response: the answer; None for a result that is sent in another way.
            headers: the request's: the length of its body, and its id where it has one.
        """
        if self.recorder is None:
            return
        id = given_id(headers)
        status = 200 if response is None else response.status_code
        trace, mine = trace_of(execution, came, status, id or _new_id(), HOPS.get() or ())
        sent = 0
        if response is not None:
            sent = len(response.body)
            response.headers["Server-Timing"] = as_header(
                trace.phases_s, trace.total_s, trace.spans
            )
            if not id:  # one that came with the request Serve puts into the answer itself
                response.headers[REQUEST_ID] = trace.id
        self.recorder.request(trace, length_of(headers), sent)
        if execution is not None:
            self._steps(self.recorder, execution, mine, trace.id)

    def called(self, execution: Execution, came: float) -> list[Span]:
        """Count a call of a stage, and return the steps that ran in it."""
        spans = spans_of(execution, came)
        if self.recorder is not None:
            _, status = outcome_of(execution.error)
            self.recorder.called(perf_counter() - came, status)
            self._steps(self.recorder, execution, spans, "")
        return spans

    def _steps(self, recorder: Recorder, execution: Execution, spans: list[Span], id: str) -> None:
        if recorder.peeking:
            peek_into(recorder, execution, id)
        if spans:
            failed = execution.failed
            recorder.steps(spans, failed.name if failed is not None else None)

    def recent(self) -> dict[str, float]:
        """How it goes here, for the policy that scales it; nothing where nothing is counted."""
        return self.recorder.recent() if self.recorder is not None else {}

    def close(self) -> None:
        """Stop counting; see `Recorder.close`."""
        if self.recorder is not None:
            self.recorder.close()


def _new_id() -> str:
    return f"{random.getrandbits(64):016x}"


def given_id(headers: Headers) -> str:
    """The id that a caller gave a request; "" for none, or one that could be anything."""
    id = headers.get(b"x-request-id", b"").decode("latin-1")
    return id if len(id) <= 64 and id.isascii() and id.replace("-", "").isalnum() else ""


def length_of(headers: Headers) -> int:
    """Bytes of a request's body, as far as its head says."""
    length = headers.get(b"content-length", b"")
    return int(length) if length.isdigit() else 0


def gauges_of(executors: Iterable[Executor]) -> dict[str, Any]:
    """What is going on in executors at the moment."""
    queued: Counter[str] = Counter()
    in_flight = 0
    for executor in executors:
        queued.update(executor.queued())
        in_flight += executor.in_flight
    return {"in_flight": in_flight, "queued": {n: count for n, count in queued.items() if count}}


def peek_into(recorder: Recorder, execution: Execution, id: str) -> None:
    """Keep what went into the steps that are looked into, and what came out of them."""
    for task in execution.program.tasks:
        if isinstance(task.step, RemoteStep):
            continue  # its stage sees the steps themselves
        if task.name in recorder.peeking and task.name in execution.results:
            found = execution.arguments, execution.results
            inputs = {name: get(*found) for name, get in task.inputs}
            recorder.peeked(task.name, id, inputs, execution.results[task.name])
