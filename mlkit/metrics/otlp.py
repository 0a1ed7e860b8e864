"""Export of traces to an OpenTelemetry collector: OTLP over HTTP, in its JSON encoding.

It needs no package of OpenTelemetry. Configured by the standard environment variables:
``OTEL_EXPORTER_OTLP_ENDPOINT`` (or ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT``, the whole URL),
``OTEL_EXPORTER_OTLP_HEADERS``, ``OTEL_SERVICE_NAME`` and ``OTEL_SDK_DISABLED``.
"""

from __future__ import annotations

import json
import logging
import threading
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

from mlkit.metrics.context import RequestContext, new_id
from mlkit.metrics.trace import Span, Trace

__all__ = ["Exporter", "exporter_of", "spans_of"]

FLUSH_S = 1.0
MAX_WAITING = 2048
"""Maximum queued requests; beyond it, the oldest are dropped."""

_TIMEOUT_S = 5.0
_SERVER, _INTERNAL, _CLIENT = 2, 1, 3  # kinds of spans
_ERROR = 2  # a status


class Exporter:
    """Sends the spans of requests in the background; a failing collector affects no request.

    Args:
        service: name of the service.
        post: sends a body to the collector.
        start: whether to send every second; without it, `flush` does.
    """

    def __init__(self, service: str, post: Callable[[bytes], None], *, start: bool = True) -> None:
        self._service = service
        self._post = post
        self._waiting: deque[tuple[Trace, RequestContext]] = deque(maxlen=MAX_WAITING)
        self._closing = threading.Event()
        self._failed = False
        self._sending = threading.Lock()
        if start:
            threading.Thread(target=self._run, name="mlkit-otlp", daemon=True).start()

    def __call__(self, trace: Trace, context: RequestContext) -> None:
        """Export a request that has ended, if it is sampled."""
        if context.sampled and context.trace_id:
            self._waiting.append((trace, context))

    def flush(self) -> None:
        """Send what is waiting."""
        with self._sending:
            self._flush()

    def _flush(self) -> None:
        spans: list[dict[str, Any]] = []
        while self._waiting:
            spans += spans_of(*self._waiting.popleft(), self._service)
        if not spans:
            return
        resource = {"attributes": _attributes({"service.name": self._service})}
        scoped = [{"scope": {"name": "mlkit"}, "spans": spans}]
        document = {"resourceSpans": [{"resource": resource, "scopeSpans": scoped}]}
        try:
            self._post(json.dumps(document).encode())
            self._failed = False
        except Exception as error:  # such as of a collector that does not speak HTTP
            if not self._failed:  # once, until it works again
                logging.getLogger("mlkit").warning("traces cannot be exported: %s", error)
            self._failed = True

    def close(self) -> None:
        """Send what is waiting, and stop."""
        self._closing.set()
        self.flush()

    def _run(self) -> None:
        while not self._closing.wait(FLUSH_S):
            self.flush()


def exporter_of(environment: Mapping[str, str], app: str) -> Exporter | None:
    """Return the exporter that environment variables configure; None if they configure none."""
    endpoint = environment.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").rstrip("/")
    url = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or (
        f"{endpoint}/v1/traces" if endpoint else ""
    )
    if not url or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    pairs = environment.get("OTEL_EXPORTER_OTLP_HEADERS", "").split(",")
    named = [pair.partition("=") for pair in pairs if "=" in pair]
    headers = {name.strip(): unquote(value.strip()) for name, _, value in named}
    headers["Content-Type"] = "application/json"

    def post(body: bytes) -> None:
        request = urllib.request.Request(url, body, headers)
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            response.read()

    return Exporter(environment.get("OTEL_SERVICE_NAME") or app, post)


def spans_of(trace: Trace, context: RequestContext, name: str) -> list[dict[str, Any]]:
    """Return the spans of a request in OTLP's JSON: its own, then one per step and per hop.

    Steps in other processes are children of the call to their stage.

    Args:
        trace: the request.
        context: its place in the distributed trace.
        name: of the span of the request.
    """
    attributes = {
        "http.response.status_code": trace.status,
        "mlkit.request_id": trace.id,
        "mlkit.version": trace.version,
    }
    own = _span(context, context.span_id, context.parent_id, name, trace.at, trace.total_s, _SERVER)
    own["attributes"] = _attributes(attributes)
    if trace.status >= 500:
        own["status"] = {"code": _ERROR}
    spans = [own]
    hops: dict[str, str] = {}
    for span in sorted(trace.spans, key=lambda span: bool(span.within)):
        id = new_id()
        if span.hop:
            hops[span.step] = id
        parent = hops.get(span.within, context.span_id)
        kind = _CLIENT if span.hop else _INTERNAL
        at, took = trace.at + span.start_s, span.took_s
        step = _span(context, id, parent, span.step, at, took, kind)
        step["attributes"] = _attributes(_of_step(span))
        spans.append(step)
    return spans


def _of_step(span: Span) -> dict[str, Any]:
    about: dict[str, Any] = {"mlkit.waited_ms": round(1e3 * span.waited_s, 3)}
    if span.batch:
        about["mlkit.batch_size"] = span.batch
    if span.stage:
        about["mlkit.stage"] = span.stage
    return about


def _span(
    context: RequestContext, id: str, parent: str, name: str, at: float, took_s: float, kind: int
) -> dict[str, Any]:
    span: dict[str, Any] = {
        "traceId": context.trace_id,
        "spanId": id,
        "name": name,
        "kind": kind,
        "startTimeUnixNano": str(round(at * 1e9)),
        "endTimeUnixNano": str(round((at + took_s) * 1e9)),
    }
    if parent:
        span["parentSpanId"] = parent
    return span


def _attributes(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in values.items() if value != ""]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": value}
