"""Pipelines that stream, over HTTP: items as they are made, how they end, and who has left."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import numpy as np
import pytest
from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from pydantic import BaseModel, field_serializer

from mlkit import InputError, pipeline, step
from mlkit.errors import RequestError, StepError
from mlkit.execute import Executor, compile_graph
from mlkit.execute.buffer import AHEAD
from mlkit.metrics import Recorder, Trace
from mlkit.serving import Limits, asgi, served
from mlkit.serving.http.ingress import create_app
from mlkit.serving.http.lifecycle import Served
from mlkit.serving.http.observer import Observer
from mlkit.serving.http.stream import (
    EVENTS,
    FRAMES,
    LINES,
    _as_frame,
    _as_line,
    read_frames,
    read_lines,
)
from mlkit.serving.kernel.client import Codec
from mlkit.views.run import milliseconds


class Token(BaseModel):
    text: str
    at: int


@step
def write(prompt: str, fail_at: int = -1) -> Iterator[Token]:
    for i, word in enumerate(prompt.split()):
        if i == fail_at:
            raise ValueError("no more words")
        yield Token(text=word, at=i)


@pipeline
def writer(prompt: str, fail_at: int = -1) -> Iterator[Token]:
    "Write."
    return write(prompt, fail_at)


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(asgi(writer)) as client:
        yield client


def test_items_come_as_events_then_the_end(client) -> None:
    answer = client.post("/writer", json={"prompt": "a b"}, headers={"accept": EVENTS})
    assert answer.headers["content-type"].startswith(EVENTS)
    assert answer.text == (
        'event: item\ndata: {"text":"a","at":0}\n\n'
        'event: item\ndata: {"text":"b","at":1}\n\n'
        'event: end\ndata: {"items": 2}\n\n'
    )


def test_items_come_as_lines_or_as_a_list(client) -> None:
    answer = client.post("/writer", json={"prompt": "a"}, headers={"accept": LINES})
    assert [json.loads(line) for line in answer.text.splitlines()] == [
        {"event": "item", "data": {"text": "a", "at": 0}},
        {"event": "end", "data": {"items": 1}},
    ]
    answer = client.post("/writer", json={"prompt": "a b"})
    assert answer.json() == [{"text": "a", "at": 0}, {"text": "b", "at": 1}]


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("text/event-stream, application/json;q=0.5", EVENTS),
        ("application/json;q=0.5,text/event-stream", EVENTS),
        ("application/json; q=0.5, application/x-ndjson; charset=utf-8; q=0.9", LINES),
        ("Text/Event-Stream;Q=0.9, text/html;q=1", EVENTS),
        ("text/*", EVENTS),
        ("text/event-stream;q=0.1, */*;q=0.2", "application/json"),
        ("application/json, text/event-stream", "application/json"),
        ("text/event-stream;q=0, text/html", "application/json"),
        ("text/event-stream;q=high, application/json;q=0.1", "application/json"),
        ("text/html,application/xml;q=0.9,*/*;q=0.8", "application/json"),
        ("text/html", "application/json"),
        ("*/*", "application/json"),
        (";,;q=", "application/json"),
    ],
)
def test_the_preferred_form_is_chosen(client, accept, content_type) -> None:
    answer = client.post("/writer", json={"prompt": "a"}, headers={"accept": accept})
    assert answer.headers["content-type"].partition(";")[0] == content_type


@pytest.mark.parametrize("accept", [EVENTS, LINES])
def test_a_stream_without_items_is_just_its_end(client, accept) -> None:
    answer = client.post("/writer", json={"prompt": ""}, headers={"accept": accept})
    assert answer.status_code == 200
    assert '{"items": 0}' in answer.text


def test_a_failure_midway_is_the_last_event(client) -> None:
    headers = {"accept": LINES}
    answer = client.post("/writer", json={"prompt": "a b", "fail_at": 1}, headers=headers)
    *_, last = [json.loads(line) for line in answer.text.splitlines()]
    assert answer.status_code == 200
    assert last["event"] == "problem"
    assert (last["data"]["status"], last["data"]["step"]) == (500, "write")
    assert "no more words" not in answer.text


def test_a_failure_before_the_first_item_has_the_status_of_the_error(client) -> None:
    headers = {"accept": EVENTS}
    answer = client.post("/writer", json={"prompt": "a", "fail_at": 0}, headers=headers)
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["step"] == "write"


def test_an_item_that_cannot_be_encoded_is_a_failure() -> None:
    class Word(BaseModel):
        text: str

        @field_serializer("text")
        def _lower(self, text: str) -> str:
            return {"a": "A"}[text]

    @step
    def odd(x: int) -> Iterator[Word]:
        yield Word(text="a")
        yield Word(text="b")

    @pipeline
    def oddly(x: int) -> Iterator[Word]:
        return odd(x)

    with TestClient(asgi(oddly)) as client:
        text = client.post("/oddly", json={"x": 1}, headers={"accept": LINES}).text
    assert '"problem"' in text.splitlines()[-1]


@pytest.mark.parametrize(
    ("type_", "values"),
    [
        (Token, [Token(text="line\u2028\n\x85", at=1)]),
        (str, ["a", "\u2028", "ß\n"]),
        (NDArray[np.float32], [np.ones(3, np.float32)]),
        (tuple[int, str], [(1, "a")]),
        (int | None, [1, None]),
    ],
)
def test_the_client_gets_what_the_pipeline_returns(face, type_, values) -> None:
    @step
    def give(x: int) -> Iterator[type_]:
        yield from values

    @pipeline
    def given(x: int) -> Iterator[type_]:
        return give(x)

    client, here = face(given), given(1)
    public = client.codec.public_request(f"{client.base_url}/given", None, {"x": 1})
    streamed = client.codec.request(f"{client.base_url}/given", None, {"x": 1}, stream=True)
    answers = [
        client.post(request.url, headers=request.headers, content=request.body)
        for request in (public, streamed)
    ]
    for result in (
        client.ask(x=1),
        client.codec.result(answers[0].content, answers[0].headers["content-type"]),
        list(client.codec.streamed(bytes([byte]) for byte in answers[1].content)),
    ):
        assert type(result) is type(here) is list
        assert [type(item) for item in result] == [type(item) for item in here]
        assert all(np.array_equal(a, b) for a, b in zip(result, here, strict=True))


def test_the_client_raises_what_ended_a_stream(face) -> None:
    with pytest.raises(RequestError, match="step 'write' failed") as caught:
        face(writer).ask(prompt="a b", fail_at=1)
    assert (caught.value.http_status, caught.value.step) == (500, "write")
    with pytest.raises(RequestError, match="broke off"):
        Codec(writer.graph).result(b'{"event": "item", "data": {"text": "a", "at": 1}}\n', LINES)


def test_frames_need_the_key_of_the_app(face) -> None:
    client = face(writer)
    request = client.codec.request(
        f"{client.base_url}/writer", None, {"prompt": "a b", "fail_at": 1}, stream=True
    )
    answer = client.post(request.url, headers=request.headers, content=request.body)
    assert (answer.status_code, answer.headers["content-type"]) == (200, FRAMES)
    with pytest.raises(RequestError, match="step 'write' failed") as caught:
        list(client.codec.streamed([answer.content]))
    assert (caught.value.http_status, caught.value.step) == (500, "write")
    answer = client.post("/writer", json={"prompt": "a"}, headers={"accept": FRAMES})
    assert answer.headers["content-type"] == "application/json"


def test_openapi_has_the_schema_of_the_items(client) -> None:
    document = client.get("/openapi.json").json()
    content = document["paths"]["/writer"]["post"]["responses"]["200"]["content"]
    token = {"$ref": "#/components/schemas/Token"}
    assert content["application/json"]["schema"]["items"] == token
    assert content[EVENTS]["itemSchema"]["properties"]["data"]["contentSchema"] == token
    assert content[LINES]["itemSchema"]["properties"]["data"] == token
    assert "Token" in document["components"]["schemas"]


# ---- while it runs -------------------------------------------------------------------------------


class Endless:
    """A pipeline whose generator goes on until it is closed."""

    def __init__(self, *, is_async: bool) -> None:
        self.made = 0
        self.closed = threading.Event()

        @step
        def count() -> Iterator[int]:
            try:
                while True:
                    self.made += 1
                    yield self.made
            finally:
                self.closed.set()

        @step
        async def count_async() -> AsyncIterator[int]:
            try:
                while True:
                    await asyncio.sleep(0)
                    self.made += 1
                    yield self.made
            finally:
                self.closed.set()

        @pipeline
        def counting() -> Iterator[int]:
            return (count_async if is_async else count)()

        self.pipeline = counting


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def endless(request) -> Endless:
    return Endless(is_async=request.param)


class Exchange:
    """One request on an ASGI application, whose client reads when told to, and can leave."""

    def __init__(self, app, path: str, body: dict, accept: str = LINES) -> None:
        self.body = json.dumps(body).encode()
        self.left = asyncio.Event()
        self.reads = asyncio.Semaphore(0)
        self.messages: asyncio.Queue = asyncio.Queue()
        self._asked = False
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "query_string": b"",
            "http_version": "1.1",
            "headers": [
                (b"host", b"127.0.0.1"),
                (b"content-type", b"application/json"),
                (b"accept", accept.encode()),
            ],
        }
        self.running = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self):
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self.body, "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message) -> None:
        await self.reads.acquire()
        self.messages.put_nowait(message)

    async def read(self) -> dict:
        self.reads.release()
        return await asyncio.wait_for(self.messages.get(), 5)


@asynccontextmanager
async def serving(pipe, **limits):
    """Its application and what serves it, with a recorder."""
    loop = asyncio.get_running_loop()
    with Executor(compile_graph(pipe.graph), workers=1, loop=loop) as executor:
        limits = Limits(**limits)
        recorder = Recorder("front")
        one = Served(executor, limits, observer=Observer(recorder))
        yield create_app(pipe.graph, lambda: one, limits, None, guarded=False), one


async def until(holds) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.002)


def test_an_item_is_sent_while_the_next_is_made(endless) -> None:
    async def main() -> None:
        async with serving(endless.pipeline) as (app, one):
            exchange = Exchange(app, "/counting", {})
            assert (await exchange.read())["status"] == 200
            assert (await exchange.read())["body"] == b'{"event": "item", "data": 1}\n'
            assert one.ongoing == 1
            exchange.left.set()
            await exchange.running

    asyncio.run(main())


def test_a_client_that_leaves_closes_the_generator_and_is_not_counted(endless) -> None:
    async def main() -> None:
        async with serving(endless.pipeline) as (app, one):
            exchange = Exchange(app, "/counting", {})
            await exchange.read()
            exchange.left.set()
            await asyncio.wait_for(exchange.running, 5)
            await until(endless.closed.is_set)
            assert one.ongoing == 0
            assert one.executor.in_flight == 0
            assert one.observer.recorder.take()["status"] == {}

    asyncio.run(main())


def test_a_client_that_leaves_before_the_first_item_cancels_the_request() -> None:
    started, closed = asyncio.Event(), []

    @step
    async def never() -> AsyncIterator[int]:
        started.set()
        try:
            await asyncio.sleep(60)
            yield 1
        finally:
            closed.append(True)

    @pipeline
    def waiting() -> Iterator[int]:
        return never()

    async def main() -> None:
        async with serving(waiting) as (app, one):
            exchange = Exchange(app, "/waiting", {})
            await asyncio.wait_for(started.wait(), 5)
            exchange.left.set()
            await asyncio.wait_for(exchange.running, 5)
            await until(lambda: closed and not one.ongoing)

    asyncio.run(main())


def test_a_client_that_does_not_read_holds_up_the_generator(endless) -> None:
    async def main() -> None:
        async with serving(endless.pipeline) as (app, _):
            exchange = Exchange(app, "/counting", {})
            await exchange.read()
            await until(lambda: endless.made >= AHEAD)
            await asyncio.sleep(0.02)
            assert endless.made <= 2 * AHEAD + 1
            exchange.left.set()
            await exchange.running

    asyncio.run(main())


def test_a_client_that_does_not_read_for_too_long_is_cut_off(endless) -> None:
    async def main() -> None:
        async with serving(endless.pipeline, request_timeout_s=0.1) as (app, one):
            exchange = Exchange(app, "/counting", {})
            await exchange.read()
            await until(endless.closed.is_set)
            assert one.executor.in_flight == 0
            exchange.left.set()
            await exchange.running

    asyncio.run(main())


def test_a_long_stream_is_not_cut_and_a_late_item_is() -> None:
    @step
    async def pausing(pauses: list[float]) -> AsyncIterator[int]:
        for i, pause_s in enumerate(pauses):
            await asyncio.sleep(pause_s)
            yield i

    @pipeline
    def paused(pauses: list[float]) -> Iterator[int]:
        return pausing(pauses)

    limits = Limits(request_timeout_s=0.3)
    with TestClient(asgi(paused, limits=limits)) as client:

        def events(*pauses: float) -> list[dict]:
            answer = client.post("/paused", json={"pauses": pauses}, headers={"accept": LINES})
            return [json.loads(line) for line in answer.text.splitlines()]

        assert events(*[0.1] * 5)[-1] == {"event": "end", "data": {"items": 5}}
        last = events(0.0, 5.0)[-1]
        assert (last["event"], last["data"]["status"]) == ("problem", 504)
        answer = client.post("/paused", json={"pauses": [5.0]}, headers={"accept": LINES})
        assert answer.status_code == 504


def test_a_stream_of_a_version_that_is_closed_ends_with_503(endless) -> None:
    async def main() -> None:
        async with serving(endless.pipeline) as (app, one):
            exchange = Exchange(app, "/counting", {})
            await exchange.read()
            await exchange.read()
            one.executor.close(wait=False)
            bodies = []
            while not bodies or b'"problem"' not in bodies[-1]:
                bodies.append((await asyncio.wait_for(exchange.read(), 5))["body"])
            exchange.reads.release()
            await exchange.running
            problem = json.loads(bodies[-1])["data"]
            assert problem["status"] == 503
            assert "deployed again or shut down" in problem["detail"]
            assert one.observer.recorder.take()["status"] == {"503": 1}

    asyncio.run(main())


def test_streams_are_counted_by_how_they_ended() -> None:
    async def main() -> None:
        async with serving(writer) as (app, one):
            bodies = [
                {"prompt": "a b"},
                {"prompt": "a b", "fail_at": 1},
                {"prompt": "a b", "fail_at": 0},
            ]
            for body in bodies:
                exchange = Exchange(app, "/writer", body)
                for _ in range(10):
                    exchange.reads.release()
                await exchange.running
            taken = one.observer.recorder.take()
            assert taken["status"] == {"200": 1, "500": 2}
            counts = {name: sum(items["buckets"]) for name, items in taken["items"].items()}
            assert counts == {"first": 2, "between": 1}

    asyncio.run(main())


def test_a_failed_stream_can_be_looked_into_and_repeated_here() -> None:
    arguments = {"prompt": "a b c", "fail_at": 2}

    async def main() -> Served:
        async with serving(writer) as (app, one):
            one.observer.recorder.peeking = frozenset(["write"])
            exchange = Exchange(app, "/writer", arguments)
            for _ in range(10):
                exchange.reads.release()
            await exchange.running
            return one

    one = asyncio.run(main())
    (failure,) = one.failures.last
    assert (failure.step, failure.error) == ("write", "ValueError: no more words")
    assert "raise ValueError" in failure.traceback
    (peek,) = one.observer.recorder.take()["peeks"]
    assert peek["inputs"][0][:2] == ["prompt", "'a b c'"]
    assert "at=1" in peek["output"][0]
    items = []
    with pytest.raises(StepError, match="no more words") as raised:
        items += writer.stream(**arguments)
    with pytest.raises(StepError, match="no more words") as raised:
        writer(**arguments)
    assert [token.text for token in raised.value.run["write"].value] == ["a", "b"]


def test_the_trace_of_a_stream_has_its_first_item_and_lasts_until_the_last() -> None:
    @step
    def pausing(x: int) -> Iterator[int]:
        yield x
        time.sleep(0.03)
        yield x

    @pipeline
    def paused(x: int) -> Iterator[int]:
        return pausing(x)

    async def main() -> Trace:
        async with serving(paused) as (app, one):
            exchange = Exchange(app, "/paused", {"x": 1})
            for _ in range(10):
                exchange.reads.release()
            await exchange.running
            return Trace.unpack(one.observer.recorder.take()["traces"][0])

    trace = asyncio.run(main())
    (span,) = trace.spans
    assert span.start_s <= span.first_item_s < trace.total_s - 0.03
    assert f"first item after {milliseconds(span.first_item_s)}" in str(trace)
    assert 'class="item"' in trace._repr_html_()
    (legend,) = [axes.get_legend() for axes in trace.plot().axes]
    assert "first item" in [text.get_text() for text in legend.get_texts()]


def test_a_route_iterates_over_the_items() -> None:
    shop = FastAPI()

    @shop.get("/say")
    async def say(prompt: str, writer=Depends(served(writer))) -> StreamingResponse:
        async def texts() -> AsyncIterator[str]:
            async for token in writer.stream(prompt):
                yield token.text + "\n"

        return StreamingResponse(texts())

    @shop.get("/plain")
    def plain(prompt: str, writer=Depends(served(writer))) -> StreamingResponse:
        return StreamingResponse(token.text + "\n" for token in writer.stream(prompt))

    with TestClient(asgi(writer, fastapi=shop)) as client:
        assert client.get("/say?prompt=a%20b").text == "a\nb\n"
        assert client.get("/plain?prompt=a%20b").text == "a\nb\n"


def test_an_invalid_input_is_refused_before_anything_is_sent(client) -> None:
    @step
    def refuse(x: int) -> Iterator[int]:
        raise InputError("not that one")
        yield x

    @pipeline
    def refusing(x: int) -> Iterator[int]:
        return refuse(x)

    with TestClient(asgi(refusing)) as client:
        answer = client.post("/refusing", json={"x": 1}, headers={"accept": EVENTS})
        assert (answer.status_code, answer.json()["step"]) == (422, "refuse")
        assert client.post("/refusing", json={}, headers={"accept": EVENTS}).status_code == 422


@pytest.mark.timing
@pytest.mark.parametrize(("write", "read"), [(_as_frame, read_frames), (_as_line, read_lines)])
def test_the_time_to_read_an_item_grows_with_its_size_alone(write, read) -> None:
    body = write("item", b'"%s"' % (b"x" * 16_000_000)) + write("end", b"1")
    chunks = [body[i : i + 4096] for i in range(0, len(body), 4096)]
    began = time.perf_counter()
    assert [name for name, _ in read(chunks)] == ["item", "end"]
    assert time.perf_counter() - began < 3  # joining the chunks one by one takes minutes
