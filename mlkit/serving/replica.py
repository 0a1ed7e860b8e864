"""What runs inside a replica of the front: the HTTP face of a pipeline, and the steps fused in."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from mlkit.errors import DeployError
from mlkit.execute import Executor
from mlkit.execute.cores import switch_promptly
from mlkit.serving.bundle import Origin
from mlkit.serving.ingress import Served, create_app
from mlkit.serving.limits import Limits
from mlkit.serving.loading import Loaded, Loader, settle
from mlkit.serving.output import capture
from mlkit.serving.problem import Failures
from mlkit.serving.remote import Route, Router

__all__ = ["Replica", "Shipment"]

RETIRE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Shipment:
    """What a replica is started with, and keeps as long as it lives.

    Attributes:
        app: name of the app.
        logs: folder for what is printed; passed over where it is not there.
        fresh: changes when everything is to be built anew.
    """

    app: str
    origin: Origin
    logs: str
    token: str | None
    fresh: str = ""


@dataclass(frozen=True)
class _Version:
    """One version of the pipeline, ready to answer."""

    name: str
    app: ASGIApp
    served: Served
    loaded: Loaded


class Replica:
    """The front of a pipeline: all of its steps that are in no stage of their own.

    New code comes in by `reconfigure` and takes over when it is ready, with the resources that did
    not change. One that cannot be loaded is told, and the old one goes on.
    """

    async def __init__(self, shipment: Shipment) -> None:  # type: ignore[misc]  # Serve awaits it
        switch_promptly()
        logs = Path(shipment.logs)
        keep = capture(logs, shipment.app) if logs.is_dir() else None  # noqa: ASYNC240
        self._failures = Failures(keep) if keep else Failures()
        shipment.origin.enter()
        self._shipment = shipment
        self._loader = Loader()
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
            new.served.executor.close(wait=False)
            return
        old, self._version = self._version, new
        self._loader.keep(new.loaded)
        if old is not None:
            self._hold(_retire(old.served.executor))
        settle()

    def _hold(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it beside the rest; a loop alone does not keep its tasks."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _load(self, config: dict[str, Any]) -> _Version:
        routes = {stage: Route(*where) for stage, where in config["routes"].items()}
        router = Router(self._shipment.app, routes)
        loaded = await self._loader.load(config["bundle"], router.connect)
        (name,) = loaded.graphs
        await router.reach()
        limits = Limits(**config["limits"])
        executor = Executor(
            loaded.programs[name], workers=config["workers"], loop=asyncio.get_running_loop()
        )
        served = Served(executor, limits, self._failures)
        app = create_app(
            loaded.graphs[name], lambda: served, limits, self._shipment.token, config["version"]
        )
        return _Version(config["version"], app, served, loaded)

    async def loaded(self) -> dict[str, Any]:
        """The version that answers, and those that could not be loaded with why."""
        names = [self._version.name] if self._version else []
        return {"pid": os.getpid(), "loaded": names, "rejected": self._rejected}

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return _Switch(self)

    async def __del__(self) -> None:
        version = getattr(self, "_version", None)
        if version is not None:
            version.served.executor.close()


class _Switch:
    """The ASGI application of whatever version serves when a request comes in.

    A request is answered by one version throughout. Serve looks at an object's class, so a bound
    method would not do.
    """

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        version = self._replica._version
        assert version is not None  # Serve lets nothing in before `reconfigure` has returned
        await version.app(scope, receive, send)


async def _retire(executor: Executor) -> None:
    """Close an executor when what it has begun is through."""
    until = perf_counter() + RETIRE_S
    while executor.in_flight and perf_counter() < until:  # noqa: ASYNC110  # it has no event
        await asyncio.sleep(0.05)
    await asyncio.to_thread(executor.close)


async def _live(receive: Receive, send: Send) -> None:
    """ASGI's lifespan protocol, for an application that has nothing to do for it."""
    while True:
        message: MutableMapping[str, Any] = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
