"""Front replica: the HTTP application of a pipeline, with the steps fused into it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeAlias

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mlkit.errors import DeployError
from mlkit.execute import Executor
from mlkit.metrics.context import new_id
from mlkit.serving.bundle import Origin
from mlkit.serving.grants import Grant
from mlkit.serving.http.access import RedeemedCodes
from mlkit.serving.http.holders import Holders
from mlkit.serving.http.ingress import create_app
from mlkit.serving.http.jobs import Jobs
from mlkit.serving.http.jobstore import JobStore
from mlkit.serving.http.lifecycle import Served
from mlkit.serving.http.lifespan import Lifespan
from mlkit.serving.http.observer import REQUEST_ID, Observer
from mlkit.serving.http.userapp import application_of
from mlkit.serving.limits import Limits
from mlkit.serving.replica.base import BaseReplica
from mlkit.serving.replica.loading import Loaded
from mlkit.serving.replica.remote import Route, Router
from mlkit.serving.replica.retire import check_workers, close, drained
from mlkit.serving.replica.runtime import Runtime
from mlkit.serving.replica.shadow import Replay, Shadow, differing, warm_up

__all__ = ["VERSION_HEADER", "VERSION_PATH", "Replica", "Shipment"]

VERSION_PATH = "/-/version"
"""Path that returns the version that a replica serves, 503 through Serve's fallback proxy; it
needs no token."""

VERSION_HEADER = b"x-mlkit-version"
"""Header of every response: the version that made it."""

_REQUEST_ID = REQUEST_ID.lower().encode()
_STARTS = ("http.response.start", "websocket.accept", "websocket.http.response.start")

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, kw_only=True)
class Shipment:
    """Arguments of a front replica; a change of them restarts it.

    Attributes:
        app: name of the app.
        origin: working directory, search path and environment variables of the code.
        logs: folder for captured output; nothing is captured if it does not exist on this node.
        token: bearer token of the app, or None.
        exact_key: secret of requests in the exact form.
        gatherer: name of the actor that aggregates metrics; "" disables metrics.
        fresh: changes with each deployment that rebuilds all resources.
        idempotent: whether HAProxy may send a request to another replica if this one has died. It
            learns that when it reloads, as it does for a new replica.
    """

    app: str
    origin: Origin
    logs: str
    token: str | None = field(repr=False)
    exact_key: str = field(repr=False)
    gatherer: str = ""
    fresh: str = ""
    idempotent: bool = False


@dataclass(eq=False)
class _Version:
    """One version of the app, ready to serve.

    Attributes:
        config: the configuration that it was loaded from.
        jobs: runs jobs, from when it serves; None where there is no folder to keep them in.
        open: requests and connections in flight, including those whose body is still being read.
    """

    name: str
    app: ASGIApp
    served: tuple[Served, ...]
    lifespan: Lifespan
    loaded: Loaded
    config: Mapping[str, Any]
    jobs: Jobs | None = None
    open: int = 0

    async def __call__(
        self, scope: Scope, receive: Receive, send: Send, headers: Headers = ()
    ) -> None:
        """Handle a request; its response names the version.

        Args:
            scope: of ASGI, as the others.
            receive: receives the request.
            send: sends the response.
            headers: further headers of the response.
        """
        own = [(VERSION_HEADER, self.name.encode()), *headers]

        async def respond(message: MutableMapping[str, Any]) -> None:
            if message["type"] in _STARTS:
                message["headers"] = [*message.get("headers", ()), *own]
            await send(message)

        self.open += 1
        try:
            await self.app(scope, receive, respond)
        finally:
            self.open -= 1

    async def warm_up(self, other: _Version) -> None:
        """Run the last requests of another version of the same code.

        Raises:
            DeployError: it fails, or returns NaN.
        """
        others = {served.graph.name: served.last for served in other.served}
        for served in self.served:
            last = others[served.graph.name]
            if last is not None and differing(served.graph, self.config, other.config):
                replay = await self.replay(other, served)
                try:
                    served.last = await warm_up(replay, last, self.request_timeout_s)
                finally:
                    replay.close()

    async def replay(self, other: _Version, served: Served) -> Replay:
        """Return what runs requests of another version again."""
        nodes = differing(served.graph, self.config, other.config)
        loop = asyncio.get_running_loop()
        return await asyncio.to_thread(Replay, served.executor.program, nodes, loop)

    async def retire(self) -> None:
        """Drain the requests in flight, then close."""
        if self.jobs is not None:
            await self.jobs.close()
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


@dataclass(eq=False)
class _Trial:
    """A version on trial; see `mlkit.serving.control.records.Trial`."""

    version: _Version
    canary: float
    comparing: asyncio.Task[None] | None

    def takes(self, id: bytes) -> bool:
        """Whether it answers the request with an id; the same in every replica."""
        digest = blake2b(id, digest_size=8).digest()
        return int.from_bytes(digest) < self.canary * 2**64


class Replica(BaseReplica):
    """A front replica: serves HTTP, and runs all steps that have no stage of their own.

    `reconfigure` loads a new version, which takes over once it is ready and keeps the resources
    that did not change. If loading fails, the error is reported and the old version goes on. A
    version on trial is loaded beside the one that serves, and takes over without being loaded
    again.
    """

    _is_front = True

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, shipment: Shipment, *, runtime: Runtime
    ) -> None:
        self._version: _Version | None = None
        self._trial: _Trial | None = None
        self._state = self._target = self._granted = ""
        self._holders = Holders()
        self._shipment = shipment
        self._runtime = runtime
        app, logs = shipment.app, shipment.logs
        self._start(app, app, shipment.origin, logs, shipment.gatherer, runtime)
        folder = Path(logs) if Path(logs).is_dir() else None  # noqa: ASYNC240
        self._codes = RedeemedCodes(folder)
        self._jobs_file = None if folder is None else folder / f"{app}.jobs.sqlite"

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Serve another version; all but the first load in the background, and can be superseded.

        Raises:
            DeployError: the first version cannot be loaded.
        """
        self._configure(config)
        self._holders.replace(Grant(**grant) for grant in config.get("grants", ()))
        self._granted = config.get("granted", "")
        first = not self._versions()
        if first:  # what is on trial must not keep it from starting
            self._target = config["version"]
            await self._update({**config, "state": config["version"], "trial": None})
            if not self._versions():
                raise DeployError(self._rejected[config["version"]])
        self._target = config["state"]
        self._rejected.pop(self._target, None)
        update = self._spawn(self._update(config))
        if first:
            await update

    async def _update(self, config: dict[str, Any]) -> None:
        if self._state == config["state"]:
            return
        wanted = [config]
        if config["trial"] is not None:
            wanted.append({**config, **config["trial"]})
        known = {version.name: version for version in self._versions()}
        new: list[_Version] = []
        replay = None
        try:
            for each in wanted:
                if each["version"] not in known:
                    with self._pulse.paused():
                        new.append(await self._load(each))
                    known[new[-1].name] = new[-1]
            chosen = [known[each["version"]] for each in wanted]
            if wanted[-1].get("shadow") and self._observer.recorder is not None:
                replay = await chosen[1].replay(chosen[0], chosen[1].served[0])
        except BaseException as error:
            self._reject(config["state"], error)
            await self._discard(new)
            return
        current = [*self._versions(), *new]
        if self._target != config["state"] or not all(version in current for version in chosen):
            if replay is not None:
                replay.close()
            await self._discard(new)  # superseded while it was loading
            return
        self._switch(config, replay, *chosen)

    def _switch(
        self,
        config: dict[str, Any],
        replay: Replay | None,
        version: _Version,
        on_trial: _Version | None = None,
    ) -> None:
        """Have a version serve, and another one be on trial; retire those before."""
        before = self._versions()
        if self._trial is not None and self._trial.comparing is not None:
            self._trial.comparing.cancel()
        for served in (served for each in before for served in each.served):
            served.watch = None
        self._version, self._trial, self._state = version, None, config["state"]
        if version.jobs is not None:
            version.jobs.runner.start()
        if on_trial is not None:
            comparing, recorder = None, self._observer.recorder
            if replay is not None and recorder is not None:
                share, name = config["trial"]["shadow"], on_trial.name
                main = version.served[0]
                main.watch = shadow = Shadow(replay, name, share, recorder, main)
                comparing = self._spawn(shadow.run())
            self._trial = _Trial(on_trial, config["trial"]["canary"], comparing)
        for old in before:
            if old not in self._versions():
                self._spawn(self._retire(old))
        in_use = [*before, *self._versions()]
        self._expect_pulse(max(each.request_timeout_s for each in in_use))
        self._settle()

    def _versions(self) -> list[_Version]:
        on_trial = [self._trial.version] if self._trial is not None else []
        return [self._version, *on_trial] if self._version is not None else []

    async def _discard(self, versions: Iterable[_Version]) -> None:
        for version in versions:
            await version.lifespan.__aexit__()
            await close(version.executors)
            await self._loader.free(version.loaded)

    async def _retire(self, version: _Version) -> None:
        await version.retire()
        await self._loader.free(version.loaded)

    def _executors(self) -> Iterator[Executor]:
        return (executor for version in self._versions() for executor in version.executors)

    async def _metrics(self, openmetrics: bool) -> bytes:
        gatherer, app = self._shipment.gatherer, self._shipment.app
        return await self._runtime.exposition(gatherer, app, openmetrics)

    async def _load(self, config: dict[str, Any]) -> _Version:
        routes = {stage: Route(*route) for stage, route in config["routes"].items()}
        router = Router(self._shipment.app, routes, self._runtime.handle)
        loaded = await self._loader.load(
            config["bundle"], router.connect, config["sizes"], config["replaced"]
        )
        try:
            await router.reach()
            version = await self._start_version(config, loaded)
        except BaseException:
            await self._loader.free(loaded)
            raise
        serving = self._version
        if serving is not None and serving.config["bundle"] == config["bundle"]:
            try:
                await version.warm_up(serving)
            except BaseException as error:
                if config["check"] or not isinstance(error, DeployError):
                    await self._discard([version])
                    raise
        return version

    async def _start_version(self, config: dict[str, Any], loaded: Loaded) -> _Version:
        limits = Limits(**config["limits"])
        loop = asyncio.get_running_loop()
        export = self._observer.export
        observer = Observer(self._observer.recorder, config["version"], export)
        served = {
            name: Served(
                Executor(program, workers=config["workers"], loop=loop),
                limits,
                self._failures,
                observer if name == self._shipment.app else Observer(None),
            )
            for name, program in loaded.programs.items()
        }
        main = served.pop(self._shipment.app)
        try:
            application = application_of(loaded.application)
            jobs = None
            if self._jobs_file is not None:
                store, traced = JobStore(self._jobs_file), export is not None
                jobs = Jobs(main.graph, lambda: main, limits, store, traced=traced)
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
                traced=export is not None,
                holders=self._holders,
                jobs=jobs,
            )
            lifespan = Lifespan(build, application)
            app = await lifespan.__aenter__()
        except BaseException:
            for pipeline in (main, *served.values()):
                pipeline.executor.close(wait=False)
            raise
        pipelines = (main, *served.values())
        return _Version(config["version"], app, pipelines, lifespan, loaded, config, jobs)

    async def check_health(self) -> None:
        """Raise if all workers are stuck; see `check_workers`."""
        for version in self._versions():
            check_workers(version.executors, version.request_timeout_s)

    async def loaded(self) -> dict[str, Any]:
        """Return the states that it is in, and the errors of those that could not be loaded."""
        states = [state for state in (self._state, self._granted) if state]
        return {"pid": os.getpid(), "loaded": states, "rejected": self._rejected}

    async def __del__(self) -> None:
        """Finish the items of jobs that are running, for as long as Serve waits."""
        for version in self._versions() if hasattr(self, "_trial") else ():
            if version.jobs is not None:
                await version.jobs.close()
        await super().__del__()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return _Switch(self)


