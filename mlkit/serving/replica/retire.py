"""When the executors of a replica are let go of: with their version, or because they are stuck."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from time import perf_counter

from mlkit.errors import MlkitError
from mlkit.execute import Executor

__all__ = ["check_workers", "close", "drained"]

RETIRE_MARGIN_S = 5.0
"""Added to the request timeout, by which whatever a version has begun is answered."""

STUCK_S = 5.0
"""Added to the request timeout, after which a call that nobody waits for is not coming back."""


async def drained(busy: Callable[[], bool], request_timeout_s: float) -> None:
    """Return when a version is through with what it has begun, or should be by now."""
    until = perf_counter() + request_timeout_s + RETIRE_MARGIN_S
    while busy() and perf_counter() < until:  # noqa: ASYNC110  # executors have no event
        await asyncio.sleep(0.05)


async def close(executors: Iterable[Executor]) -> None:
    """Close the executors of a version that is retired; calls that go on are not waited for."""
    for executor in executors:
        wait = not (executor.in_flight or executor.abandoned())
        await asyncio.to_thread(executor.close, wait=wait)


def check_workers(executors: Iterable[Executor], request_timeout_s: float) -> None:
    """Make sure that there is a worker that can take the next call.

    Raises:
        MlkitError: all of an executor's are held by calls that have outlived their requests.
    """
    for executor in executors:
        if executor.abandoned(request_timeout_s + STUCK_S) == executor.workers:
            raise MlkitError(
                "calls that nobody waits for hold all of its workers",
                where=f"pipeline {executor.program.graph.name!r}",
                got=f"{executor.workers} calls that go on after their requests' time",
                fix="bound what its steps wait for: a plain function cannot be stopped",
            )
