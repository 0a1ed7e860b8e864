"""Bodies that drip, in virtual time."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from mlkit import pipeline, step
from mlkit.execute import Executor, compile_graph
from mlkit.serving.http.ingress import create_app
from mlkit.serving.http.lifecycle import Served
from mlkit.serving.http.pace import GRACE_S, due_s, paced
from mlkit.serving.limits import Limits
from tests.serving.control.conftest import run


@step
def measure(data: bytes) -> int:
    return len(data)


@pipeline
def length(data: bytes) -> int:
    return measure(data)


def dripping(parts, every_s: float):
    """Receives the parts of a body, and then, much later, the end of the connection."""
    left = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    left[-1]["more_body"] = False

    async def receive():
        if left:
            await asyncio.sleep(every_s)
            return left.pop(0)
        await asyncio.sleep(1e6)
        return {"type": "http.disconnect"}

    return receive


async def read(receive) -> int:
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message["body"]), message["more_body"]
    return size


@given(st.integers(1, 200), st.integers(0, 5_000), st.floats(0.001, 30))
def test_a_body_is_refused_exactly_when_a_part_is_overdue(count, size, every_s) -> None:
    arrivals = [(part * size, (part + 1) * every_s) for part in range(count)]
    margin = min((due_s(before) - at for before, at in arrivals), key=abs)
    if abs(margin) < 1e-3:
        return
    late = any(at > due_s(before) for before, at in arrivals)

    async def main() -> None:
        receive = paced(dripping([b"x" * size] * count, every_s))
        if late:
            with pytest.raises(HTTPException) as refused:
                await read(receive)
            assert refused.value.status_code == 408
        else:
            assert await read(receive) == count * size

    run(main())


def test_what_is_there_needs_no_timer_and_the_end_of_the_connection_has_time() -> None:
    async def main() -> None:
        receive = paced(dripping([b"a", b"b"], 0))
        assert await read(receive) == 2
        assert await receive() == {"type": "http.disconnect"}

    run(main())


def test_an_error_while_receiving_is_passed_on() -> None:
    async def broken():
        await asyncio.sleep(1)
        raise TimeoutError("of the server")

    with pytest.raises(TimeoutError, match="of the server"):
        run(paced(broken)())


@pytest.mark.parametrize("key", [[], [(b"idempotency-key", b"k")]])
@pytest.mark.parametrize(("parts", "every_s"), [([b"x"] * 40, 1.0), ([b"x", b"x"], 2 * GRACE_S)])
def test_a_body_that_drips_is_408_and_its_connection_ends(parts, every_s, key) -> None:
    sent = []

    async def send(message) -> None:
        sent.append(message)

    async def main() -> float:
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/length",
            "query_string": b"",
            "headers": [(b"content-type", b"application/octet-stream"), *key],
        }
        with Executor(compile_graph(length.graph), workers=1) as executor:
            served = Served(executor)
            app = create_app(length.graph, lambda: served, Limits(), None, guarded=False)
            started = asyncio.get_running_loop().time()
            await app(scope, dripping(parts, every_s), send)
            assert served.ongoing == 0
            return asyncio.get_running_loop().time() - started

    assert run(main()) < GRACE_S + 1
    headers = dict(sent[0]["headers"])
    assert sent[0]["status"] == 408
    assert headers[b"connection"] == b"close"
    assert headers[b"content-type"] == b"application/problem+json"