def _through_fallback_proxy(scope: Scope) -> bool:
    _, port = scope.get("server") or ("", None)
    return str(port) == os.environ.get("RAY_SERVE_FALLBACK_PROXY_HTTP_PORT")


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
            # Serve's fallback proxy forwards requests until HAProxy knows a new replica, and does
            # not notice when a client disconnects: the version is rolled out when it is bypassed.
            status = 503 if _through_fallback_proxy(scope) else 200
            await PlainTextResponse(version.name, status)(scope, receive, send)
            return
        trial = self._replica._trial
        if trial is None or not trial.canary:
            await version(scope, receive, send)
            return
        headers: Headers = ()
        id = next((value for name, value in scope["headers"] if name == _REQUEST_ID), b"")
        if not id:
            id = new_id().encode()
            scope = {**scope, "headers": [*scope["headers"], (_REQUEST_ID, id)]}
            headers = ((_REQUEST_ID, id),)
        await (trial.version if trial.takes(id) else version)(scope, receive, send, headers)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """ASGI lifespan: the shutdown of the replica is that of the versions it serves."""
        while True:
            message: MutableMapping[str, Any] = await receive()
            if message["type"] == "lifespan.shutdown":
                for version in self._replica._versions():
                    await version.lifespan.__aexit__()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
