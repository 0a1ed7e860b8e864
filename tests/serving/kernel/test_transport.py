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
from mlkit.errors import InputError, RequestError
from mlkit.plan import plan
from mlkit.serving import App
from mlkit.serving.control.protocol import SOCKET, GetHealth
from mlkit.serving.kernel.session import Session
from mlkit.serving.kernel.transport import exchange
from mlkit.serving.retries import UNREACHED


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


def test_any_status_of_success_is_one(app, respond) -> None:
    respond.side_effect = lambda request: httpx2.Response(201, json=4)
    assert app(2) == 4


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


def test_an_app_that_does_not_respond_is_an_error_of_the_request(app, respond, waits) -> None:
    respond.side_effect = httpx2.ConnectError("refused")
    with pytest.raises(RequestError, match="no response: ConnectError: refused"):
        app(2)


# ---- retries ----------------------------------------------------------------------------------


@pytest.fixture
def waits(app, monkeypatch) -> list[float]:
    """The waits of the app between its attempts, in virtual time."""
    waits: list[float] = []
    monkeypatch.setattr(app._sender, "_sleep", waits.append)
    monkeypatch.setattr(app._sender, "_clock", lambda: sum(waits))
    return waits


OK = httpx2.Response(200, json=4)
LOST = [
    httpx2.ConnectError("refused"),
    httpx2.ReadError("reset"),
    httpx2.WriteError("reset"),
    httpx2.RemoteProtocolError("disconnected without a response"),
    httpx2.Response(502, json={"detail": "the replica stopped"}),
    httpx2.Response(503, json={"detail": "no replica"}, headers={UNREACHED: "true"}),
]


@pytest.mark.parametrize("lost", LOST, ids=repr)
def test_a_request_that_was_lost_is_sent_again(app, respond, waits, lost) -> None:
    respond.side_effect = [lost, lost, OK]
    assert app(2) == 4
    assert len(waits) == 2
    bodies = {call.args[0].content for call in respond.call_args_list}
    assert len(bodies) == 1


@pytest.mark.parametrize("lost", LOST, ids=repr)
def test_it_is_sent_three_times_at_most_and_the_last_failure_is_told(
    app, respond, waits, lost
) -> None:
    respond.side_effect = [lost] * 4
    with pytest.raises(RequestError):
        app(2)
    assert respond.call_count == 3


@pytest.mark.parametrize(
    "answer",
    [
        httpx2.ReadTimeout("slow"),
        httpx2.ConnectTimeout("slow"),
        *(httpx2.Response(status, json={"detail": "no"}) for status in (422, 429, 500, 503, 504)),
    ],
    ids=repr,
)
def test_what_was_answered_or_took_too_long_is_not_sent_again(app, respond, waits, answer) -> None:
    respond.side_effect = [answer, OK]
    with pytest.raises(RequestError):
        app(2)
    assert (respond.call_count, waits) == (1, [])


def test_a_pipeline_that_is_not_idempotent_is_asked_once(
    tmp_path, record_of, respond, monkeypatch
) -> None:
    @pipeline(idempotent=False)
    def booked(x: int) -> int:
        return double(x)

    planned = plan(booked)
    transport = httpx2.MockTransport(respond)
    monkeypatch.setattr(httpx2, "HTTPTransport", lambda **options: transport)
    app = App(Session(tmp_path), planned, record_of(planned))
    respond.side_effect = [LOST[1], OK]
    with pytest.raises(RequestError, match="ReadError"):
        app(2)
    assert respond.call_count == 1


def test_no_attempt_begins_past_the_deadline(app, respond, waits) -> None:
    def slow(request: httpx2.Request) -> httpx2.Response:
        waits.append(app.limits.request_timeout_s)  # the time that it took
        raise LOST[1]

    respond.side_effect = slow
    with pytest.raises(RequestError):
        app(2)
    assert respond.call_count == 1


def test_a_job_is_bulk_and_a_call_is_not(app, respond) -> None:
    app(2)
    app.map([2], progress=False)
    app.map([2], progress=False, priority="interactive")
    sent = [call.args[0].headers.get("x-priority") for call in respond.call_args_list]
    assert sent == [None, "bulk", None]
    with pytest.raises(InputError, match="interactive or bulk"):
        app.map([2], progress=False, priority="urgent")


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


def test_attempts_are_numbered_and_have_one_deadline(app, respond) -> None:
    lost = httpx2.Response(502, json={"detail": "the replica stopped"})
    respond.side_effect = [lost, httpx2.ReadError("lost"), httpx2.Response(200, json=4)]
    assert app(2) == 4
    sent = [call.args[0].headers for call in respond.call_args_list]
    assert [headers["x-mlkit-attempt"] for headers in sent] == ["1", "2", "3"]
    limit_s = app.limits.request_timeout_s
    first, second, third = (headers.get("x-request-timeout-seconds") for headers in sent)
    assert first is None
    assert limit_s > float(second) > float(third) > 0
    assert "x-mlkit-attempt" not in {name.lower() for name in app.sent[-1].headers}
