"""Load tests of apps that stream: when items arrive, and how streams end."""

from __future__ import annotations

import asyncio
import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlkit.load import LoadResult, constant, load_test
from mlkit.load.client import Endpoint, Pool, new_event_loop
from mlkit.load.requests import HttpRequest
from mlkit.serving.http.stream import LINES, _as_line

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n" % LINES.encode()
LAST = b"0\r\n\r\n"
ITEMS = [_as_line("item", b'"a"'), _as_line("item", b'"b"')]
END = _as_line("end", b'{"items": 2}')
PROBLEM = _as_line("problem", b'{"status": 500, "detail": "step \'write\' failed"}')
PAUSE_S = 0.05


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(body), body)


@pytest.fixture
def stream(serve, read_request):
    """Returns a function: pieces, each sent after a pause, to the port of a server; None closes."""

    def start(*pieces: bytes | None) -> int:
        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                await read_request(reader)
                for piece in pieces:
                    if piece is None:
                        return
                    writer.write(piece)
                    await asyncio.sleep(PAUSE_S)

        return serve(handler)

    return start


def fetch(port: int, **options: Any) -> Any:
    async def main(loop: asyncio.AbstractEventLoop) -> Any:
        request = b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n"
        pool = Pool(loop, Endpoint("127.0.0.1", port, ""), [request], streams=True, **options)
        answer = loop.create_future()
        pool.answered = lambda slot, response: answer.set_result(response)
        pool.send(0)
        await asyncio.wait_for(answer, 5)
        pool.close()
        return answer.result()

    loop = new_event_loop()
    try:
        return loop.run_until_complete(main(loop))
    finally:
        loop.close()


class App:
    """Stands for a deployed app whose pipeline streams."""

    graph = SimpleNamespace(streams=True)

    def __init__(self, port: int) -> None:
        self.port = port

    def prepare(self, payload: Any) -> HttpRequest:
        return HttpRequest(url=f"http://127.0.0.1:{self.port}/writer", body=b"{}")


def measure(port: int, **options: Any) -> LoadResult:
    rate = constant(rate=20)
    return load_test(App(port), [1], rate, duration_s=0.2, warmup_s=0, progress=False, **options)


def test_items_are_timed_as_they_arrive(stream) -> None:
    response = fetch(stream(HEAD + chunk(ITEMS[0]), chunk(ITEMS[1]), chunk(END) + LAST))
    first, second = response.item_times
    assert response.error is None
    assert first - response.first_byte < PAUSE_S / 2
    assert second - first > PAUSE_S / 2
    assert response.finished - second > PAUSE_S / 2


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_item_has_arrived_with_the_end_of_its_line(stream, size: int) -> None:
    whole = b"".join([*ITEMS, END])
    chunks = [chunk(whole[i : i + size]) for i in range(0, len(whole), size)]
    response = fetch(stream(HEAD + b"".join(chunks) + LAST), keeps_bodies=True)
    assert (response.error, len(response.item_times)) == (None, 2)
    assert (response.media_type, response.body) == ("application/json", b'["a","b"]')


@pytest.mark.parametrize(
    ("pieces", "error", "items"),
    [
        ([HEAD, chunk(END), LAST], None, 0),
        ([HEAD, chunk(ITEMS[0] + PROBLEM), LAST], "problem", 1),
        ([HEAD, chunk(ITEMS[0]), LAST], "problem", 1),
        ([HEAD, chunk(ITEMS[0] + ITEMS[1][:9]), None], "closed", 1),
        ([b"HTTP/1.1 503 X\r\nContent-Length: 2\r\n\r\n{}"], "http 503", 0),
    ],
    ids=["empty", "problem", "without an end", "broken off", "refused"],
)
def test_a_success_is_a_stream_that_came_to_its_end(
    stream, pieces: list[bytes | None], error: str | None, items: int
) -> None:
    response = fetch(stream(*pieces))
    assert (response.error, len(response.item_times)) == (error, items)


def test_the_result_has_the_times_of_items(stream, tmp_path) -> None:
    result = measure(stream(HEAD + chunk(ITEMS[0]), chunk(ITEMS[1] + END) + LAST))
    assert result.errors == {}
    assert result.records[0].items == 2
    frame = result.to_frame()
    assert list(frame["items"]) == [2] * 4
    assert ((frame["between_items_ms"] > 25) & (frame["first_item_ms"] > 0)).all()
    assert (frame["first_item_ms"] < frame["latency_ms"]).all()
    summary = result.summary()
    assert (summary["items"], summary["requests"]) == (8, 4)
    assert summary["first_item_p50_ms"] < summary["between_items_p50_ms"] < summary["p50_ms"]
    assert "between items p50" in repr(result)
    assert "first item" in result._repr_html_()
    loaded = LoadResult.load(result.save(tmp_path / "stream.npz"))
    assert loaded.summary() == summary


def test_what_is_expected_is_asked_of_the_list_of_items(stream) -> None:
    port = stream(HEAD + chunk(b"".join([*ITEMS, END])) + LAST)
    seen = []

    def check(answer: Any) -> bool:
        seen.append(answer.json())
        return True

    assert measure(port, expect=check).errors == {}
    assert seen == [["a", "b"]]
    assert measure(port, expect=list[str]).errors == {}
    assert measure(port, expect=list[int]).errors == {"unexpected": 4}


def test_a_stream_that_ends_with_a_problem_is_told_in_the_notes(stream) -> None:
    result = measure(stream(HEAD + chunk(ITEMS[0] + PROBLEM) + LAST))
    assert result.errors == {"problem": 4}
    assert result.notes[0].startswith("4 streams did not end: ")
    assert json.loads(result.failures[0].detail)["data"]["status"] == 500
    assert result.summary()["first_item_p50_ms"] == math.inf


def test_a_stream_that_takes_too_long_keeps_its_items_and_failed(stream) -> None:
    port = stream(HEAD + chunk(ITEMS[0]), b"", b"", b"", b"", b"", b"", b"", chunk(END) + LAST)
    result = measure(port, timeout_s=3 * PAUSE_S)
    assert result.errors == {"timeout": 4}
    assert list(result.to_frame()["items"]) == [1] * 4


def test_failures_only_make_the_times_of_items_worse(make_result) -> None:
    """Requests: two items; failed after one; none; failed before the first."""
    plain = make_result([100.0] * 4, errors={1: "problem", 3: "http 503"}, duration_s=4.0)
    columns = {**plain.columns, "items": np.array([2, 1, 0, 0])}
    fields = {name: getattr(plain, name) for name in plain.__dataclass_fields__}
    times = np.array([0.01, 0.03, 1.02])
    result = LoadResult(**{**fields, "columns": columns, "item_times": times})
    assert result.first_item_ms.tolist() == [pytest.approx(10), math.inf, math.inf]
    assert result.between_items_ms.tolist() == [pytest.approx(20), math.inf]
    assert not result.item_percentiles["between_items"]["p50"].certified
