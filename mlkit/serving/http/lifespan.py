"""Lifespan of a user's application that is embedded in another one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["Lifespan"]


class Lifespan:
    """Async context manager around an application's lifespan; returns the ASGI application.

    The lifespan is entered and exited in a single task, since task groups and cancel scopes require
    that, whichever tasks enter and exit this.

    Args:
        build: creates the ASGI application to serve, once the startup has added its routes.
        application: the application whose lifespan to run, if any.
    """

    def __init__(self, build: Callable[[], ASGIApp], application: FastAPI | None) -> None:
        self._build = build
        self._application = application
        self._end = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> ASGIApp:
        """Run the startup; its exceptions are raised here."""
        if self._application is None:
            return await self._built()
        ready: asyncio.Future[dict[str, object]] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._hold(self._application, ready))
        state = await ready
        try:
            app = await self._built()
        except BaseException:
            await self.__aexit__()
            raise
        return _WithState(app, state) if state else app

    async def _built(self) -> ASGIApp:
        """Create the application in a thread, while the event loop goes on with requests."""
        return await asyncio.to_thread(self._build)

    async def _hold(self, application: FastAPI, ready: asyncio.Future[dict[str, object]]) -> None:
        try:
            async with application.router.lifespan_context(application) as state:
                ready.set_result(dict(state or {}))
                await self._end.wait()
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    async def __aexit__(self, *exception: object) -> None:
        """Run the shutdown; its exceptions are raised here."""
        self._end.set()
        if self._task is not None:
            await self._task


class _WithState:
    """Adds the state that the lifespan yielded to ``request.state``."""

    def __init__(self, app: ASGIApp, state: dict[str, object]) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"] = {**self._state, **scope.get("state", {})}
        await self._app(scope, receive, send)
