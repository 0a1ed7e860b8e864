"""Traces as a collector gets them."""

import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from google.protobuf.json_format import Parse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from mlkit.metrics import Span, Trace
from mlkit.metrics.context import RequestContext
from mlkit.metrics.otlp import MAX_WAITING, Exporter, exporter_of

CONTEXT = RequestContext("r1", "a" * 32, "b" * 16, "c" * 16, True)
SPANS = (
    Span("decode", 0.001, 0.002, 0.010),
    Span("models", 0.010, 0.010, 0.050, stage="models", hop=True),
    Span("classify", 0.012, 0.015, 0.045, batch=4, stage="models", within="models"),
)
TRACE = Trace("r1", 1000.0, 0.06, 200, 0.001, 0.05, SPANS, 1, "v1")


@pytest.fixture
def sent():
    """An exporter that is flushed by hand, and what it has sent."""
    bodies = []
    return Exporter("shop", bodies.append, start=False), bodies


def spans(bodies):
    (document,) = map(json.loads, bodies)
    (resource,) = document["resourceSpans"]
    (scope,) = resource["scopeSpans"]
    return {span["name"]: span for span in scope["spans"]}


def test_a_request_is_a_span_with_its_steps_as_children(sent) -> None:
    exporter, bodies = sent
    exporter(TRACE, CONTEXT)
    exporter.flush()
    found = spans(bodies)
    assert list(found) == ["shop", "decode", "models", "classify"]
    assert {span["traceId"] for span in found.values()} == {CONTEXT.trace_id}
    assert len({span["spanId"] for span in found.values()}) == 4
    parents = {name: span["parentSpanId"] for name, span in found.items()}
    assert parents == {
        "shop": CONTEXT.parent_id,
        "decode": CONTEXT.span_id,
        "models": CONTEXT.span_id,
        "classify": found["models"]["spanId"],
    }
    assert found["shop"]["spanId"] == CONTEXT.span_id
    assert found["decode"]["startTimeUnixNano"] == "1000002000000"
    assert found["decode"]["endTimeUnixNano"] == "1000010000000"


def test_what_is_sent_is_otlp(sent) -> None:
    exporter, bodies = sent
    exporter(TRACE, CONTEXT)
    exporter.flush()
    read = Parse(bodies[0], ExportTraceServiceRequest())
    (resource,) = read.resource_spans
    assert resource.resource.attributes[0].value.string_value == "shop"
    own = resource.scope_spans[0].spans[0]
    about = {pair.key: pair.value for pair in own.attributes}
    assert about["http.response.status_code"].int_value == 200
    assert about["mlkit.request_id"].string_value == "r1"
    batch = {pair.key: pair.value for pair in resource.scope_spans[0].spans[3].attributes}
    assert batch["mlkit.batch_size"].int_value == 4
    assert batch["mlkit.waited_ms"].double_value == 3.0


@pytest.mark.parametrize(
    "context", [CONTEXT._replace(sampled=False), RequestContext("r1"), RequestContext("r1", "", "")]
)
def test_what_is_not_sampled_is_not_sent(sent, context) -> None:
    exporter, bodies = sent
    exporter(TRACE, context)
    exporter.flush()
    assert bodies == []


def test_a_trace_without_parent_and_a_failure(sent) -> None:
    exporter, bodies = sent
    exporter(Trace("r2", 1.0, 0.1, 500, 0.0, 0.1, ()), CONTEXT._replace(parent_id=""))
    exporter.flush()
    own = spans(bodies)["shop"]
    assert "parentSpanId" not in own
    assert own["status"] == {"code": 2}


def test_a_collector_that_is_away_is_named_once_and_costs_no_memory(monkeypatch) -> None:
    said: list[tuple[object, ...]] = []
    # Not caplog: another library's configuration may have disabled the logger.
    monkeypatch.setattr(logging.getLogger("mlkit"), "warning", lambda *words: said.append(words))

    def refuse(body):
        raise ConnectionError("refused")

    exporter = Exporter("shop", refuse, start=False)
    for _ in range(MAX_WAITING + 10):
        exporter(TRACE, CONTEXT)
    assert len(exporter._waiting) == MAX_WAITING
    exporter.flush()
    exporter(TRACE, CONTEXT)
    exporter.flush()
    assert ["cannot be exported" in str(words[0]) for words in said] == [True]
    assert not exporter._waiting


@pytest.mark.parametrize(
    "environment",
    [{}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "true"}],
)
def test_nothing_is_exported_unless_it_is_asked_for(environment) -> None:
    assert exporter_of(environment, "shop") is None


def test_a_collector_gets_it_with_the_headers_that_are_configured() -> None:
    got = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.path, self.headers["Content-Type"], self.headers["api-key"], body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.server_port}/",
            "OTEL_EXPORTER_OTLP_HEADERS": "api-key=a%20b, other=c",
            "OTEL_SERVICE_NAME": "named",
        }
        exporter = exporter_of(environment, "shop")
        exporter(TRACE, CONTEXT)
        exporter.close()
        server.shutdown()
    ((path, kind, key, body),) = got
    assert (path, kind, key) == ("/v1/traces", "application/json", "a b")
    assert "named" in spans([body])
