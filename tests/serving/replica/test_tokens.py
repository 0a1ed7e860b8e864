"""A front replica whose named tokens change while it serves."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import httpx2
import pytest

from mlkit import pipeline, step
from mlkit.plan import plan
from mlkit.serving.bundle import pack
from mlkit.serving.grants import Grant, digest_of
from mlkit.serving.replica import base
from mlkit.serving.replica.front import Shipment, _Switch

from .test_swap import Front


@step
def same(x: int) -> int:
    return x


@pipeline
def echo(x: int) -> int:
    return same(x)


def test_tokens_come_and_go_without_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "settle", lambda **options: None)

    async def main() -> None:
        replica = Front.__new__(Front)
        origin = SimpleNamespace(enter=lambda: None)
        shipment = Shipment(app="echo", origin=origin, logs="/nowhere", token="owns", exact_key="k")
        bundle = {"bundle": pack(plan(echo))[0].data}
        runtime = SimpleNamespace(push=print, handle=print, fetch=bundle.__getitem__)
        await replica.__init__(shipment, runtime=runtime)
        config = {
            "version": "v1",
            "state": "v1",
            "routes": {},
            "replaced": {},
            "bundle": "bundle",
            "limits": {},
            "workers": 1,
            "sizes": {},
            "log_levels": {},
            "trial": None,
            "max_busy_workers": None,
            "check": True,
        }
        transport = httpx2.ASGITransport(_Switch(replica))
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:

            async def ask(token: str) -> int:
                headers = {"authorization": f"Bearer {token}"}
                return (await client.post("/echo", json={"x": 1}, headers=headers)).status_code

            await replica.reconfigure(config)
            version = replica._version
            assert [await ask("owns"), await ask("named")] == [200, 401]
            grant = vars(Grant(name="mobile", digest=digest_of(b"named")))
            for granted, status in (("grants 1", 200), ("grants 2", 401)):
                grants = [{**grant, "scopes": ["call"]}] if status == 200 else []
                await replica.reconfigure({**config, "grants": grants, "granted": granted})
                assert (await replica.loaded())["loaded"] == ["v1", granted]
                assert [await ask("owns"), await ask("named")] == [200, status]
            assert replica._version is version
        for task in replica._tasks:
            task.cancel()
        for executor in replica._executors():
            executor.close(wait=False)

    asyncio.run(main())
