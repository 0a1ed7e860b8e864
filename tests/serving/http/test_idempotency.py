"""A request with an `Idempotency-Key` is answered once; without Ray, and in virtual time."""

import asyncio
import threading
import time
from collections.abc import Callable

import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import StreamingResponse
from starlette.testclient import TestClient

from mlkit import InputError, pipeline, step
from mlkit.execute import Executor, compile_graph
from mlkit.serving import Limits, asgi
from mlkit.serving.http import idempotency, stream
from mlkit.serving.http.idempotency import KEEP_S, MAX_REPLY_BYTES, OVERHEAD_BYTES, Replies, Reply
from mlkit.serving.http.ingress import create_app
from mlkit.serving.http.lifecycle import Served
from mlkit.serving.http.stream import EVENTS, FRAMES, LINES

KEY = "Idempotency-Key"
REPLAYED = "idempotency-replayed"


class Counter:
    """A pipeline that counts its runs and returns the count; it waits for ``go``."""

    def __init__(self) -> None:
        self.runs: list[int] = []
        self.go = threading.Event()
        self.go.set()

        @step
        def count(x: int) -> str:
            self.runs.append(x)
            assert self.go.wait(20)
            if x < 0:
                raise ValueError("it failed")
            if x == 0:
                raise InputError("no zero")
            if x == 503:
                raise HTTPException(503)
            return "x" * MAX_REPLY_BYTES if x == 99 else f"run {len(self.runs)}"

        @pipeline
        def counted(x: int) -> str:
            return count(x)

        self.pipeline = counted


@pytest.fixture
def counter():
    return Counter()


@pytest.fixture
def client(counter, face) -> TestClient:
    return face(counter.pipeline)


def ask(client: TestClient, x: int, key: str | None = "k", **headers: str):
    named = {} if key is None else {KEY: key}
    return client.post("/counted", json={"x": x}, headers={**named, **headers})


def test_a_repeated_request_gets_the_first_ones_response(client, counter) -> None:
    first, second = ask(client, 1), ask(client, 1)
    assert [(each.status_code, each.json()) for each in (first, second)] == [(200, "run 1")] * 2
    assert (REPLAYED in first.headers, second.headers[REPLAYED]) == (False, "true")
    assert first.headers["content-type"] == second.headers["content-type"]
    assert counter.runs == [1]
    assert client.served.ongoing == 0


def test_other_keys_and_requests_without_one_run(client, counter) -> None:
    said = [ask(client, 1, key).json() for key in ("a", "b", None, None)]
    assert said == ["run 1", "run 2", "run 3", "run 4"]


def test_refused_input_is_refused_again_and_a_failure_runs_again(client, counter) -> None:
    assert [ask(client, 0).status_code for _ in range(2)] == [422, 422]
    assert counter.runs == [0]
    for x, status in ((-1, 500), (503, 503)):
        assert [ask(client, x, f"{x}").status_code for _ in range(2)] == [status, status]
    assert counter.runs == [0, -1, -1, 503, 503]


def test_a_key_stands_for_one_request(client, counter) -> None:
    ask(client, 1)
    answer = ask(client, 2)
    assert answer.status_code == 422
    assert "used for another request" in answer.json()["detail"]
    assert ask(client, 1, accept="text/event-stream").status_code == 422
    assert client.post("/counted?a=1", json={"x": 1}, headers={KEY: "k"}).status_code == 422
    assert counter.runs == [1]


@pytest.mark.parametrize("key", ["", " ", "a b", "k" * 256, "\xe9"])
def test_a_malformed_key_is_invalid(client, counter, key) -> None:
    answer = client.post("/counted", json={"x": 1}, headers={KEY: key.encode("latin-1")})
    assert answer.status_code == 422
    assert counter.runs == []


def test_a_response_that_is_too_long_is_not_kept(client, counter) -> None:
    assert [ask(client, 99).status_code for _ in range(2)] == [200, 200]
    assert counter.runs == [99, 99]


def test_a_body_beyond_the_limit_is_413(counter, face) -> None:
    client = face(counter.pipeline, limits=Limits(max_body_bytes=10))
    answer = client.post("/counted", content=b" " * 11, headers={KEY: "k"})
    assert answer.status_code == 413
    assert counter.runs == []


def test_a_stream_of_events_is_repeated_as_well(client, counter) -> None:
    said = [ask(client, 1, accept="text/event-stream").text for _ in range(2)]
    assert said[0] == said[1]
    assert counter.runs == [1]


@pytest.mark.parametrize("value", ["The problem", [10, "problem"]])
def test_a_result_about_a_problem_is_kept(face, value) -> None:
    runs: list[int] = []

    @step
    def say(x: int) -> str | list[int | str]:
        runs.append(x)
        return value

    @pipeline
    def counted(x: int) -> str | list[int | str]:
        return say(x)

    client = face(counted)
    assert [ask(client, 1).json() for _ in range(2)] == [value] * 2
    assert runs == [1]


@pytest.mark.parametrize("media_type", [EVENTS, LINES, FRAMES])
def test_a_stream_that_fails_runs_again(media_type) -> None:
    write = stream._WRITERS[media_type]

    def lasts(*names: str) -> bool:
        async def main() -> bool:
            recorder = idempotency._Recorder(lambda message: asyncio.sleep(0))
            response = StreamingResponse(parts(), media_type=media_type)
            await response.stream_response(recorder.send)
            return recorder.lasts

        async def parts():
            for name in names:
                yield write(name, b'"a problem"')

        return asyncio.run(main())

    assert lasts("item", "problems", "end")
    assert not lasts("item", "problem")


