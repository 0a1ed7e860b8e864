"""What front and stage replicas share: start, metrics, background tasks, and hooks of Serve."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Coroutine, Iterable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from mlkit.execute import Executor
from mlkit.execute.cores import switch_promptly
from mlkit.metrics import Recorder
from mlkit.serving.bundle import Origin
from mlkit.serving.http.observe import Observer
from mlkit.serving.http.problem import Failures
from mlkit.serving.replica.loading import Loader
from mlkit.serving.replica.output import capture
from mlkit.serving.replica.runtime import Runtime

__all__ = ["BaseReplica"]


class BaseReplica(ABC):
    """Base class of the deployments that Serve runs."""

    _is_front: ClassVar[bool] = False

    def _start(
        self, app: str, stage: str, origin: Origin, logs: str, gatherer: str, runtime: Runtime
    ) -> None:
        switch_promptly()
        folder = Path(logs)
        self._failures = Failures(capture(folder, app)) if folder.is_dir() else Failures()
        origin.enter()
        push = partial(runtime.push, gatherer, app)
        self._observer = Observer(
            Recorder(stage, push, front=self._is_front, gauges=self._gauges) if gatherer else None
        )
        self._loader = Loader(runtime.fetch)
        self._rejected: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()

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

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine in the background; the event loop only keeps weak references."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _reject(self, version: str, error: BaseException) -> None:
        self._failures.record(error)
        self._rejected[version] = f"{type(error).__name__}: {error}"

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return this replica's load for the autoscaling policy."""
        return self._observer.recent()

    async def __del__(self) -> None:
        if hasattr(self, "_observer"):  # it has started
            self._observer.close()
            for executor in self._executors():
                executor.close(wait=False)
