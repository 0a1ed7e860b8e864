"""Draining and health of a replica's executors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from time import perf_counter

from mlkit.errors import MlkitError
from mlkit.execute import Executor

__all__ = ["STUCK_S", "check_workers", "close", "drained"]

RETIRE_MARGIN_S = 5.0
"""Time in seconds, beyond the request timeout, to drain a version before it is closed."""

STUCK_S = 1.0
"""Time in seconds, beyond the request timeout, after which an abandoned call counts as stuck, and a
process that runs no thread as held."""


async def drained(busy: Callable[[], bool], request_timeout_s: float) -> None:
    """Wait until a version has no requests in flight, at most until their deadline."""
    until = perf_counter() + request_timeout_s + RETIRE_MARGIN_S
    while busy() and perf_counter() < until:  # noqa: ASYNC110  # executors have no event
        await asyncio.sleep(0.05)


async def close(executors: Iterable[Executor]) -> None:
    """Close the executors of a version without waiting for calls that are still running."""
    for executor in executors:
        wait = not (executor.in_flight or executor.abandoned() or executor.streaming)
        await asyncio.to_thread(executor.close, wait=wait)


def check_workers(executors: Iterable[Executor], request_timeout_s: float) -> None:
    """Check that each executor has a worker for the next call.

    Raises:
        MlkitError: abandoned calls hold all workers of an executor that may be busy.
    """
    for executor in executors:
        if executor.abandoned(request_timeout_s + STUCK_S) >= executor.max_busy:
            raise MlkitError(
                "abandoned calls hold all of its workers",
                where=f"pipeline {executor.program.graph.name!r}",
                got=f"{executor.max_busy} calls that run on past the deadline of their requests",
                fix="set timeouts in its steps: a plain function cannot be stopped",
            )
