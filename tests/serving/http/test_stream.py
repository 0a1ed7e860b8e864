"""Results as they come, as events and as lines; in process, without Ray."""

import asyncio
import json
import threading
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import BaseModel

from mlkit import pipeline, step
from mlkit.define import ImageSource
from mlkit.serving import asgi


class Tags(BaseModel):
    words: list[str]
    size: int


@step
def split(title: str) -> list[str]:
    if title == "boom":
        raise ValueError("no boom please")
    return title.split()


@step
def size(image: ImageSource) -> int:
    return len(image)


@step
def join(words: list[str], size: int) -> Tags:
    return Tags(words=words, size=size)


@pipeline
def tag(image: ImageSource, title: str = "") -> Tags:
    return join(split(title), size(image))


def test_steps_come_as_events_in_their_order() -> None:
    with TestClient(asgi(tag)) as client:
        answer = client.post(
            "/tag?title=a%20b",
            content=b"123",
            headers={"content-type": "image/jpeg", "accept": "text/event-stream"},
        )
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [
        dict(line.split(": ", 1) for line in e.split("\n")) for e in answer.text.split("\n\n") if e
    ]
    assert [e["event"] for e in events] == ["step"] * 3 + ["result"]
    data = [json.loads(e["data"]) for e in events]
    assert {d["step"]: d["value"] for d in data[:3]} == {
        "split": ["a", "b"],
        "size": 3,
        "join": {"words": ["a", "b"], "size": 3},
    }
    assert data[2]["step"] == "join"
    assert data[3] == {"words": ["a", "b"], "size": 3}


def test_they_come_as_lines_too_and_a_failure_is_the_last() -> None:
    with TestClient(asgi(tag)) as client:
        headers = {"accept": "application/x-ndjson"}
        answer = client.post("/tag", json={"image": "data:,abc", "title": "boom"}, headers=headers)
        assert answer.status_code == 200
        lines = [json.loads(line) for line in answer.text.splitlines()]
        assert lines[-1]["event"] == "problem"
        assert (lines[-1]["data"]["status"], lines[-1]["data"]["step"]) == (500, "split")
        # What does not validate is answered before anything is sent.
        assert client.post("/tag", json={"title": 3}, headers=headers).status_code == 422


def test_an_event_comes_while_later_steps_run() -> None:
    go = threading.Event()

    @step
    def quick(x: int) -> int:
        return x + 1

    @step
    def slow(x: int) -> int:
        assert go.wait(10)
        return x * 2

    @pipeline
    def calc(x: int) -> int:
        return slow(quick(x))

    async def main() -> list[bytes]:
        app, sent = asgi(calc), []
        body = b'{"x": 1}'
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/calc",
            "query_string": b"",
            "http_version": "1.1",
            "headers": [
                (b"host", b"127.0.0.1"),
                (b"content-type", b"application/json"),
                (b"accept", b"application/x-ndjson"),
                (b"content-length", b"%d" % len(body)),
            ],
        }
        first = asyncio.Event()

        async def receive():
            if not scope.get("read"):
                scope["read"] = True
                return {"type": "http.request", "body": body, "more_body": False}
            await asyncio.sleep(60)

        async def send(message) -> None:
            if message.get("body"):
                sent.append(message["body"])
                first.set()

        running = asyncio.create_task(app(scope, receive, send))
        await asyncio.wait_for(first.wait(), 10)
        assert b"quick" in sent[0]
        assert not running.done()
        go.set()
        await running
        return sent

    assert b'"result"' in asyncio.run(main())[-1]


# ---- values without a JSON form ------------------------------------------------------------------


class Opaque:
    """Something of a library, which never leaves the process."""


class Raw(BaseModel):
    data: bytes


VALUES = {
    "object": (dict[str, Any], lambda: {"session": Opaque()}),
    "anything": (Any, threading.Lock),
    "bytes": (Raw, lambda: Raw(data=b"\xff\xd8")),
    "keys": (dict[tuple[int, int], float], lambda: {(1, 2): 0.5}),
    "surrogate": (str, lambda: "\ud800"),
}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
def test_a_value_without_a_json_form_is_left_out_and_never_ends_the_stream(kind, accept) -> None:
    type_, make = VALUES[kind]

    @step
    def middle(x: int) -> type_:
        return make()

    @step
    def last(x: int, value: type_) -> int:
        return x

    @pipeline
    def calc(x: int) -> int:
        return last(x, middle(x))

    with TestClient(asgi(calc)) as client:
        text = client.post("/calc", json={"x": 3}, headers={"accept": accept}).text
    assert text.count("middle") == 1
    assert '"result"' in text or "event: result" in text
    assert "problem" not in text
    if kind not in ("keys", "bytes", "surrogate"):
        assert "has no JSON form" in text
