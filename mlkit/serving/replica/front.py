"""Front replica: the HTTP application of a pipeline, with the steps fused into it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mlkit.errors import DeployError
from mlkit.execute import Executor
from mlkit.serving.bundle import Origin
from mlkit.serving.http.access import RedeemedCodes
from mlkit.serving.http.ingress import create_app
from mlkit.serving.http.lifecycle import Served
from mlkit.serving.http.lifespan import Lifespan
from mlkit.serving.http.observer import Observer
from mlkit.serving.http.userapp import application_of
from mlkit.serving.limits import Limits
from mlkit.serving.replica.base import BaseReplica
from mlkit.serving.replica.loading import Loaded, settle
from mlkit.serving.replica.remote import Route, Router
from mlkit.serving.replica.retire import check_workers, close, drained
from mlkit.serving.replica.runtime import Runtime

__all__ = ["VERSION_PATH", "Replica", "Shipment"]

VERSION_PATH = "/-/version"
"""Path that returns the version that a replica serves; it needs no token."""


@dataclass(frozen=True, kw_only=True)
class Shipment:
    """Arguments of a front replica; a change of them restarts it.

    Attributes:
        app: name of the app.
        origin: working directory and module search path of the code.
        logs: folder for captured output; nothing is captured if it does not exist on this node.
        token: bearer token of the app, or None.
        exact_key: secret of requests in the exact form.
        gatherer: name of the actor that aggregates metrics; "" disables metrics.
        fresh: changes with each deployment that rebuilds all resources.
    """

    app: str
    origin: Origin
    logs: str
    token: str | None = field(repr=False)
    exact_key: str = field(repr=False)
    gatherer: str = ""
    fresh: str = ""


@dataclass
class _Version:
    """One version of the app, ready to serve.

    Attributes:
        open: requests and connections in flight, including those whose body is still being read.
    """

    name: str
    app: ASGIApp
    served: tuple[Served, ...]
    lifespan: Lifespan
    loaded: Loaded
    open: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.open += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.open -= 1

    async def retire(self) -> None:
        """Drain the requests in flight, then close."""
        await drained(self._busy, self.request_timeout_s)
        await self.lifespan.__aexit__()
        await close(self.executors)

    @property
    def executors(self) -> Iterator[Executor]:
        return (pipeline.executor for pipeline in self.served)

    @property
    def request_timeout_s(self) -> float:
        return self.served[0].limits.request_timeout_s  # all have the same limits

    def _busy(self) -> bool:
        return self.open > 0 or any(executor.in_flight for executor in self.executors)


class Replica(BaseReplica):
    """A front replica: serves HTTP, and runs all steps that have no stage of their own.

    `reconfigure` loads a new version, which takes over once it is ready and keeps the resources
    that did not change. If loading fails, the error is reported and the old version goes on.
    """

    _is_front = True

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, shipment: Shipment, *, runtime: Runtime
    ) -> None:
        self._version: _Version | None = None
        self._target = ""
        self._shipment = shipment
        self._runtime = runtime
        app, logs = shipment.app, shipment.logs
        self._start(app, app, shipment.origin, logs, shipment.gatherer, runtime)
        self._codes = RedeemedCodes(Path(logs) if Path(logs).is_dir() else None)  # noqa: ASYNC240

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Serve another version; all but the first load in the background, and can be superseded.

        Raises:
            DeployError: the first version cannot be loaded.
        """
        self._target = config["version"]
        self._rejected.pop(self._target, None)
        if self._version is None:
            await self._update(config)
            if self._version is None:
                raise DeployError(self._rejected[config["version"]])
        elif self._version.name != self._target:
            self._spawn(self._update(config))

    async def _update(self, config: dict[str, Any]) -> None:
        try:
            new = await self._load(config)
        except BaseException as error:
            self._reject(config["version"], error)
            return
        if self._target != new.name:  # superseded while it was loading
            await new.lifespan.__aexit__()
            await close(new.executors)
            return
        old, self._version = self._version, new
        self._loader.keep(new.loaded)
        if old is not None:
            self._spawn(old.retire())
        settle()

    def _executors(self) -> Iterator[Executor]:
        return self._version.executors if self._version is not None else iter(())

    async def _metrics(self) -> bytes:
        return await self._runtime.exposition(self._shipment.gatherer, self._shipment.app)

    async def _load(self, config: dict[str, Any]) -> _Version:
        routes = {stage: Route(*route) for stage, route in config["routes"].items()}
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
            build = partial(
                create_app,
                main.graph,
                lambda: main,
                limits,
                self._shipment.token,
                config["version"],
                exact_key=self._shipment.exact_key,
                fastapi=application,
                others=served,
                codes=self._codes,
                metrics=self._metrics if self._shipment.gatherer else None,
            )
            lifespan = Lifespan(build, application)
            app = await lifespan.__aenter__()
        except BaseException:
            for pipeline in (main, *served.values()):
                pipeline.executor.close(wait=False)
            raise
        return _Version(config["version"], app, (main, *served.values()), lifespan, loaded)

    async def check_health(self) -> None:
        """Raise if all workers are stuck; see `check_workers`."""
        if self._version is not None:
            check_workers(self._version.executors, self._version.request_timeout_s)

    async def loaded(self) -> dict[str, Any]:
        """Return the version that serves, and the errors of those that could not be loaded."""
        names = [self._version.name] if self._version else []
        return {"pid": os.getpid(), "loaded": names, "rejected": self._rejected}

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return _Switch(self)


class _Switch:
    """ASGI application that passes each request to the version that serves when it arrives.

    One version handles a request throughout. Serve inspects the class of the application, so a
    bound method would not do.
    """

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        version = self._replica._version
        assert version is not None  # Serve routes no requests before `reconfigure` has returned
        if scope["path"].endswith(VERSION_PATH):  # takes precedence over routes of the application
            await PlainTextResponse(version.name)(scope, receive, send)
            return
        await version(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """ASGI lifespan: the shutdown of the replica is that of the version it serves."""
        while True:
            message: MutableMapping[str, Any] = await receive()
            version = self._replica._version
            if message["type"] == "lifespan.shutdown" and version is not None:
                await version.lifespan.__aexit__()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
