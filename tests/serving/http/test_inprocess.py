"""Serving in this process, in tests of a user's own."""

from collections.abc import AsyncIterator

from fastapi.testclient import TestClient

from mlkit import pipeline, resource, step
from mlkit.serving import asgi


async def load() -> int:
    return 1


@step
async def add(x: int, *, one: int = resource(load)) -> int:
    return x + one


@pipeline
def added(x: int) -> int:
    return add(x)


@step
async def count(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i


@pipeline
def counted(n: int) -> AsyncIterator[int]:
    return count(n)


def test_a_client_without_a_context_sends_any_number_of_requests() -> None:
    adds = TestClient(asgi(added), base_url="http://127.0.0.1")
    assert [adds.post("/added", json={"x": x}).json() for x in range(3)] == [1, 2, 3]
    counts = TestClient(asgi(counted), base_url="http://127.0.0.1")
    assert [counts.post("/counted", json={"n": n}).json() for n in range(3)] == [[], [0], [0, 1]]
