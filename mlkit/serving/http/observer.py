"""Traces and metrics of requests."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias

from starlette.responses import Response

from mlkit.execute.execution import Execution
from mlkit.metrics import Recorder, Span, Trace
from mlkit.metrics.context import current_request, new_id, request_id
from mlkit.metrics.otlp import Exporter
from mlkit.metrics.trace import as_header
from mlkit.plan import RemoteStep
from mlkit.serving.http.outcome import outcome_of

__all__ = ["HOPS", "LAST", "REQUEST_ID", "Headers", "Hop", "Observer", "length_of", "number_of"]

REQUEST_ID = "X-Request-Id"

Headers: TypeAlias = Mapping[bytes, bytes]
"""Headers of a request by lower-case name; Starlette's searches the whole list at each access."""


class Hop(NamedTuple):
    """A call to a stage: the spans of its steps, and its duration there in seconds."""

    segment: str
    stage: str
    spans: tuple[tuple[Any, ...], ...]
    held_s: float


HOPS: ContextVar[list[Hop] | None] = ContextVar("mlkit-hops", default=None)
"""The calls of the current request to stages."""

LAST: ContextVar[Execution | None] = ContextVar("mlkit-last", default=None)
"""The execution of the current request, once it has ended."""


def spans_of(execution: Execution, origin: float) -> list[Span]:
    """Spans of the steps that ran, in seconds since ``origin`` on the execution's clock."""
    spans = []
    ready_at = execution.ready_at
    for task, span in zip(execution.program.tasks, execution.spans, strict=True):
        if span is None:
            continue
        start, finish, size = span
        ready_s = ready_at[task.index] - origin
        batch = size if task.max_batch_size else 0
        hop = isinstance(task.step, RemoteStep)
        stage = task.step.stage if isinstance(task.step, RemoteStep) else ""
        streamed = task.streams and execution.item_times
        first_item_s = execution.item_times[0] - origin if streamed else None
        times = ready_s, start - origin, finish - origin
        spans.append(Span(task.name, *times, batch, stage, hop, first_item_s=first_item_s))
    return spans


def trace_of(
    execution: Execution | None,
    received_at: float,
    status: int,
    id: str,
    hops: Iterable[Hop] = (),
    version: str = "",
    trace_id: str = "",
) -> tuple[Trace, list[Span]]:
    """Return the trace of a request that ends now, and those of its spans in this process."""
    total = perf_counter() - received_at
    local = spans_of(execution, received_at) if execution is not None else []
    began = execution.began - received_at if execution is not None else total
    ended = (execution.ended or execution.began) - received_at if execution is not None else total
    spans = list(local)
    for hop in hops:
        outer = next((span for span in local if span.step == hop.segment), None)
        if outer is None:  # cancelled before it returned
            continue
        # The clocks of processes differ: assume that the call and its response take equally long.
        shift = outer.start_s + max(0.0, outer.took_s - hop.held_s) / 2
        for name, *times, batch in hop.spans:
            ready, start, finish = (at + shift for at in times)
            spans.append(Span(name, ready, start, finish, batch, hop.stage, within=hop.segment))
    at, pid = time.time() - total, os.getpid()
    trace = Trace(id, at, total, status, began, ended, tuple(spans), pid, version, trace_id)
    return trace, [span for span in local if not span.hop]


