"""The items of a request that streams, as its consumer on an event loop takes them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from functools import partial
from math import inf
from typing import Any

from mlkit.execute.buffer import Buffer
from mlkit.execute.executor import Executor
from mlkit.execute.priority import Priority

__all__ = ["Items"]


class Items:
    """The items of a request as they are made, for a consumer on the running event loop.

    It starts the request at once. Iterate over it once, and close it, which cancels the request if
    it has not ended.

    Args:
        executor: runs the request.
        arguments: arguments of the pipeline, by name.
        deadline: of the first item, on the clock of `time.perf_counter`; None for none.
        idle_s: maximum time between two items, in seconds, the time in which they are taken
            included; None for no limit.
        priority: class of the request.

    Attributes:
        execution: the request.

    Raises:
        Cancelled: the executor is closed.
    """

    def __init__(
        self,
        executor: Executor,
        arguments: Mapping[str, Any],
        *,
        deadline: float | None = None,
        idle_s: float | None = None,
        priority: Priority = Priority.INTERACTIVE,
    ) -> None:
        self._executor = executor
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._ended = False
        self._taken: deque[Any] = deque()
        self._timer: asyncio.TimerHandle | None = None
        notify = partial(executor.post, self._loop, self._changed.set)
        self.execution = executor.submit(
            arguments,
            lambda execution: executor.post(self._loop, self._end),
            deadline=deadline,
            buffer=Buffer(notify, idle_s),
            priority=priority,
        )
        self._watch()

    def _end(self) -> None:
        self._ended = True
        self._changed.set()

    def _watch(self) -> None:
        """Let the request expire at its deadline, wherever that has moved meanwhile."""
        left_s = self.execution.left_s
        if left_s is None or left_s == inf or self._ended:
            return
        if not left_s:
            self._executor.expire(self.execution)
            return
        self._timer = self._loop.call_later(left_s, self._watch)

    async def batch(self) -> list[Any]:
        """Return the items made since the last call, once there are any; [] after the last.

        Raises:
            MlkitError: the request failed.
        """
        while True:
            self._changed.clear()
            ended = self._ended  # before taking: the last items come before the end
            items = self._executor.take(self.execution)
            if items:
                return items
            if ended:
                if self.execution.error is not None:
                    raise self.execution.error
                return []
            await self._changed.wait()

    def __aiter__(self) -> Items:
        return self

    async def __anext__(self) -> Any:
        if not self._taken:
            self._taken.extend(await self.batch())
        if not self._taken:
            raise StopAsyncIteration
        return self._taken.popleft()

    async def aclose(self) -> None:
        """Cancel the request, unless it has ended; its generator is closed."""
        if self._timer is not None:
            self._timer.cancel()
        self.execution.cancel()
