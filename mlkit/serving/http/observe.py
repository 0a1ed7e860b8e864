"""From an execution to a trace, and from a process to whoever gathers what it counted."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from time import perf_counter
from typing import Any, NamedTuple

from starlette.responses import Response

from mlkit.execute import Executor
from mlkit.execute.execution import Execution
from mlkit.metrics import Recorder, Span, Trace
from mlkit.metrics.trace import as_header
from mlkit.plan import RemoteStep

__all__ = [
    "HOPS",
    "Hop",
    "Observer",
    "gauges_of",
    "given_id",
    "length_of",
    "peek_into",
    "pusher",
    "recorder_of",
    "spans_of",
    "trace_of",
]

REQUEST_ID = "X-Request-Id"


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
        *,
        received: int = 0,
        id: str = "",
        status: int = 200,
    ) -> Trace | None:
        """Count a request, and put its times into the answer's ``Server-Timing``.

        Args:
            execution: of its steps; None where none could begin.
            came: when it came, on `perf_counter`'s clock.
            response: the answer; None where it is sent in another way.
            received: bytes of its body.
            id: as its caller calls it; made where it does not.
            status: of an answer that is sent in another way.
        """
        if self.recorder is None:
            return None
        hops = HOPS.get() or ()
        if response is not None:
            status = response.status_code
        trace, mine = trace_of(execution, came, status, id or _new_id(), hops)
        sent = 0
        if response is not None:
            sent = len(response.body)
            response.headers["Server-Timing"] = as_header(
                trace.phases_s, trace.total_s, trace.spans
            )
            if not id:  # one that came with the request Serve puts into the answer itself
                response.headers[REQUEST_ID] = trace.id
        self.recorder.request(trace, received, sent)
        if self.recorder.peeking and execution is not None:
            peek_into(self.recorder, execution, trace.id)
        if mine:
            failed = execution.failed if execution is not None else None
            self.recorder.steps(mine, failed.name if failed is not None else None)
        return trace


def _new_id() -> str:
    return f"{random.getrandbits(64):016x}"


def given_id(headers: Mapping[str, str]) -> str:
    """The id that a caller gave a request; "" for none, or one that could be anything."""
    id = headers.get("x-request-id", "")
    return id if len(id) <= 64 and id.isascii() and id.replace("-", "").isalnum() else ""


def length_of(headers: Mapping[str, str]) -> int:
    """Bytes of a request's body, as far as its head says."""
    length = headers.get("content-length", "")
    return int(length) if length.isdecimal() else 0


def recorder_of(
    stage: str,
    app: str,
    gatherer: str,
    gauges: Callable[[], Mapping[str, Any]],
    front: bool = False,
) -> Recorder | None:
    """What counts in this process; None where nobody gathers (``gatherer`` is "")."""
    if not gatherer:
        return None
    return Recorder(stage, pusher(app, gatherer), front=front, gauges=gauges)


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


def pusher(app: str, gatherer: str) -> Callable[[Mapping[str, Any]], list[str]]:
    """What hands deltas to the session's actor; raises where it cannot be had."""

    def push(delta: Mapping[str, Any]) -> list[str]:
        from mlkit.serving.port.gathering import push as to_actor

        return to_actor(gatherer, app, delta)

    return push
