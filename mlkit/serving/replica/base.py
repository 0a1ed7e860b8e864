"""What front and stage replicas share: start, metrics, background tasks, and hooks of Serve."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from mlkit.execute import Executor
from mlkit.execute.cores import switch_promptly
from mlkit.metrics.otlp import exporter_of
from mlkit.serving.bundle import Origin
from mlkit.serving.http.observer import Observer
from mlkit.serving.http.problem import Failures
from mlkit.serving.replica.kept import Kept, KeptFailures, KeptRecorder
from mlkit.serving.replica.levels import set_levels
from mlkit.serving.replica.loading import Loader, settle
from mlkit.serving.replica.output import capture
from mlkit.serving.replica.pulse import PULSES, Pulse
from mlkit.serving.replica.retire import STUCK_S
from mlkit.serving.replica.runtime import Runtime
from mlkit.serving.replica.threads import limit_threads

__all__ = ["BaseReplica", "until_idle"]


def _ignore(failure: dict[str, Any]) -> None:
    """Where a replica is on another node than the session's folder."""


IDLE_S, SETTLE_S, POLL_S = 1.0, 60.0, 0.1
"""How long a replica has to be idle to collect an old version, and how long it waits for that."""


async def until_idle(
    activity: Callable[[], tuple[int, int]],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Return once no request has been handled for `IDLE_S`, and after `SETTLE_S` anyway.

    Args:
        activity: returns the requests since the start, and those in flight.
        sleep: waits for some seconds.
    """
    before, idle_s = -1, 0.0
    for _ in range(int(SETTLE_S / POLL_S)):
        await sleep(POLL_S)
        submitted, in_flight = activity()
        # Requests that came and went since the last look are no more in flight.
        idle_s = idle_s + POLL_S if submitted == before and not in_flight else 0.0
        before = submitted
        if idle_s >= IDLE_S:
            return


class BaseReplica(ABC):
    """Base class of the deployments that Serve runs."""

    _is_front: ClassVar[bool] = False

    def _start(
        self, app: str, stage: str, origin: Origin, logs: str, gatherer: str, runtime: Runtime
    ) -> None:
        switch_promptly()
        folder = Path(logs)
        self._kept = Kept(folder if folder.is_dir() else None, app)
        keep = capture(folder, app) if folder.is_dir() else _ignore
        self._failures: Failures = KeptFailures(keep, self._kept)
        origin.enter()
        limit_threads()
        push = partial(runtime.push, gatherer, app)
        recorder = None
        if gatherer:
            recorder = KeptRecorder(stage, push, front=self._is_front, gauges=self._gauges)
            recorder.kept = self._kept
        export = exporter_of(os.environ, app) if self._is_front and gatherer else None
        self._observer = Observer(recorder, export=export)
        self._loader = Loader(runtime.fetch)
        self._pulse = Pulse(folder.parent / PULSES)
        self._pulse.start()
        self._rejected: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._settling: asyncio.Task[None] | None = None
        self._has_settled = False
        self._log_levels: dict[str, int] = {}
        self._max_busy_workers: int | None = None

    @abstractmethod
    def _executors(self) -> Iterable[Executor]:
        """The executors of all versions that serve."""

    def _gauges(self) -> dict[str, Any]:
        queued: Counter[str] = Counter()
        in_flight = 0
        for executor in self._executors():
            queued.update(executor.queued())
            in_flight += executor.in_flight
        return {"in_flight": in_flight, "queued": dict(+queued)}

    def _configure(self, config: Mapping[str, Any]) -> None:
        """Apply what needs no new version."""
        set_levels(config["log_levels"], before=self._log_levels)
        self._log_levels = config["log_levels"]
        self._max_busy_workers = config.get("max_busy_workers")
        self._kept.enable(config.get("keep_inputs", True))
        self._limit_workers()

    def _expect_pulse(self, request_timeout_s: float) -> None:
        """Let this process be killed if it runs no thread for longer than a request may take."""
        self._pulse.expect(request_timeout_s + STUCK_S)

    def _limit_workers(self) -> None:
        for executor in self._executors():
            executor.max_busy = self._max_busy_workers or executor.workers

    def _settle(self) -> None:
        """Complete the start of a version.

        Limit its workers, exempt it from garbage collection, and collect the old one when idle.
        """
        self._limit_workers()
        settle(everything=not self._has_settled)
        if self._has_settled and (self._settling is None or self._settling.done()):
            self._settling = self._spawn(self._settle_when_idle())
        self._has_settled = True

    async def _settle_when_idle(self) -> None:
        await until_idle(self._activity)
        settle()

    def _activity(self) -> tuple[int, int]:
        executors = list(self._executors())
        return sum(each.submitted for each in executors), sum(each.in_flight for each in executors)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine in the background; the event loop only keeps weak references."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _reject(self, version: str, error: BaseException) -> None:
        self._failures.record(error)
        notes = getattr(error, "__notes__", ())  # such as: which resource
        self._rejected[version] = "\n".join([f"{type(error).__name__}: {error}", *notes])

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return this replica's load for the autoscaling policy."""
        return self._observer.recent()

    async def __del__(self) -> None:
        if hasattr(self, "_observer"):  # it has started
            self._pulse.stop()
            await asyncio.to_thread(self._observer.close)  # it may send the rest
            for executor in self._executors():
                executor.close(wait=False)
            await self._loader.close()
