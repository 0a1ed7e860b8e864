"""Server of the control protocol: an ASGI application on a Unix socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pydantic_core
import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from mlkit.serving.control.protocol import CALLS, PROTOCOL, SOCKET, Call, ErrorReply

__all__ = ["Answer", "control_app", "listening"]

Answer = Callable[[Call[Any], Callable[[str], None]], Awaitable[Any]]
"""Executes a call, and reports progress to a function."""

_NDJSON = "application/x-ndjson"


def control_app(answer: Answer) -> Starlette:
    """Return the ASGI application; a call is cancelled when its client disconnects."""
    running: set[asyncio.Task[Any]] = set()

    async def endpoint(request: Request) -> Response:
        path = request.path_params
        call = _call_of(path["version"], path["call"], await request.body())
        if isinstance(call, ErrorReply):
            return Response(_line(error=call.model_dump()), 400, media_type=_NDJSON)
        return StreamingResponse(lines(call), media_type=_NDJSON)

    async def lines(call: Call[Any]) -> AsyncIterator[bytes]:
        progress: asyncio.Queue[str | None] = asyncio.Queue()
        # A task of its own, since it may have to roll back after the client has disconnected.
        task = asyncio.ensure_future(answer(call, progress.put_nowait))
        running.add(task)
        task.add_done_callback(running.discard)
        task.add_done_callback(lambda _: progress.put_nowait(None))
        try:
            while (text := await progress.get()) is not None:
                yield _line(progress=text)
            yield _outcome(task)
        finally:
            task.cancel()

    return Starlette(routes=[Route("/{version}/{call}", endpoint, methods=["POST"])])


def _call_of(version: str, name: str, body: bytes) -> Call[Any] | ErrorReply:
    if version != str(PROTOCOL):
        return ErrorReply(
            kind="protocol",
            what="the session process has another version of the control protocol",
            expected=str(PROTOCOL),
            got=version,
            fix="restart the kernel and deploy again: mlkit was updated while it ran",
        )
    kind = CALLS.get(name)
    if kind is None:
        return ErrorReply(kind="protocol", what=f"the session process has no call {name!r}")
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, detail["loc"]))
        return ErrorReply(kind="protocol", what=f"{name}: {where}: {detail['msg']}")


def _outcome(task: asyncio.Task[Any]) -> bytes:
    error = (
        asyncio.CancelledError("the session is ending") if task.cancelled() else task.exception()
    )
    if error is not None:
        return _line(error=ErrorReply.of(error).model_dump())
    return _line(result=task.result())


def _line(**message: Any) -> bytes:
    return pydantic_core.to_json(message, inf_nan_mode="constants") + b"\n"


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the session process."""
        yield


@asynccontextmanager
async def listening(folder: Path, answer: Answer) -> AsyncIterator[None]:
    """Serve calls on the socket in a session's folder."""
    config = uvicorn.Config(
        control_app(answer),
        uds=str(folder / SOCKET),
        lifespan="off",
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=5,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started and not serving.done():  # noqa: ASYNC110  # uvicorn has no event
        await asyncio.sleep(0.005)
    try:
        yield
    finally:
        server.should_exit = True
        await serving
