"""Requests of mlkit's own are not logged; those of the user's own code are."""

import json
import logging
import socketserver
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx2
import pytest

from mlkit import pipeline, step
from mlkit.errors import RequestError
from mlkit.plan import plan
from mlkit.serving import App
from mlkit.serving.control.protocol import SOCKET, GetHealth
from mlkit.serving.kernel.session import Session
from mlkit.serving.kernel.transport import exchange


@step
def double(x: int) -> int:
    return 2 * x


@pipeline
def doubled(x: int) -> int:
    return double(x)


class Handler(BaseHTTPRequestHandler):
    """Responds as a session process does, with a line of progress first."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        lines = {"progress": "starting"}, {"result": {}}
        self.wfile.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))

    def address_string(self) -> str:  # a Unix socket has none
        return ""

    def log_message(self, *message: Any) -> None:
        pass


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with socketserver.UnixStreamServer(str(tmp_path / SOCKET), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Session(tmp_path)
        server.shutdown()
        thread.join()


@pytest.fixture
def app(tmp_path: Path, record_of: Any, respond: Mock, monkeypatch: pytest.MonkeyPatch) -> App:
    planned = plan(doubled)
    transport = httpx2.MockTransport(respond)
    monkeypatch.setattr(httpx2, "HTTPTransport", lambda **options: transport)
    return App(Session(tmp_path), planned, record_of(planned))


@pytest.fixture
def respond() -> Mock:
    """What the server of the app does with a request."""
    return Mock(side_effect=lambda request: httpx2.Response(200, json=4))


def test_a_call_of_the_session_logs_nothing(session, caplog) -> None:
    caplog.set_level(logging.INFO)
    said: list[str] = []
    session.call(GetHealth(app="doubled"), say=said.append, timeout_s=10)
    assert said == ["starting"]
    assert caplog.records == []


@pytest.mark.parametrize("call", ["once", "map"])
def test_a_call_of_an_app_logs_nothing(app, caplog, call) -> None:
    caplog.set_level(logging.INFO)
    if call == "once":
        assert app(2) == 4
    else:
        assert app.map([2, 2], progress=False) == [4, 4]
    assert caplog.records == []


def test_requests_of_the_users_own_are_logged_as_ever(app, caplog) -> None:
    caplog.set_level(logging.INFO)
    transport = httpx2.MockTransport(lambda request: httpx2.Response(200))
    with httpx2.Client(transport=transport) as client:
        client.get("https://example.com")
        app(2)
        client.get("https://example.com")
    assert [record.name for record in caplog.records] == ["httpx2", "httpx2"]


def test_an_app_waits_longer_than_the_server_may_take(app, respond) -> None:
    app(2)
    (request,) = respond.call_args.args
    timeout = request.extensions["timeout"]
    assert timeout["read"] > app.limits.request_timeout_s > timeout["connect"]


def test_an_app_that_does_not_respond_is_an_error_of_the_request(app, respond) -> None:
    respond.side_effect = httpx2.ConnectError("refused")
    with pytest.raises(RequestError, match="no response: ConnectError: refused"):
        app(2)


class Endless(httpx2.SyncByteStream):
    """A body that is open until it is closed."""

    def __init__(self) -> None:
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        while not self.closed:
            yield b"x"

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("ending", ["left", "failed"])
def test_a_response_is_closed_however_its_reader_ends(ending) -> None:
    body = Endless()
    transport = httpx2.MockTransport(lambda request: httpx2.Response(200, stream=body))
    with (
        suppress(ValueError),
        exchange(
            transport, "POST", "http://app/x", content=b"", timeout=httpx2.Timeout(1)
        ) as response,
    ):
        parts = response.iter_bytes()
        assert next(parts) == b"x"
        assert not body.closed
        if ending == "failed":
            raise ValueError("the reader fails")
    assert body.closed
