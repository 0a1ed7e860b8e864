"""The change from one version of a replica to the next, without Ray."""

import asyncio
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from mlkit import pipeline, step
from mlkit.execute import Executor, compile_graph
from mlkit.serving.http.ingress import create_app
from mlkit.serving.http.lifecycle import Served
from mlkit.serving.http.lifespan import Lifespan
from mlkit.serving.limits import Limits
from mlkit.serving.replica.front import _Switch, _Version

HEADERS = [(b"content-type", b"application/json"), (b"host", b"127.0.0.1")]


@step
def double(x: int) -> int:
    return 2 * x


@pipeline
def twice(x: int) -> int:
    return double(x)


def test_a_request_that_is_still_being_read_is_answered_by_the_version_it_came_to() -> None:
    async def change_while_it_is_read() -> tuple[int, bytes]:
        executor = Executor(compile_graph(twice.graph), workers=1, loop=asyncio.get_running_loop())
        served = Served(executor, Limits())
        app = create_app(twice.graph, lambda: served, Limits(), None, "old")
        old = _Version("old", app, (served,), Lifespan(app, None), SimpleNamespace(), {})
        replica = SimpleNamespace(_version=old, _trial=None)
        here, rest, sent = asyncio.Event(), asyncio.Event(), []

        async def receive():
            here.set()
            await rest.wait()
            return {"type": "http.request", "body": b'{"x": 4}', "more_body": False}

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/twice", "headers": HEADERS}
        scope |= {"query_string": b"", "client": ("127.0.0.1", 1), "scheme": "http"}
        asked = asyncio.create_task(_Switch(replica)(scope, receive, send))
        await here.wait()
        replica._version = None  # the next one has taken over
        retired = asyncio.create_task(old.retire())
        await asyncio.sleep(0.12)
        assert not retired.done()
        rest.set()
        await asked
        await asyncio.wait_for(retired, 5)
        assert not executor._threads[0].is_alive()
        return sent[0]["status"], sent[1]["body"]

    assert asyncio.run(change_while_it_is_read()) == (200, b"8")


def test_an_upload_that_its_client_aborts_is_no_failure() -> None:
    counted, failures = [], []

    async def abort(**application) -> list:
        executor = Executor(compile_graph(twice.graph), workers=1, loop=asyncio.get_running_loop())
        served = Served(executor, Limits())
        served.observer = SimpleNamespace(answered=lambda *a, **k: counted.append(a))
        served.failures = SimpleNamespace(record=failures.append)
        app = create_app(twice.graph, lambda: served, Limits(), None, **application)
        sent = []

        async def receive():
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/twice", "headers": HEADERS}
        scope |= {"query_string": b"", "client": ("127.0.0.1", 1), "scheme": "http"}
        await app(scope, receive, send)
        await asyncio.to_thread(executor.close)
        return sent

    for application in ({}, {"fastapi": FastAPI()}):
        assert asyncio.run(abort(**application))[0]["status"] == 499
    assert (counted, failures) == ([], [])


@pytest.mark.parametrize(("port", "status"), [(31000, 503), (21000, 200)])
def test_a_version_is_rolled_out_when_requests_bypass_the_fallback_proxy(
    monkeypatch: pytest.MonkeyPatch, port: int, status: int
) -> None:
    monkeypatch.setenv("RAY_SERVE_FALLBACK_PROXY_HTTP_PORT", "31000")
    switch = _Switch(SimpleNamespace(_version=SimpleNamespace(name="new")))
    response = TestClient(switch, base_url=f"http://127.0.0.1:{port}").get("/twice/-/version")
    assert (response.status_code, response.text) == (status, "new")
