"""A front replica whose resources are swapped: which version answers, and what is compared."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import asynccontextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from mlkit import pipeline, resource, step
from mlkit.metrics import Recorder, Trace
from mlkit.plan import plan
from mlkit.serving.bundle import pack, pack_resource
from mlkit.serving.replica import base
from mlkit.serving.replica.front import Replica, Shipment, _Switch
from mlkit.serving.replica.output import JsonLines, read_failures

CLOSED: list[float] = []


class Scale:
    """A model: multiplies, unless it fails."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, x: float) -> float:
        return 1 / 0 if self.factor == 0 else self.factor * x


@pytest.fixture(autouse=True)
def unsettled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test process has much more to collect than a replica."""
    monkeypatch.setattr(base, "settle", lambda **options: None)


def loader(factor: float) -> Callable[[], Any]:
    def load() -> Any:
        from tests.serving.replica.test_swap import CLOSED, Scale

        if factor == 99:
            raise OSError("no such file")
        yield "no model" if factor == 98 else Scale(factor)
        CLOSED.append(factor)

    return load


READ: list[float] = []


@step
def read(x: float) -> float:
    from tests.serving.replica.test_swap import READ

    READ.append(x)
    return x


load_first = loader(1)


@step
def predict(x: float, *, model: Scale = resource(load_first)) -> dict[str, float | str]:
    return {"score": model(x), "label": "large" if model(x) > 10 else "small"}


@pipeline
def scored(x: float) -> dict[str, float | str]:
    return predict(read(x))


class Front(Replica):
    def __del__(self) -> None:
        """Serve awaits the one of a replica that it ends."""


class App:
    """A replica and a client of it, with the configurations that a session sends."""

    def __init__(self, replica: Front, objects: dict[str, bytes]) -> None:
        self.replica = replica
        self.objects = objects
        transport = httpx2.ASGITransport(_Switch(replica))
        self.client = httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1")

    async def want(
        self, factor: float = 1, trial: float | None = None, *, check: bool = True, **shares: float
    ) -> None:
        config = {
            **self.version(factor),
            "state": f"{factor} {trial} {shares}",
            "bundle": "bundle",
            "limits": {},
            "workers": 1,
            "sizes": {},
            "log_levels": {},
            "max_busy_workers": None,
            "check": check,
            "trial": None if trial is None else self.version(trial) | self.shares(**shares),
        }
        await self.replica.reconfigure(config)
        await asyncio.gather(*(t for t in self.replica._tasks if "_update" in repr(t)))

    def version(self, factor: float) -> dict[str, Any]:
        replaced = {}
        if factor != 1:
            new = resource(loader(factor))
            self.objects[f"model {factor}"] = pack_resource(new)
            replaced = {"scored.predict.model": [f"model {factor}", f"digest {factor}"]}
        return {"version": f"v{factor}", "routes": {}, "replaced": replaced}

    def shares(self, canary: float = 0.0, shadow: float = 0.0) -> dict[str, float]:
        return {"canary": canary, "shadow": shadow}

    async def ask(self, x: float = 4, **headers: str) -> tuple[str, Any, httpx2.Headers]:
        response = await self.client.post("/scored", json={"x": x}, headers=headers)
        assert response.status_code == 200, response.text
        return response.headers["x-mlkit-version"], response.json()["score"], response.headers

    @property
    def rejected(self) -> str:
        return " ".join(self.replica._rejected.values())

    async def compared(self, count: int) -> dict[str, Any]:
        """What the recorder has once so many requests were compared."""
        recorder = self.replica._observer.recorder
        while sum(each.compared for each in recorder._compared.values()) < count:
            await asyncio.sleep(0.005)
        return recorder.take()["compared"]


@cache
def bundle() -> bytes:
    return pack(plan(scored))[0].data


@asynccontextmanager
async def front():
    replica = Front.__new__(Front)
    objects = {"bundle": bundle()}
    origin = SimpleNamespace(enter=lambda: None)
    shipment = Shipment(app="scored", origin=origin, logs="/nowhere", token=None, exact_key="k")
    runtime = SimpleNamespace(push=print, handle=print, fetch=objects.__getitem__)
    await replica.__init__(shipment, runtime=runtime)
    replica._observer.recorder = Recorder("scored")
    try:
        yield App(replica, objects)
    finally:
        for task in replica._tasks:
            task.cancel()
        for executor in replica._executors():
            executor.close(wait=False)


def replica_test(test: Callable[[App], Any]) -> Callable[[], None]:
    def run() -> None:
        async def main() -> None:
            async with front() as app:
                await asyncio.wait_for(test(app), 20)

        CLOSED.clear()
        READ.clear()
        asyncio.run(main())

    run.__name__ = test.__name__
    return run


@replica_test
async def test_every_response_and_trace_names_the_version_that_made_it(app: App) -> None:
    await app.want()
    assert (await app.ask())[:2] == ("v1", 4)
    response = await app.client.get("/nothing-here")
    assert (response.status_code, response.headers["x-mlkit-version"]) == (404, "v1")
    (packed,) = app.replica._observer.recorder.take()["traces"]
    assert Trace.unpack(packed).version == "v1"


@replica_test
async def test_a_swapped_resource_takes_over_and_the_old_one_is_closed(app: App) -> None:
    await app.want()
    await app.want(3)
    assert (await app.ask())[:2] == ("v3", 12)
    while CLOSED != [1]:
        await asyncio.sleep(0.01)


@replica_test
async def test_a_version_on_trial_is_promoted_without_being_loaded_again(app: App) -> None:
    await app.want()
    await app.want(1, 3, canary=1.0)
    tried = app.replica._trial.version
    await app.want(3)
    assert app.replica._version is tried
    assert (await app.ask())[:2] == ("v3", 12)


@replica_test
async def test_a_canary_takes_its_share_by_the_id_of_the_request(app: App) -> None:
    await app.want()
    await app.want(1, 3, canary=0.25)
    trial = app.replica._trial
    share = sum(trial.takes(f"{i:016x}".encode()) for i in range(4000)) / 4000
    assert abs(share - 0.25) < 0.02
    first = [(await app.ask(**{"x-request-id": str(i)}))[0] for i in range(20)]
    again = [(await app.ask(**{"x-request-id": str(i)}))[0] for i in range(20)]
    assert first == again
    assert set(first) == {"v1", "v3"}


@replica_test
async def test_a_request_without_an_id_gets_the_one_it_was_routed_by(app: App) -> None:
    await app.want()
    await app.want(1, 3, canary=0.5)
    for _ in range(10):
        version, _, headers = await app.ask()
        (id,) = headers.get_list("x-request-id")
        assert app.replica._trial.takes(id.encode()) is (version == "v3")


@replica_test
async def test_a_trial_that_ends_takes_no_more_requests(app: App) -> None:
    await app.want()
    await app.want(1, 3, canary=1.0)
    assert (await app.ask())[0] == "v3"
    await app.want()
    assert (await app.ask())[0] == "v1"
    while CLOSED != [3]:
        await asyncio.sleep(0.01)


BAD = {
    99: "no such file",
    98: "another type",
    0: "fails on a recent request",
    math.nan: "NaN for a recent request",
}


@pytest.mark.parametrize("factor", BAD)
@pytest.mark.parametrize("trial", [False, True])
def test_a_model_that_cannot_serve_is_rejected_and_the_old_one_goes_on(factor, trial) -> None:
    @replica_test
    async def test(app: App) -> None:
        await app.want()
        await app.ask()
        if trial:
            await app.want(1, factor, canary=1.0)
        else:
            await app.want(factor)
        assert BAD[factor] in app.rejected
        assert (await app.ask())[:2] == ("v1", 4)
        assert app.replica._trial is None

    test()


def test_the_traceback_of_a_failed_load_reaches_the_failures_of_the_app(tmp_path) -> None:
    @replica_test
    async def test(app: App) -> None:
        app.replica._failures.keep = JsonLines(tmp_path / "scored.1.failure.jsonl")
        await app.want()
        await app.want(99)
        (failure,) = read_failures(tmp_path, "scored")
        assert "no such file" in failure.error
        assert "in load" in failure.traceback
        assert "OSError: no such file" in failure.traceback

    test()


@replica_test
async def test_a_replica_starts_although_the_version_on_trial_cannot_be_loaded(app: App) -> None:
    await app.want(1, 99, canary=0.5)
    assert "no such file" in app.rejected
    assert (await app.ask())[:2] == ("v1", 4)


@replica_test
async def test_a_new_model_is_warmed_on_a_recent_request_from_the_swapped_step_on(app: App) -> None:
    await app.want()
    await app.ask(7)
    await app.want(3)
    assert READ == [7]
    assert (await app.ask(2))[:2] == ("v3", 6)


@replica_test
async def test_a_model_is_tried_on_the_request_that_the_one_before_was_tried_on(app: App) -> None:
    await app.want()
    await app.ask()
    await app.want(3)
    await app.want(0)
    assert "fails on a recent request" in app.rejected
    assert (await app.ask())[:2] == ("v3", 12)


@replica_test
async def test_what_is_deployed_or_rolled_back_to_serves_whatever_was_asked_last(app: App) -> None:
    await app.want()
    await app.ask()
    await app.want(math.nan, check=False)
    assert app.replica._version.name == "vnan"


@replica_test
async def test_a_shadow_sees_copies_and_its_disagreements_are_recorded(app: App) -> None:
    await app.want()
    await app.want(1, 3, shadow=1.0)
    assert (await app.ask(0))[:2] == ("v1", 0)
    assert (await app.ask(4))[:2] == ("v1", 4)
    compared = (await app.compared(2))["v3"]
    assert {k: compared[k] for k in ("compared", "disagreed", "dropped")} == {
        "compared": 2,
        "disagreed": 1,
        "dropped": 0,
    }
    (sample,) = compared["samples"]
    assert sample["inputs"][0][:2] == ["x", "4"]
    assert sample["differing"] == ["['label']", "['score']"]
    assert "12" in sample["new"][0]
    assert READ == [0, 4]  # what does not depend on the model is not repeated
    assert app.replica._observer.recorder.take()["status"] == {}


@replica_test
async def test_a_shadow_that_fails_is_a_disagreement_and_fails_no_request(app: App) -> None:
    await app.want()
    await app.want(1, 0, shadow=1.0)
    assert (await app.ask())[:2] == ("v1", 4)
    (sample,) = (await app.compared(1))["v0"]["samples"]
    assert sample["differing"] == ["error"]
    assert "division" in sample["new"][0]


@replica_test
async def test_what_a_shadow_cannot_keep_up_with_is_dropped(app: App) -> None:
    await app.want()
    await app.want(1, 3, shadow=1.0)
    watch = app.replica._version.served[0].watch
    await app.ask()
    last = app.replica._version.served[0].last
    for _ in range(100):
        watch(last)
    compared = app.replica._observer.recorder.take()["compared"]["v3"]
    assert compared["dropped"] > 80


@replica_test
async def test_a_shadow_that_ends_repeats_nothing_more(app: App) -> None:
    await app.want()
    await app.want(1, 3, shadow=1.0)
    served = app.replica._version.served[0]
    await app.want()
    assert served.watch is None
    await app.ask()
    assert app.replica._observer.recorder.take()["compared"] == {}
