"""The application of a served pipeline in this process, without Ray: for `TestClient`."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import AsyncExitStack
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from mlkit.execute import Executor, compile_graph
from mlkit.pipelines import Pipeline
from mlkit.serving.http.ingress import create_app
from mlkit.serving.http.lifecycle import Served
from mlkit.serving.http.lifespan import Lifespan
from mlkit.serving.http.userapp import Application, pack_application
from mlkit.serving.limits import Limits

__all__ = ["asgi"]

DEFAULT_LIMITS = Limits()


def asgi(
    pipeline: Pipeline[..., Any],
    *,
    fastapi: Application | None = None,
    token: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    workers: int | None = None,
) -> ASGIApp:
    """The application that `deploy` would serve, to be called in this process.

    ::

        with TestClient(asgi(tag, fastapi=shop)) as client:
            client.post("/products/12/tags", files={"image": data})

    Its routes, errors and documents are those of a replica; the user's application is the very
    object that is given, so that its ``dependency_overrides`` count. Resources are built when it
    starts: as a context manager, or with the first request.

    Args:
        pipeline: what to serve.
        fastapi: an application of one's own, as for `deploy`.
        token: bearer token that callers need; None for none.
        limits: on bodies, requests at once and time.
        workers: threads that run steps.

    Raises:
        DeployError: something of the application could not be sent to a replica.
    """
    pipelines: dict[str, Pipeline[..., Any]] = {}
    if fastapi is not None:
        _, _, pipelines = pack_application(fastapi)
    others = [other for name, other in pipelines.items() if name != pipeline.name]
    return _InProcess(pipeline, others, fastapi, token, limits, workers)


class _InProcess:
    def __init__(
        self,
        pipeline: Pipeline[..., Any],
        others: list[Pipeline[..., Any]],
        application: Application | None,
        token: str | None,
        limits: Limits,
        workers: int | None,
    ) -> None:
        self._pipeline = pipeline
        self._others = others
        self._application = application
        self._token = token
        self._limits = limits
        self._workers = workers
        self._app: ASGIApp | None = None
        self._stack = AsyncExitStack()
        self._starting: asyncio.Lock | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        self._starting = self._starting or asyncio.Lock()
        async with self._starting:
            app = self._app or await self._start()
        await app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._start()
        except BaseException as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._app = None
        await self._stack.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> ASGIApp:
        served = await self._serve(self._pipeline)
        others = {other.name: await self._serve(other) for other in self._others}
        application = self._application
        if inspect.isfunction(application):
            application = application()
        assert application is None or isinstance(application, FastAPI)
        app = create_app(
            served.graph,
            lambda: served,
            self._limits,
            self._token,
            fastapi=application,
            others=others,
            guarded=self._token is not None,
        )
        self._app = await self._stack.enter_async_context(Lifespan(app, application))
        return self._app

    async def _serve(self, pipeline: Pipeline[..., Any]) -> Served:
        program = await asyncio.to_thread(compile_graph, pipeline.graph)
        executor = Executor(program, workers=self._workers, loop=asyncio.get_running_loop())
        self._stack.callback(executor.close)
        return Served(executor, self._limits)
