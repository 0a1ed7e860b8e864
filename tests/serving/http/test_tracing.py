"""A request's trace and id, in steps, in logs and at a collector."""

import asyncio
import json

import pytest
from starlette.testclient import TestClient

from mlkit import batched_step, pipeline, step
from mlkit.execute import Executor, compile_graph
from mlkit.metrics import Recorder, Trace, current_request, traceparent
from mlkit.metrics.otlp import Exporter
from mlkit.serving import Limits
from mlkit.serving.http.ingress import create_app
from mlkit.serving.http.lifecycle import Served
from mlkit.serving.http.observer import Observer

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SENT = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "abc-1"}


@step
def told(x: int) -> list[str]:
    return [traceparent(), current_request().id]


@step
async def told_async(x: int) -> list[str]:
    await asyncio.sleep(0)
    return [traceparent(), current_request().id]


@batched_step(max_batch_size=4)
def told_batched(xs: list[int]) -> list[list[str]]:
    return [[traceparent(), str(current_request())] for _ in xs]


@step
def joined(a: list[str], b: list[str], c: list[str]) -> list[list[str]]:
    return [a, b, c]


@pipeline
def telling(x: int) -> list[list[str]]:
    return joined(told(x), told_async(x), told_batched(x))


@pytest.fixture
def collected():
    """A client of the pipeline, its exporter, and what that has sent."""
    bodies = []
    exporter = Exporter("telling", bodies.append, start=False)
    with Executor(compile_graph(telling.graph), workers=2) as executor:
        observer = Observer(Recorder("test"), "v1", exporter)
        served = Served(executor, Limits(), observer=observer)
        app = create_app(telling.graph, lambda: served, Limits(), None, traced=True)
        client = TestClient(app, base_url="http://127.0.0.1")
        client.observer = observer
        yield client, exporter, bodies


def spans(exporter, bodies):
    exporter.flush()
    (document,) = map(json.loads, bodies)
    return {s["name"]: s for s in document["resourceSpans"][0]["scopeSpans"][0]["spans"]}


def test_a_step_continues_the_trace_of_its_request(collected) -> None:
    client, exporter, bodies = collected
    answer = client.post("/telling", json={"x": 1}, headers=SENT)
    one, other, batch = answer.json()
    found = spans(exporter, bodies)
    own = found["telling"]
    assert (own["traceId"], own["parentSpanId"]) == (TRACE, PARENT)
    assert one == other == [f"00-{TRACE}-{own['spanId']}-01", "abc-1"]
    assert batch == ["", "None"]  # it is for many requests
    steps = {"told", "told_async", "told_batched", "joined"}
    assert set(found) == {"telling", *steps}
    assert {found[name]["parentSpanId"] for name in steps} == {own["spanId"]}


@pytest.mark.parametrize(("flags", "trace_id"), [("01", TRACE), ("00", "")])
def test_metrics_name_a_trace_only_if_it_is_exported(collected, flags: str, trace_id: str) -> None:
    client, _, _ = collected
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-{flags}", "X-Request-Id": "abc-1"}
    client.post("/telling", json={"x": 1}, headers=headers)
    (packed,) = client.observer.recorder.take()["traces"]
    trace = Trace.unpack(packed)
    assert (trace.id, trace.trace_id) == ("abc-1", trace_id)


def test_a_request_without_a_trace_begins_one_and_has_one_id(collected) -> None:
    client, exporter, bodies = collected
    answer = client.post("/telling", json={"x": 1})
    own = spans(exporter, bodies)["telling"]
    about = {pair["key"]: pair["value"] for pair in own["attributes"]}
    id = answer.headers["X-Request-Id"]
    assert about["mlkit.request_id"] == {"stringValue": id}
    assert answer.json()[0][1] == id
    assert "parentSpanId" not in own


def test_what_the_client_does_not_sample_is_not_exported(collected) -> None:
    client, exporter, bodies = collected
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
    answer = client.post("/telling", json={"x": 1}, headers=headers)
    assert answer.json()[0][0].startswith(f"00-{TRACE}-")
    exporter.flush()
    assert bodies == []


def test_a_refused_request_is_a_span(collected) -> None:
    client, exporter, bodies = collected
    assert client.post("/telling", json={"x": "a"}, headers=SENT).status_code == 422
    assert list(spans(exporter, bodies)) == ["telling"]
