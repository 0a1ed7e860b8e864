"""What runs inside a replica of a stage: its segments, for one or two versions of a pipeline."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from mlkit.errors import DeployError, MlkitError
from mlkit.execute import Executor
from mlkit.execute.cores import switch_promptly
from mlkit.metrics import Recorder
from mlkit.serving.bundle import Origin
from mlkit.serving.http.observe import Observer, gauges_of
from mlkit.serving.http.problem import Failures
from mlkit.serving.replica.loading import Loaded, Loader, settle
from mlkit.serving.replica.output import capture
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
        """Close it when what it has begun is through."""
        await drained(self._busy, request_timeout_s)
        await close(self.executors.values())


class StageReplica:
    """The steps of one stage; the front says which version of them it wants.

    Two versions are there while a new one takes over, so that no request meets both. A new one
    takes over the resources that did not change; one that cannot be loaded is told, and what was
    there stays.
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
        switch_promptly()
        folder = Path(logs)
        keep = capture(folder, app) if folder.is_dir() else None  # noqa: ASYNC240
        self._failures = Failures(keep) if keep else Failures()
        origin.enter()
        self._stage = stage
        self._workers = workers
        self._request_timeout_s = 0.0
        push = partial(runtime.push, gatherer, app)
        self._observer = Observer(
            Recorder(stage, push, front=False, gauges=self._gauges) if gatherer else None
        )
        self._loader = Loader(runtime.fetch)
        self._wanted: dict[str, tuple[str, dict[str, int]]] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._versions: dict[str, _Version] = {}
        self._rejected: dict[str, str] = {}

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Have the versions that are wanted, and let go of the others when their requests are over.

        It does not wait for code to be loaded into a replica that serves already, so that the next
        word of what is wanted need not either.
        """
        self._wanted = dict(config["versions"])
        self._rejected = {v: why for v, why in self._rejected.items() if v in self._wanted}
        # What a version has begun may take as long as it might when it was begun.
        longest_s = max(self._request_timeout_s, config["request_timeout_s"])
        self._request_timeout_s = config["request_timeout_s"]
        for version in [v for v in self._versions if v not in self._wanted]:
            self._hold(self._versions.pop(version).retire(longest_s))
        for version, (bundle, sizes) in self._wanted.items():
            if version not in self._loading and version not in self._versions:
                self._loading[version] = self._hold(self._add(version, bundle, sizes))
        if not self._versions:
            await asyncio.gather(*self._loading.values())
            if not self._versions:
                raise DeployError("; ".join(self._rejected.values()))

    def _hold(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run it beside the rest; a loop alone does not keep its tasks."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _add(self, name: str, bundle: str, sizes: dict[str, int]) -> None:
        try:
            loaded = await self._loader.load(bundle, sizes=sizes)
        except BaseException as error:
            self._failures.record(error)
            self._rejected[name] = f"{type(error).__name__}: {error}"
            return
        finally:
            del self._loading[name]
        if name in self._wanted:
            self._versions[name] = _Version(loaded, self._workers)
            self._loader.keep(*(one.loaded for one in self._versions.values()))
            settle()

    def _gauges(self) -> dict[str, Any]:
        return gauges_of(
            [e for version in self._versions.values() for e in version.executors.values()]
        )

    def record_autoscaling_stats(self) -> dict[str, float]:
        """How it goes here, for the policy that scales it; Serve asks by this name."""
        return self._observer.recent()

    async def check_health(self) -> None:
        """Raise where nothing can run here any more; Serve asks by this name, and replaces it."""
        for version in self._versions.values():
            check_workers(version.executors.values(), self._request_timeout_s)

    async def loaded(self) -> dict[str, Any]:
        """Versions that are there, and those that could not be loaded with why."""
        return {"pid": os.getpid(), "loaded": list(self._versions), "rejected": self._rejected}

    async def __call__(self, version: str, segment: str, packed: bytes) -> bytes:
        """Run a segment of a version on packed inputs, for a packed `Answer`.

        When the caller gives up, so does this.

        Raises:
            MlkitError: it has no such version or segment.
        """
        executor = await self._executor(version, segment)
        came = perf_counter()
        execution = await executor.run(unpack(packed))
        spans = self._observer.called(execution, came)
        told = tuple((s.step, s.ready_s, s.start_s, s.finish_s, s.batch) for s in spans)
        held_s = perf_counter() - came
        if execution.error is not None:
            return pack(Answer(fault=fault_of(execution.error), spans=told, held_s=held_s))
        return pack(Answer(values=execution.output, spans=told, held_s=held_s))

    async def _executor(self, version: str, segment: str) -> Executor:
        if version in self._loading:  # another replica had it sooner
            await asyncio.shield(self._loading[version])
        try:
            return self._versions[version].executors[segment]
        except KeyError:
            known = [f"{v}: {', '.join(one.executors)}" for v, one in self._versions.items()]
            raise MlkitError(
                self._rejected.get(version, "it has no such version, or no such segment of it"),
                where=f"stage {self._stage!r}",
                expected=" or ".join(known) or "none, as yet",
                got=f"{version}: {segment}",
            ) from None

    async def __del__(self) -> None:
        observer = getattr(self, "_observer", None)
        if observer is not None:
            observer.close()
        for version in getattr(self, "_versions", {}).values():
            for executor in version.executors.values():
                executor.close(wait=False)
