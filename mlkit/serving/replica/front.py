"""What runs inside a replica of the front: the HTTP face of a pipeline, and the steps fused in."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterator, MutableMapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mlkit.errors import DeployError
from mlkit.execute import Executor
from mlkit.execute.cores import switch_promptly
from mlkit.metrics import Recorder
from mlkit.serving.bundle import Origin
from mlkit.serving.http.access import RedeemedCodes
from mlkit.serving.http.ingress import create_app
from mlkit.serving.http.lifecycle import Served
from mlkit.serving.http.lifespan import Lifespan
from mlkit.serving.http.observe import Observer, gauges_of
from mlkit.serving.http.problem import Failures
from mlkit.serving.http.userapp import application_of
from mlkit.serving.limits import Limits
from mlkit.serving.replica.loading import Loaded, Loader, settle
from mlkit.serving.replica.output import capture
from mlkit.serving.replica.remote import Route, Router
from mlkit.serving.replica.retire import check_workers, close, drained
from mlkit.serving.replica.runtime import Runtime

__all__ = ["VERSION_PATH", "Replica", "Shipment"]

VERSION_PATH = "/-/version"
"""Where a replica says which version answers; open to everybody who can reach it."""


@dataclass(frozen=True, kw_only=True)
class Shipment:
    """What a replica is started with, and keeps as long as it lives.

    Attributes:
        app: name of the app.
        logs: folder for what is printed; passed over where it is not there.
        gatherer: name of the actor that gathers what is counted; "" to count nothing.
        fresh: changes when everything is to be built anew.
    """

    app: str
    origin: Origin
    logs: str
    token: str | None = field(repr=False)
    gatherer: str = ""
    fresh: str = ""


@dataclass
class _Version:
    """One version of the pipeline, ready to answer.

    Attributes:
        open: requests that have come to it and are not answered; one that is still being read is
            in no executor yet.
    """

    name: str
    app: ASGIApp
    served: tuple[Served, ...]
    lifespan: Lifespan
    loaded: Loaded
    open: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hold a connection."""
        self.open += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.open -= 1

    async def retire(self) -> None:
        """Close it when what it has begun is through."""
        await drained(self._busy, self._request_timeout_s)
        await self.lifespan.__aexit__()
        await close(self._executors)

    def check(self) -> None:
        """Make sure that it can run something; see `check_workers`."""
        check_workers(self._executors, self._request_timeout_s)

    @property
    def _executors(self) -> Iterator[Executor]:
        return (one.executor for one in self.served)

    @property
    def _request_timeout_s(self) -> float:
        return max(one.limits.request_timeout_s for one in self.served)

    def _busy(self) -> bool:
        return self.open > 0 or any(executor.in_flight for executor in self._executors)

    def drop(self) -> None:
        """Close it at once."""
        for executor in self._executors:
            executor.close(wait=False)


