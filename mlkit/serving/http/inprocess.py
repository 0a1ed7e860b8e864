"""Serving in this process, without Ray, for `TestClient`."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from mlkit.define.loop import background_loop
from mlkit.errors import entry_point
from mlkit.execute import Executor, compile_graph
from mlkit.pipelines import Pipeline, require_pipeline
from mlkit.serving.http.appparts import Application
from mlkit.serving.http.ingress import create_app
from mlkit.serving.http.jobs import Jobs
from mlkit.serving.http.jobstore import MEMORY, JobStore
from mlkit.serving.http.lifecycle import Served
from mlkit.serving.http.lifespan import Lifespan
from mlkit.serving.http.userapp import pack_application
from mlkit.serving.limits import Limits

__all__ = ["asgi"]

DEFAULT_LIMITS = Limits()


@entry_point
def asgi(
    pipeline: Pipeline[..., Any],
    *,
    fastapi: Application | None = None,
    token: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    workers: int | None = None,
    jobs: str | Path = MEMORY,
) -> ASGIApp:
    """Create the ASGI application that `deploy` would serve, to run in this process.

    ::

        with TestClient(asgi(tag, fastapi=shop)) as client:
            client.post("/products/12/tags", files={"image": data})

    Routes, errors and documentation are those of a replica. The user's application is not copied,
    so ``dependency_overrides`` apply. Resources are built on startup, or with the first request.

    Args:
        pipeline: the pipeline to serve.
        fastapi: application to embed it in, as in `deploy`.
        token: bearer token that requests need; None for none.
        limits: limits on bodies, requests in flight and time.
        workers: number of threads that run steps.
        jobs: file in which jobs are kept; by default, they are lost with this application.

    Raises:
        DefinitionError: not a pipeline.
        DeployError: a part of the application could not be sent to a replica.
    """
    require_pipeline(pipeline, "asgi(...)")
    pipelines: dict[str, Pipeline[..., Any]] = {}
    if fastapi is not None:
        _, _, pipelines = pack_application(fastapi, pipeline)
    others = [other for name, other in pipelines.items() if name != pipeline.name]
    return _InProcess(pipeline, others, fastapi, token, limits, workers, jobs)


@dataclass(eq=False)
class _InProcess:
    pipeline: Pipeline[..., Any]
    others: list[Pipeline[..., Any]]
    application: Application | None
    token: str | None = field(repr=False)
    limits: Limits
    workers: int | None
    jobs: str | Path

    def __post_init__(self) -> None:
        self._app: ASGIApp | None = None
        self._stack = AsyncExitStack()
        self._starting: asyncio.Lock | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        self._starting = self._starting or asyncio.Lock()
        async with self._starting:
            # Without a lifespan, as under a `TestClient` that is no context manager, the loop of
            # this request may end with it, and async steps and resources are for all requests.
            app = self._app or await self._start(background_loop())
        await app(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._start(asyncio.get_running_loop())
        except BaseException as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._app = None
        await self._stack.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self, loop: asyncio.AbstractEventLoop) -> ASGIApp:
        served = await self._serve(self.pipeline, loop)
        others = {other.name: await self._serve(other, loop) for other in self.others}
        application = self.application
        if inspect.isfunction(application):
            application = application()
        assert application is None or isinstance(application, FastAPI)
        jobs = Jobs(served.graph, lambda: served, self.limits, JobStore(self.jobs))
        build = partial(
            create_app,
            served.graph,
            lambda: served,
            self.limits,
            self.token,
            fastapi=application,
            others=others,
            guarded=self.token is not None,
            metrics=_no_metrics,
            jobs=jobs,
        )
        self._app = await self._stack.enter_async_context(Lifespan(build, application))
        self._stack.push_async_callback(jobs.close)
        jobs.runner.start()
        return self._app

    async def _serve(self, pipeline: Pipeline[..., Any], loop: asyncio.AbstractEventLoop) -> Served:
        graph = pipeline.graph
        program = await asyncio.to_thread(compile_graph, graph, loop=loop)
        for resource in graph.resources.values():
            self._stack.push_async_callback(asyncio.to_thread, resource.close, loop)
        executor = Executor(program, workers=self.workers, loop=loop)
        self._stack.callback(executor.close)
        return Served(executor, self.limits)


async def _no_metrics(openmetrics: bool) -> bytes:
    """Return the metrics of this process: none are collected."""
    return b"# EOF\n" if openmetrics else b""
