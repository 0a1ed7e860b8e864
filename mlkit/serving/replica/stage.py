"""Stage replica: runs the segments of one stage, for one or two versions of a pipeline."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, suppress
from math import inf
from time import perf_counter
from typing import Any

from mlkit.errors import DeployError, MlkitError
from mlkit.execute import Executor
from mlkit.execute.execution import Execution
from mlkit.execute.items import Items
from mlkit.execute.priority import Priority
from mlkit.metrics.context import RequestContext, entered
from mlkit.serving.bundle import Origin
from mlkit.serving.replica.base import BaseReplica
from mlkit.serving.replica.loading import Loaded
from mlkit.serving.replica.remote import Answer, fault_of, pack, unpack
from mlkit.serving.replica.retire import check_workers, close, drained
from mlkit.serving.replica.runtime import Runtime

__all__ = ["StageReplica"]


class _Version:
    """One version of the stage's code, with an executor for each segment."""

    def __init__(self, loaded: Loaded, workers: int | None) -> None:
        loop = asyncio.get_running_loop()
        self.loaded = loaded
        self.executors = {
            name: Executor(program, workers=workers, loop=loop)
            for name, program in loaded.programs.items()
        }

    def _busy(self) -> bool:
        return any(executor.in_flight for executor in self.executors.values())

    async def retire(self, request_timeout_s: float) -> None:
        """Drain the calls in flight, then close."""
        await drained(self._busy, request_timeout_s)
        await close(self.executors.values())


class StageReplica(BaseReplica):
    """A stage replica; the front names the version that each call is for.

    During a rolling update it serves the old and the new version, so that each request meets one
    of them only. A new version keeps the resources that did not change. If loading fails, the error
    is reported and the old version goes on.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        app: str,
        origin: Origin,
        logs: str,
        workers: int | None,
        stage: str,
        gatherer: str,
        *,
        runtime: Runtime,
    ) -> None:
        self._stage = stage
        self._workers = workers
        self._request_timeout_s = 0.0
        self._targets: dict[str, Sequence[Any]] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._versions: dict[str, _Version] = {}
        self._start(app, stage, origin, logs, gatherer, runtime)

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Load the target versions, in the background if any is loaded; drain and close the others.

        Raises:
            DeployError: none of the first versions can be loaded.
        """
        self._configure(config)
        self._targets = dict(config["versions"])
        self._rejected = {v: error for v, error in self._rejected.items() if v in self._targets}
        # Calls in flight keep the timeout under which they began.
        longest_s = max(self._request_timeout_s, config["request_timeout_s"])
        self._request_timeout_s = config["request_timeout_s"]
        self._expect_pulse(longest_s)
        for version in [v for v in self._versions if v not in self._targets]:
            self._spawn(self._retire(self._versions.pop(version), longest_s))
        for version, target in self._targets.items():
            if version not in self._loading and version not in self._versions:
                self._loading[version] = self._spawn(self._load(version, *target))
        if not self._versions:
            await asyncio.gather(*self._loading.values())
            if not self._versions:
                raise DeployError("; ".join(self._rejected.values()))

    async def _load(
        self, name: str, bundle: str, sizes: dict[str, int], replaced: dict[str, list[str]]
    ) -> None:
        try:
            with self._pulse.paused():
                loaded = await self._loader.load(bundle, sizes=sizes, replaced=replaced)
        except BaseException as error:
            self._reject(name, error)
            return
        finally:
            del self._loading[name]
        if name not in self._targets:  # superseded while it was loading
            await self._loader.free(loaded)
            return
        self._versions[name] = _Version(loaded, self._workers)
        self._settle()

    async def _retire(self, version: _Version, request_timeout_s: float) -> None:
        await version.retire(request_timeout_s)
        await self._loader.free(version.loaded)

    def _executors(self) -> Iterator[Executor]:
        return (e for version in self._versions.values() for e in version.executors.values())

    async def check_health(self) -> None:
        """Raise if all workers are stuck; see `check_workers`."""
        check_workers(self._executors(), self._request_timeout_s)

    async def loaded(self) -> dict[str, Any]:
        """Return the versions that serve, and the errors of those that could not be loaded."""
        return {"pid": os.getpid(), "loaded": list(self._versions), "rejected": self._rejected}

    async def __call__(
        self,
        version: str,
        segment: str,
        packed: bytes,
        request: RequestContext | None = None,
        left_s: float | None = None,
        priority: int = Priority.INTERACTIVE,
    ) -> bytes:
        """Run a segment on packed inputs, and return a packed `Answer`.

        Args:
            version: version of the code.
            segment: name of the segment.
            packed: inputs of the segment.
            request: the request that the call is part of, for traces and logs.
            left_s: seconds to the request's deadline; None for none.
            priority: class of the request.

        Raises:
            MlkitError: it has no such version or segment.
        """
        deadline = _deadline(left_s)
        executor = await self._executor(version, segment)
        received_at = perf_counter()
        with entered(request):
            execution = await executor.run(
                unpack(packed), deadline=deadline, priority=Priority(priority)
            )
        return self._answer(execution, received_at, execution.output)

    async def stream(
        self,
        version: str,
        segment: str,
        packed: bytes,
        request: RequestContext | None = None,
        left_s: float | None = None,
        priority: int = Priority.INTERACTIVE,
    ) -> AsyncGenerator[bytes, None]:
        """Run a segment that streams: packed lists of items as they are made, then an `Answer`.

        Args:
            version: version of the code.
            segment: name of the segment.
            packed: inputs of the segment.
            request: the request that the call is part of, for traces and logs.
            left_s: seconds to the deadline of the first item; the front watches those of the
                others. None for none.
            priority: class of the request.

        Raises:
            MlkitError: it has no such version or segment.
        """
        deadline = _deadline(left_s)
        executor = await self._executor(version, segment)
        received_at = perf_counter()
        order = Priority(priority)
        with entered(request):
            stream = Items(executor, unpack(packed), deadline=deadline, idle_s=inf, priority=order)
        async with aclosing(stream) as items:
            with suppress(MlkitError):  # that of the execution
                while batch := await items.batch():
                    yield pack(batch)
        yield self._answer(items.execution, received_at, ())

    def _answer(self, execution: Execution, received_at: float, values: Any) -> bytes:
        recorded = self._observer.called(execution, received_at)
        spans = tuple((s.step, s.ready_s, s.start_s, s.finish_s, s.batch) for s in recorded)
        held_s = perf_counter() - received_at
        if execution.error is not None:
            return pack(Answer(fault=fault_of(execution.error), spans=spans, held_s=held_s))
        return pack(Answer(values=values, spans=spans, held_s=held_s))

    async def _executor(self, version: str, segment: str) -> Executor:
        if version in self._loading:  # another replica was faster
            await asyncio.shield(self._loading[version])
        try:
            return self._versions[version].executors[segment]
        except KeyError:
            known = [f"{v}: {', '.join(loaded.executors)}" for v, loaded in self._versions.items()]
            raise MlkitError(
                self._rejected.get(version, "no such version, or no such segment of it"),
                where=f"stage {self._stage!r}",
                expected=" or ".join(known) or "none loaded yet",
                got=f"{version}: {segment}",
            ) from None


def _deadline(left_s: float | None) -> float | None:
    return None if left_s is None else perf_counter() + left_s