class Replica:
    """The front of a pipeline: all of its steps that are in no stage of their own.

    New code comes in by `reconfigure` and takes over when it is ready, with the resources that did
    not change. One that cannot be loaded is told, and the old one goes on.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, shipment: Shipment, *, runtime: Runtime
    ) -> None:
        switch_promptly()
        logs = Path(shipment.logs)
        self._failures, self._codes = Failures(), RedeemedCodes()
        if logs.is_dir():  # noqa: ASYNC240
            self._failures = Failures(capture(logs, shipment.app))
            self._codes = RedeemedCodes(logs)
        shipment.origin.enter()
        self._shipment = shipment
        self._runtime = runtime
        push = partial(runtime.push, shipment.gatherer, shipment.app)
        self._observer = Observer(
            Recorder(shipment.app, push, front=True, gauges=self._gauges)
            if shipment.gatherer
            else None
        )
        self._loader = Loader(runtime.fetch)
        self._wanted = ""
        self._rejected: dict[str, str] = {}
        self._version: _Version | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Serve another version: its bundle, limits, and where its stages are.

        It does not wait for code to be loaded into a replica that serves already, so that the next
        word of what is wanted need not either.
        """
        self._wanted = config["version"]
        self._rejected.pop(self._wanted, None)
        if self._version is None:
            await self._change(config)
            if self._version is None:
                raise DeployError(self._rejected[config["version"]])
        elif self._version.name != self._wanted:
            self._hold(self._change(config))

    async def _change(self, config: dict[str, Any]) -> None:
        name = config["version"]
        try:
            new = await self._load(config)
        except BaseException as error:
            self._failures.record(error)
            self._rejected[name] = f"{type(error).__name__}: {error}"
            return
        if self._wanted != name:  # it was given up meanwhile
            await new.lifespan.__aexit__()
            new.drop()
            return
        old, self._version = self._version, new
        self._loader.keep(new.loaded)
        if old is not None:
            self._hold(old.retire())
        settle()

    def _gauges(self) -> dict[str, Any]:
        served = self._version.served if self._version is not None else ()
        return gauges_of(one.executor for one in served)

    async def _metrics(self) -> bytes:
        return await self._runtime.exposition(self._shipment.gatherer, self._shipment.app)

    def _hold(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it beside the rest; a loop alone does not keep its tasks."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _load(self, config: dict[str, Any]) -> _Version:
        routes = {stage: Route(*where) for stage, where in config["routes"].items()}
        router = Router(self._shipment.app, routes, self._runtime.handle)
        loaded = await self._loader.load(config["bundle"], router.connect, config["sizes"])
        await router.reach()
        limits = Limits(**config["limits"])
        loop = asyncio.get_running_loop()
        served = {
            name: Served(
                Executor(program, workers=config["workers"], loop=loop),
                limits,
                self._failures,
                self._observer if name == self._shipment.app else Observer(None),
            )
            for name, program in loaded.programs.items()
        }
        main = served.pop(self._shipment.app)
        try:
            application = application_of(loaded.application)
            app = create_app(
                main.graph,
                lambda: main,
                limits,
                self._shipment.token,
                config["version"],
                fastapi=application,
                others=served,
                codes=self._codes,
                metrics=self._metrics if self._shipment.gatherer else None,
            )
            lifespan = Lifespan(app, application)
            app = await lifespan.__aenter__()
        except BaseException:
            for one in (main, *served.values()):
                one.executor.close(wait=False)
            raise
        return _Version(config["version"], app, (main, *served.values()), lifespan, loaded)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """How it goes here, for the policy that scales it; Serve asks by this name."""
        return self._observer.recent()

    async def check_health(self) -> None:
        """Raise where nothing can run here any more; Serve asks by this name, and replaces it."""
        if self._version is not None:
            self._version.check()

    async def loaded(self) -> dict[str, Any]:
        """The version that answers, and those that could not be loaded with why."""
        names = [self._version.name] if self._version else []
        return {"pid": os.getpid(), "loaded": names, "rejected": self._rejected}

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return _Switch(self)

    async def __del__(self) -> None:
        observer = getattr(self, "_observer", None)
        if observer is not None:
            observer.close()
        version = getattr(self, "_version", None)
        if version is not None:
            version.drop()


class _Switch:
    """The ASGI application of whatever version serves when a request comes in.

    A request is answered by one version throughout. Serve looks at an object's class, so a bound
    method would not do.
    """

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        version = self._replica._version
        assert version is not None  # Serve lets nothing in before `reconfigure` has returned
        if scope["path"].endswith(VERSION_PATH):  # whatever the application answers there
            await PlainTextResponse(version.name)(scope, receive, send)
            return
        await version(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        """ASGI's lifespan protocol: the end of the replica is the end of what it serves."""
        while True:
            message: MutableMapping[str, Any] = await receive()
            version = self._replica._version
            if message["type"] == "lifespan.shutdown" and version is not None:
                await version.lifespan.__aexit__()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
