"""A least pace at which bodies must arrive, so that clients that drip bytes hold no places."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

__all__ = ["GRACE_S", "LEAST_BYTES_PER_S", "due_s", "paced", "resumed"]

GRACE_S = 10.0
"""How long a body may pause at first, in seconds."""

LEAST_BYTES_PER_S = 1024
"""Minimum average rate of a body after that."""

T = TypeVar("T")


def due_s(received: int) -> float:
    """Return when more of a body is due, in seconds after its start.

    Args:
        received: number of bytes received.
    """
    return GRACE_S + received / LEAST_BYTES_PER_S


def paced(receive: Receive) -> Receive:
    """Return a `receive` that enforces the minimum rate of the body.

    It raises an `HTTPException` with status 408 once more is overdue. What follows the body, the
    end of the connection, may take any time.

    Args:
        receive: receives the request.
    """
    received, complete = 0, False
    began: float | None = None

    async def receive_in_time() -> Message:
        nonlocal received, complete, began
        if complete:
            return await receive()
        receiving: Coroutine[Any, Any, Message] = receive()  # type: ignore[assignment]
        try:
            awaited = receiving.send(None)
        except StopIteration as done:  # it was there already: no timer, which takes 10 µs
            message: Message = done.value
        else:
            now = asyncio.get_running_loop().time()
            began = now if began is None else began
            message = await _until(began + due_s(received), receiving, awaited)
        received += len(message.get("body", b""))
        complete = not message.get("more_body", False)
        return message

    return receive_in_time


async def _until(at: float, receiving: Coroutine[Any, Any, Message], awaited: Any) -> Message:
    try:
        async with asyncio.timeout_at(at) as timer:
            return await resumed(receiving, awaited)
    except TimeoutError:
        if not timer.expired():
            raise
        detail = f"the body arrives too slowly: under {LEAST_BYTES_PER_S:,} bytes per second"
        raise HTTPException(408, detail, {"Connection": "close"}) from None


@types.coroutine
def resumed(coroutine: Coroutine[Any, Any, T], awaited: Any) -> Generator[Any, Any, T]:
    """Continue a coroutine that has begun and yielded ``awaited``."""
    try:
        while True:
            try:
                sent = yield awaited
            except BaseException as error:
                awaited = coroutine.throw(error)
            else:
                awaited = coroutine.send(sent)
    except StopIteration as done:
        result: T = done.value
        return result