class Observer:
    """Records the requests of an app in this process; does nothing without a recorder.

    Args:
        recorder: takes the records.
        version: the version of the app, for traces.
        export: exports traces.
    """

    def __init__(
        self, recorder: Recorder | None, version: str = "", export: Exporter | None = None
    ) -> None:
        self.recorder = recorder
        self.version = version
        self.export = export

    def answered(
        self,
        execution: Execution | None,
        received_at: float,
        response: Response | None,
        headers: Headers,
        *,
        sent: int = 0,
    ) -> None:
        """Record a request, and add ``Server-Timing`` and ``X-Request-Id`` to its response.

        Args:
            execution: the execution of the pipeline, if it has begun.
            received_at: when the request was received, on the clock of `perf_counter`.
            response: the response; None for the result of a call by a user's route.
            headers: headers of the request.
            sent: bytes that were sent before the response, as items.
        """
        if self.recorder is None:
            return
        id, context = _request_id(headers), current_request()
        own_id = id or (context.id if context is not None and headers else new_id())
        status = 200 if response is None else response.status_code
        hops = HOPS.get() or ()
        exported = self.export is not None and context is not None and context.sampled
        trace_id = context.trace_id if exported and context is not None else ""
        trace, local = trace_of(
            execution, received_at, status, own_id, hops, self.version, trace_id
        )
        if self.export is not None and context is not None:
            # A route of the user's may call the pipeline more than once.
            self.export(trace, context if headers else context._replace(span_id=new_id()))
        if response is not None:
            sent += len(getattr(response, "body", b""))  # a user's handler may stream
            response.headers["Server-Timing"] = as_header(
                trace.phases_s, trace.total_s, trace.spans
            )
            if not id:  # Serve returns the id of a request that has one
                response.headers[REQUEST_ID] = trace.id
        item_times = [] if execution is None else [t - received_at for t in execution.item_times]
        self.recorder.request(trace, length_of(headers), sent, item_times)
        if execution is not None:
            self._steps(self.recorder, execution, local, trace.id)

    def identified(self, headers: Headers) -> tuple[Headers, dict[str, str]]:
        """Give a request without an id one, for a response that begins before it is recorded.

        Returns:
            the headers of the request, and those of the response.
        """
        if self.recorder is None or _request_id(headers):
            return headers, {}
        context = current_request()
        id = new_id() if context is None else context.id
        return {**headers, b"x-request-id": id.encode()}, {REQUEST_ID: id}

    def called(self, execution: Execution, received_at: float) -> list[Span]:
        """Record a call to a stage, and return the spans of its steps."""
        spans = spans_of(execution, received_at)
        if self.recorder is not None:
            _, status = outcome_of(execution.error)
            self.recorder.called(perf_counter() - received_at, status)
            self._steps(self.recorder, execution, spans, "")
        return spans

    def _steps(self, recorder: Recorder, execution: Execution, spans: list[Span], id: str) -> None:
        if recorder.peeking:
            _sample(recorder, execution, id)
        if spans:
            failed = execution.failed
            recorder.steps(spans, failed.name if failed is not None else None)

    def recent(self) -> dict[str, float]:
        """Return the load of this process, for autoscaling."""
        return self.recorder.recent() if self.recorder is not None else {}

    def close(self) -> None:
        """Close the recorder and the exporter."""
        if self.recorder is not None:
            self.recorder.close()
        if self.export is not None:
            self.export.close()


def _request_id(headers: Headers) -> str:
    """The id that the client gave a request; "" if it is missing or malformed."""
    return request_id(headers.get(b"x-request-id", b""))


def length_of(headers: Headers) -> int:
    """Return the declared length of a request's body in bytes; 0 if it is not declared."""
    return number_of(headers.get(b"content-length", b"")) or 0


def number_of(value: bytes) -> int | None:
    """Return the whole number that a header has; None if it has none, or one beyond 64 bits.

    Python raises an error for numbers of thousands of digits.
    """
    return int(value) if value.isdigit() and len(value) < 20 else None


def _sample(recorder: Recorder, execution: Execution, id: str) -> None:
    """Keep inputs and result of the steps that are being peeked into."""
    for task in execution.program.tasks:
        if isinstance(task.step, RemoteStep):
            continue  # its stage samples the steps
        if task.name in recorder.peeking and task.name in execution.results:
            inputs = {
                name: get(execution.arguments, execution.results) for name, get in task.inputs
            }
            recorder.peeked(task.name, id, inputs, execution.results[task.name])
