"""Starting and ending a user's application beside the server that it is part of."""

from __future__ import annotations

import asyncio
from types import TracebackType

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["Lifespan"]


class Lifespan:
    """Holds an application's lifespan open; as a context manager gives the ASGI application.

    It is entered and left in one task of its own, as what it opens may need, whichever tasks start
    and end it.
    """

    def __init__(self, app: ASGIApp, application: FastAPI | None) -> None:
        self._app = app
        self._application = application
        self._end = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> ASGIApp:
        """Start it.

        Raises:
            Exception: what its startup raised.
        """
        if self._application is None:
            return self._app
        ready: asyncio.Future[dict[str, object]] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._hold(self._application, ready))
        state = await ready
        return _WithState(self._app, state) if state else self._app

    async def _hold(self, application: FastAPI, ready: asyncio.Future[dict[str, object]]) -> None:
        try:
            async with application.router.lifespan_context(application) as state:
                ready.set_result(dict(state or {}))
                await self._end.wait()
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """End it; what its shutdown raises is raised."""
        self._end.set()
        if self._task is not None:
            await self._task


class _WithState:
    """Gives each request what the lifespan yielded, as ``request.state``."""

    def __init__(self, app: ASGIApp, state: dict[str, object]) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"] = {**self._state, **scope.get("state", {})}
        await self._app(scope, receive, send)
