"""A front replica keeps inputs of its failed and slow requests, until it is told not to."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from mlkit import pipeline, step
from mlkit.plan import plan
from mlkit.serving.bundle import pack
from mlkit.serving.http.problem import Failure
from mlkit.serving.kernel.reproduce import Reproduction
from mlkit.serving.replica import base, kept
from mlkit.serving.replica.front import Replica, Shipment, _Switch


@step
def invert(x: float, scale: float = 1.0) -> float:
    return scale / x


@pipeline
def inverted(x: float) -> float:
    return invert(x)


class Front(Replica):
    def __del__(self) -> None:
        """Serve awaits the one of a replica that it ends."""


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process of a test is not that of a replica."""
    monkeypatch.setattr(base, "settle", lambda **options: None)
    monkeypatch.setattr(base, "capture", lambda folder, app: lambda failure: None)
    monkeypatch.setattr(kept, "REST", 0)


def ask(tmp_path, keep: bool, *xs: float) -> list[httpx2.Response]:
    """Sends requests to a front replica, one after the other."""

    async def main() -> list[httpx2.Response]:
        replica = Front.__new__(Front)
        shipment = Shipment(
            app="inverted",
            origin=SimpleNamespace(enter=lambda: None),
            logs=str(tmp_path),
            token=None,
            exact_key="k",
            gatherer="gatherer",
        )
        data = pack(plan(inverted))[0].data
        runtime = SimpleNamespace(push=lambda *_: None, handle=print, fetch=lambda location: data)
        await replica.__init__(shipment, runtime=runtime)
        config: dict[str, Any] = {
            "version": "v1",
            "state": "v1",
            "routes": {},
            "replaced": {},
            "bundle": "bundle",
            "limits": {},
            "workers": 1,
            "sizes": {},
            "log_levels": {},
            "check": True,
            "trial": None,
            "keep_inputs": keep,
        }
        await replica.reconfigure(config)
        transport = httpx2.ASGITransport(_Switch(replica))
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            responses = [await client.post("/inverted", json={"x": x}) for x in xs]
        for executor in replica._executors():
            executor.close(wait=False)
        replica._observer.close()
        return responses

    return asyncio.run(main())


def test_a_failed_and_a_slow_request_of_a_client_are_run_again_here(tmp_path) -> None:
    good, bad = ask(tmp_path, True, 4.0, 0.0)
    assert (good.status_code, bad.status_code) == (200, 500)
    reproduction = Reproduction(tmp_path, plan(inverted), lambda node: {})
    failure = Failure(bad.json()["failure_id"], "now", "invert", "ZeroDivisionError", "")
    with pytest.raises(ZeroDivisionError):
        reproduction.failed(failure).reproduce()
    assert reproduction.request(good.headers["x-request-id"]).value == 0.25


def test_nothing_is_kept_if_it_is_switched_off(tmp_path) -> None:
    good, bad = ask(tmp_path, False, 4.0, 0.0)
    assert (good.status_code, bad.status_code) == (200, 500)
    assert list(tmp_path.glob("*.inputs")) == []
