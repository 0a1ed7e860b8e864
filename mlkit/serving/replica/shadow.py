"""Another version of an app on values of real requests: to warm it up, and to compare results."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from math import isclose, isnan
from random import random
from time import perf_counter
from typing import Any

from mlkit.define.fresh import fresh
from mlkit.define.graph import Graph, Node
from mlkit.errors import DeployError
from mlkit.execute import Executor, Program, compile_graph
from mlkit.execute.execution import Execution
from mlkit.metrics import Recorder
from mlkit.plan import RemoteStep
from mlkit.serving.http.lifecycle import Served

__all__ = ["Replay", "Shadow", "differences", "differing", "warm_up"]

WAITING = 8
"""Maximum of requests that wait to be compared; further ones are dropped."""

BUSY_SHARE = 0.04
"""Share of the time in which requests are compared while others are in flight."""

REL_TOL, ABS_TOL = 1e-3, 1e-6
"""Tolerance within which numbers agree."""


class Replay:
    """Runs what differs between two versions again, on the values of a request.

    Steps that neither differ nor depend on one that does are not repeated: their results are those
    of the request.

    Args:
        program: the program of the other version.
        differing: nodes that differ.
        loop: event loop of the async steps.
    """

    def __init__(
        self, program: Program, differing: frozenset[str], loop: asyncio.AbstractEventLoop
    ) -> None:
        graph = program.graph
        again: set[str] = set()
        for node in graph:
            if node.name in differing or not again.isdisjoint(node.upstream):
                again.add(node.name)
        self._reused = frozenset(node.name for node in graph) - again
        self._executor = Executor(compile_graph(graph, self._reused, loop), workers=1, loop=loop)

    async def __call__(self, execution: Execution, timeout_s: float) -> Execution:
        """Run a request again, on copies of its values."""
        reused, arguments = await asyncio.to_thread(self._copied, execution)
        deadline = perf_counter() + timeout_s
        return await self._executor.run(arguments, given=reused, deadline=deadline)

    def _copied(self, execution: Execution) -> tuple[dict[str, Any], dict[str, Any]]:
        reused = {name: v for name, v in execution.results.items() if name in self._reused}
        return fresh(reused), fresh(dict(execution.arguments))

    def close(self) -> None:
        """Stop its worker."""
        self._executor.close(wait=False)


def differing(graph: Graph, config: Mapping[str, Any], other: Mapping[str, Any]) -> frozenset[str]:
    """Nodes of a front's graph that differ between two configurations of the same code.

    Either a resource of the node's step was replaced, or one in the stage that it calls.
    """

    def parts(node: Node, config: Mapping[str, Any]) -> Any:
        if isinstance(node.step, RemoteStep):
            return config["routes"].get(node.step.stage)
        keys = [f"{graph.name}.{node.name}.{keyword}" for keyword in node.step.resources]
        return [config["replaced"].get(key) for key in keys]

    return frozenset(node.name for node in graph if parts(node, config) != parts(node, other))


async def warm_up(replay: Replay, execution: Execution, timeout_s: float) -> Execution:
    """Run a request that another version has answered, before the first real one.

    Raises:
        DeployError: the new version fails, or returns NaN where the other did not.
    """
    again = await replay(execution, timeout_s)
    name = execution.program.graph.name
    if again.error is not None:
        raise DeployError(
            "the new version fails on a recent request",
            where=f"pipeline {name!r}",
            got=str(again.error),
        ) from again.error
    nans = _nans(again.output) - _nans(execution.output)
    if nans:
        raise DeployError(
            "the new version returns NaN for a recent request",
            where=f"pipeline {name!r}",
            got=f"NaN in {', '.join(sorted(nans)[:3])}",
        )
    return again


class Shadow:
    """Repeats a share of the requests with another version, and records where results differ.

    One request at a time, after its response; while others are in flight, for a small part of the
    time. What cannot be repeated soon is dropped.

    Args:
        replay: runs a request again.
        version: name of the other version.
        share: share of the requests.
        recorder: takes the comparisons.
        served: the version that serves.
    """

    def __init__(
        self,
        replay: Replay,
        version: str,
        share: float,
        recorder: Recorder,
        served: Served,
    ) -> None:
        self.version = version
        self._replay = replay
        self._share = share
        self._recorder = recorder
        self._served = served
        self._waiting: asyncio.Queue[Execution] = asyncio.Queue(WAITING)

    def __call__(self, execution: Execution) -> None:
        """Sample a request that has been answered."""
        if random() >= self._share:
            return
        try:
            self._waiting.put_nowait(execution)
        except asyncio.QueueFull:
            self._recorder.dropped(self.version)

    async def run(self) -> None:
        """Compare sampled requests until cancelled."""
        pause_s = 0.0
        try:
            while True:
                execution = await self._waiting.get()
                if self._served.executor.in_flight:
                    await asyncio.sleep(pause_s)
                began = perf_counter()
                try:
                    await self._compare(execution)
                except Exception:  # values that cannot be copied
                    self._recorder.dropped(self.version)
                pause_s = (perf_counter() - began) / BUSY_SHARE
        finally:
            self._replay.close()

    async def _compare(self, execution: Execution) -> None:
        again = await self._replay(execution, self._served.limits.request_timeout_s)
        old, new = execution.output, again.output
        if again.error is not None:
            paths, new = ["error"], again.error
        else:
            paths = sorted(await asyncio.to_thread(differences, old, new))
        values = execution.arguments, old, new
        self._recorder.compared(self.version, values if paths else None, paths)


def differences(old: Any, new: Any, path: str = "") -> set[str]:
    """Paths at which two results differ, such as ``labels[0].score``; "result" for the whole.

    Numbers agree within a tolerance, NaN with NaN.
    """
    old_parts, new_parts = _parts(old), _parts(new)
    if old_parts is None or new_parts is None:
        return set() if _agree(old, new) else {_named(path)}
    if old_parts.keys() != new_parts.keys():
        return {_named(path)}
    return set().union(
        *(differences(value, new_parts[name], path + name) for name, value in old_parts.items())
    )


def _nans(value: Any, path: str = "") -> set[str]:
    """Paths of NaN in a result."""
    parts = _parts(value)
    if parts is not None:
        return set().union(*(_nans(part, path + name) for name, part in parts.items()))
    if isinstance(value, float):
        nan = isnan(value)
    elif "float" in str(getattr(value, "dtype", "")):
        nan = bool((value != value).any())  # of numpy, pandas or torch
    else:
        nan = False
    return {_named(path)} if nan else set()


def _named(path: str) -> str:
    return path.removeprefix(".") or "result"


def _parts(value: Any) -> dict[str, Any] | None:
    """The parts of a value by their path; None for one without parts."""
    if isinstance(value, Mapping):
        return {f"[{key!r}]": part for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return {f"[{i}]": part for i, part in enumerate(value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
    elif hasattr(type(value), "__pydantic_fields__"):
        names = list(type(value).__pydantic_fields__)
    else:
        return None
    return {f".{name}": getattr(value, name, None) for name in names}


def _agree(old: Any, new: Any) -> bool:
    if isinstance(old, (int, float)) and isinstance(new, (int, float)):
        both_nan = old != old and new != new
        return both_nan or isclose(old, new, rel_tol=REL_TOL, abs_tol=ABS_TOL)
    try:
        if hasattr(old, "dtype") and hasattr(new, "dtype"):
            return _arrays_agree(old, new)
        return bool(old.equals(new) if hasattr(old, "equals") else old == new)
    except Exception:  # values that cannot be compared
        return False


def _arrays_agree(old: Any, new: Any) -> bool:
    import numpy as np

    arrays = np.asarray(old), np.asarray(new)
    if any(array.dtype.kind != "f" for array in arrays):
        return np.array_equal(*arrays)
    shapes = {array.shape for array in arrays}
    return len(shapes) == 1 and np.allclose(*arrays, rtol=REL_TOL, atol=ABS_TOL, equal_nan=True)
