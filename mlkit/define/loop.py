"""mlkit's background event loop, for async steps called from synchronous code.

It runs in a daemon thread, started on first use, so that a cell (where a loop already runs) and a
script call an async step the same way.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator
from typing import Any, TypeVar

__all__ = ["background_loop", "iterate_here", "run_here"]

T = TypeVar("T")
_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def background_loop() -> asyncio.AbstractEventLoop:
    """Return the process's background loop, started on first use."""
    global _loop
    with _lock:
        if _loop is None or _loop.is_closed():
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="mlkit-loop", daemon=True).start()
        return _loop


def run_here(coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop | None = None) -> T:
    """Run a coroutine and wait for its result; an interrupt cancels it.

    Args:
        coroutine: what to run.
        loop: an event loop that runs in another thread; the background loop by default.
    """
    future = asyncio.run_coroutine_threadsafe(coroutine, loop or background_loop())
    try:
        return future.result()
    except KeyboardInterrupt:
        future.cancel()
        raise


def iterate_here(items: AsyncGenerator[T, None]) -> Iterator[T]:
    """Iterate over an async generator on the background loop; closed with this iterator."""

    async def following() -> T:
        return await anext(items)

    try:
        while True:
            try:
                item = run_here(following())
            except StopAsyncIteration:
                return
            yield item
    finally:
        run_here(items.aclose())