def test_a_dependency_of_an_application_runs_each_time_and_may_read_the_body(counter) -> None:
    allowed = [True, False]

    async def guard(request: Request) -> None:
        assert await request.body()
        if not allowed.pop(0):
            raise HTTPException(403)

    shop = FastAPI(dependencies=[Depends(guard)])
    with TestClient(asgi(counter.pipeline, fastapi=shop)) as client:
        assert [ask(client, 1).status_code for _ in range(2)] == [200, 403]
    assert counter.runs == [1]


# ---- at the same time ---------------------------------------------------------------------------


async def together(counter: Counter, meanwhile: Callable, **limits) -> list[tuple[int, bytes]]:
    """Send three equal requests, and return what was answered; ``meanwhile`` they run."""
    loop = asyncio.get_running_loop()
    with Executor(compile_graph(counter.pipeline.graph), workers=2, loop=loop) as executor:
        served = Served(executor, Limits(**limits))
        app = create_app(counter.pipeline.graph, lambda: served, served.limits, None)

        async def request() -> tuple[int, bytes]:
            sent: list[dict] = []
            body = [{"type": "http.request", "body": b'{"x": 1}'}]

            async def receive() -> dict:
                return body.pop()

            async def send(message: dict) -> None:
                sent.append(message)

            headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
            scope = {"type": "http", "method": "POST", "path": "/counted", "query_string": b""}
            scope["headers"] = [*headers, (b"idempotency-key", b"k")]
            scope["client"] = scope["server"] = ("127.0.0.1", 80)
            await app(scope, receive, send)
            return sent[0]["status"], sent[-1]["body"]

        tasks = [asyncio.create_task(request()) for _ in range(3)]
        while not counter.runs:
            await asyncio.sleep(0.001)
        await meanwhile(tasks)
        return [t.result() for t in tasks if not t.cancelled()]


def test_requests_in_flight_wait_for_the_first_one(counter) -> None:
    counter.go.clear()

    async def release(tasks) -> None:
        assert not any(task.done() for task in tasks)
        counter.go.set()
        await asyncio.gather(*tasks)

    assert asyncio.run(together(counter, release)) == [(200, b'"run 1"')] * 3
    assert counter.runs == [1]


def test_where_the_first_one_leaves_the_next_one_runs(counter) -> None:
    counter.go.clear()

    async def leave(tasks) -> None:
        tasks[0].cancel()
        await asyncio.wait(tasks[:1])
        while len(counter.runs) < 2:
            await asyncio.sleep(0.001)
        counter.go.set()
        await asyncio.gather(*tasks[1:])

    assert asyncio.run(together(counter, leave)) == [(200, b'"run 2"')] * 2


def test_those_that_wait_are_bounded_and_late(counter) -> None:
    counter.go.clear()

    async def wait(tasks) -> None:
        await asyncio.wait(tasks)
        counter.go.set()

    limits = {"max_ongoing_requests": 2, "request_timeout_s": 0.05}
    said = asyncio.run(together(counter, wait, **limits))
    assert sorted(status for status, _ in said) == [503, 504, 504]


@pytest.mark.parametrize("key", [{}, {KEY: "k"}])
@pytest.mark.parametrize(("timeout_s", "status"), [("0.03", 504), ("10", 200)])
def test_reading_and_running_have_one_deadline(face, key, timeout_s, status) -> None:
    @step
    async def wait(x: int) -> int:
        await asyncio.sleep(0.02)
        return x

    @pipeline
    def waited(x: int) -> int:
        return wait(x)

    def slow():
        time.sleep(0.02)
        yield b'{"x": 1}'

    headers = {**key, "X-Request-Timeout-Seconds": timeout_s, "Content-Type": "application/json"}
    response = face(waited).post("/waited", content=slow(), headers=headers)
    assert response.status_code == status, response.text


# ---- what is kept -------------------------------------------------------------------------------


def reply(size: int) -> Reply:
    return Reply(b"", {"type": "http.response.start", "status": 200, "headers": []}, bytes(size))


def test_a_response_is_forgotten_after_a_while() -> None:
    clock = [0.0]
    replies = Replies(lambda: clock[0])
    replies.put(b"k", reply(1))
    clock[0] = KEEP_S - 1
    assert replies.get(b"k") is not None
    clock[0] = KEEP_S + 1
    assert replies.get(b"k") is None
    assert replies._bytes == 0


@given(st.lists(st.tuples(st.integers(0, 50_000), st.floats(0, 300)), max_size=60))
def test_what_is_kept_is_bounded_and_the_newest(sizes) -> None:
    clock = [0.0]
    replies = Replies(lambda: clock[0], max_bytes=100_000)
    for i, (size, passed) in enumerate(sizes):
        clock[0] += passed
        replies.put(b"%d" % i, reply(size))
        assert replies.get(b"%d" % i) is not None
        held = sum(len(kept.body) + OVERHEAD_BYTES for _, kept in replies._kept.values())
        assert replies._bytes == held <= 100_000
        assert list(replies._kept) == [b"%d" % j for j in range(i + 1 - len(replies._kept), i + 1)]


def test_the_largest_response_fits() -> None:
    assert idempotency.MAX_REPLY_BYTES + OVERHEAD_BYTES <= idempotency.MAX_BYTES
