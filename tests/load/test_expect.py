"""What counts as a success of a load test."""

from __future__ import annotations

import asyncio
import itertools
import json
from array import array
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pydantic
import pytest

from mlkit.errors import LoadError
from mlkit.load import constant, load_test
from mlkit.load.collect import _judge
from mlkit.load.expect import Expectation, Received, expectation
from mlkit.load.log import Log, Response
from mlkit.load.options import timeout_of
from mlkit.load.process import WorkerReport
from mlkit.load.requests import HttpRequest


class Tags(pydantic.BaseModel):
    tags: list[str]


SCHEMA = {"type": "object", "properties": {"tags": {"type": "array"}}, "required": ["tags"]}
GOOD, BAD = b'{"tags": ["shoe"]}', b'{"tgas": []}'


def raw(status: int, body: bytes = b"", *headers: bytes) -> bytes:
    """A response as it is sent."""
    head = [b"HTTP/1.1 %d X" % status, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


@pytest.fixture
def answering(serve, read_request):
    """Returns a function: responses to the port of a server that sends them in turn."""

    def start(*responses: bytes) -> int:
        turns = itertools.cycle(responses)

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                await read_request(reader)
                writer.write(next(turns))

        return serve(handler)

    return start


def measure(port: int, **options: Any) -> Any:
    url = options.pop("target", f"http://127.0.0.1:{port}/predict/")
    return load_test(
        url,
        [{"x": 1}],
        constant(rate=50),
        duration_s=0.2,
        warmup_s=0.0,
        progress=False,
        **options,
    )


class App:
    """Stands for a deployed app: it prepares requests and has a graph."""

    graph = None

    def __init__(self, port: int) -> None:
        self.port = port

    def prepare(self, payload: Any) -> HttpRequest:
        return HttpRequest(url=f"http://127.0.0.1:{self.port}/tag", body=b"{}")


@pytest.mark.parametrize("status", [301, 302, 304, 307])
def test_a_redirect_is_no_success_and_where_to_is_told(answering, status: int) -> None:
    result = measure(answering(raw(status, b"", b"Location: /elsewhere")))
    assert result.errors == {"redirect": 10}
    assert result.notes == (f"10 redirects, {status} to /elsewhere",)
    assert "/elsewhere" in repr(result)
    assert "/elsewhere" in result._repr_html_()


@pytest.mark.parametrize(
    ("expect", "responses"),
    [
        (None, {(200, GOOD): None, (204, b""): None, (404, GOOD): "http 404"}),
        (404, {(404, GOOD): None, (200, GOOD): "http 200"}),
        ({200, 307}, {(307, b""): None, (201, GOOD): "http 201"}),
        (Tags, {(200, GOOD): None, (200, BAD): "unexpected", (200, b""): "unexpected"}),
        (list[int], {(200, b"[1]"): None, (200, b"<html>"): "unexpected"}),
        (
            SCHEMA,
            {
                (200, GOOD): None,
                (200, BAD): "unexpected",
                (200, b"<html>"): "unexpected",
                (500, GOOD): "http 500",
            },
        ),
        (
            lambda answer: answer.json()["tags"] == ["shoe"],
            {(200, GOOD): None, (200, BAD): "unexpected"},
        ),
        (lambda answer: False, {(200, BAD): "unexpected"}),
    ],
)
def test_a_success_is_what_is_expected(
    answering, expect: Any, responses: dict[tuple[int, bytes], str | None]
) -> None:
    result = measure(answering(*(raw(*response) for response in responses)), expect=expect)
    errors = itertools.islice(itertools.cycle(responses.values()), 10)
    assert result.errors == Counter(filter(None, errors))


def test_the_reason_is_told_once_for_a_body(answering) -> None:
    calls = []

    def check(answer: Received) -> bool:
        calls.append(answer)
        raise ValueError("no shoe")

    result = measure(answering(raw(200, BAD, b"Content-Type: application/json")), expect=check)
    assert calls == [Received(200, "application/json", BAD)]
    assert result.notes == ("10 unexpected responses: expect raised ValueError: no shoe",)
    assert json.loads(json.dumps(result.summary()))["notes"] == list(result.notes)


def test_an_app_answers_with_a_body(answering) -> None:
    assert measure(0, target=App(answering(raw(200, b"1")))).errors == {}
    result = measure(0, target=App(answering(raw(200))))
    assert result.errors == {"empty": 10}
    assert result.notes == ("10 responses without a body",)
    assert measure(0, target=App(answering(raw(200))), expect=200).errors == {}


def test_bodies_are_kept_once_and_up_to_a_limit(monkeypatch) -> None:
    monkeypatch.setattr("mlkit.load.log.KEPT_BYTES", 5)
    log = Log()
    for body in (b"one", b"one", b"22", b"three"):
        log.close(log.open(0.0, 0.0), Response(0.0, 0.0, 200, media_type="x", body=body), 0.0)
    assert log.bodies == {("x", b"one"): 0, ("x", b"22"): 1}
    assert log.body_of == {0: 0, 1: 0, 2: 1}


def test_bodies_that_were_not_checked_make_it_void() -> None:
    facts = {"errors": {"2": "reset"}, "samples": {}, "body_of": {"0": 0}, "short_of": None}
    status = array("i", [200, 200, 0])
    report = WorkerReport(facts, {"status": status}, array("d"), [("x", b"1")])
    _judge(Expectation(judge=lambda answer: ""), report)
    assert facts["short_of"].startswith("memory to keep")


@pytest.mark.parametrize("expect", ["200", b"", 99, 600, set(), {"a"}, 2.5, {"type": "thing"}])
def test_what_is_no_expectation_is_refused(expect: Any) -> None:
    with pytest.raises(LoadError, match=r"invalid expect|expect is not a JSON"):
        expectation(expect, nonempty=False)


@pytest.mark.parametrize(("request_timeout_s", "waits_s"), [(5.0, 30.0), (60.0, 65.0)])
def test_an_app_is_waited_for_as_long_as_it_may_take(
    request_timeout_s: float, waits_s: float
) -> None:
    app = SimpleNamespace(limits=SimpleNamespace(request_timeout_s=request_timeout_s))
    assert timeout_of(app) == waits_s
    assert timeout_of("http://127.0.0.1/x") == 30.0
