"""What a loader opens, and how it is closed: values, coroutines, generators, context managers."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from mlkit.define.loop import run_here

__all__ = ["Opened", "opened"]

CLOSE_TIMEOUT_S = 30.0
"""Time in seconds to wait for an asynchronous teardown."""

_Manager: Any = type(contextmanager(lambda: iter([None]))())
_AsyncManager: Any = type(asynccontextmanager(lambda: None)())  # type: ignore[arg-type, return-value]


@dataclass(frozen=True)
class Opened:
    """What a loader returned or yielded.

    Attributes:
        value: the value.
        on_loop: whether it was opened on an event loop, and is for calls on that loop.
        close: the part of the loader after its ``yield``, if it has one.
    """

    value: Any
    on_loop: bool = False
    close: Callable[[], object] | None = None


def opened(load: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> Opened:
    """Call a loader and wait for its value.

    Generators, and generators under ``contextmanager`` or ``asynccontextmanager``, run up to their
    ``yield``. Other context managers, such as clients and files, are values.

    Args:
        load: a loader of any kind.
        loop: event loop that asynchronous loaders run on; it runs in another thread.
    """
    value, on_loop = load(), False
    if inspect.isawaitable(value):
        value, on_loop = run_here(_awaited(value), loop), True
    manager: Any = value
    if inspect.isgenerator(value):
        manager = contextmanager(lambda: value)()
    elif inspect.isasyncgen(value):
        manager = asynccontextmanager(lambda: value)()
    if isinstance(manager, _Manager):
        return Opened(manager.__enter__(), on_loop, partial(manager.__exit__, None, None, None))
    if isinstance(manager, _AsyncManager):
        return _held(manager, loop)
    return Opened(value, on_loop)


async def _awaited(value: Any) -> Any:
    return await value


def _held(manager: Any, loop: asyncio.AbstractEventLoop) -> Opened:
    """Enter an asynchronous context manager in a task that also leaves it."""
    entered: Future[Any] = Future()
    leave = asyncio.Event()

    async def hold() -> None:
        try:
            async with manager as value:
                entered.set_result(value)
                await leave.wait()
        except BaseException as error:
            if entered.done():
                raise
            entered.set_exception(error)

    held = asyncio.run_coroutine_threadsafe(hold(), loop)
    try:
        value = entered.result()
    except BaseException:  # it failed, or an interrupt
        held.cancel()
        raise

    def close() -> None:
        if loop.is_closed():  # its tasks are cancelled
            return
        loop.call_soon_threadsafe(leave.set)
        if not _is_here(loop):  # waiting for one's own loop would never end
            held.result(CLOSE_TIMEOUT_S)

    return Opened(value, True, close)


def _is_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
