"""Likely problems of an app, before they occur: pure functions of its plan and limits.

`mlkit.serving.kernel.doctor` is about the machine; this is about one app on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from mlkit.define.code import captured
from mlkit.define.graph import Graph
from mlkit.define.options import StepOptions
from mlkit.plan import Plan
from mlkit.plan.machine import Demand, requested, shortfalls
from mlkit.serving.kernel.doctor import Finding
from mlkit.serving.limits import Limits

__all__ = ["Facts", "about_app", "size_of", "sizes_of"]

MIB = 2**20
LARGE = 50 * MIB
"""Minimum size of a captured value that is reported."""


@dataclass(frozen=True)
class Facts:
    """Input of the checks.

    Attributes:
        plan: the plan of the app, with its present settings.
        limits: its limits.
        captured: size in bytes of the larger values that code captures, by step and name.
        total: resources of the machine or cluster, by Ray's names.
        cores: cores of the machine; 0 if its replicas are elsewhere.
        workers: worker threads of a replica, where the app sets them.
    """

    plan: Plan
    limits: Limits
    captured: Mapping[tuple[str, str], int]
    total: Mapping[str, float]
    cores: int
    workers: int | None = None


def about_app(facts: Facts) -> Iterator[Finding]:
    """Yield likely problems of an app."""
    yield from about_captured(facts.captured)
    yield from about_batches(facts.plan, facts.limits)
    yield from about_resources(facts.plan, facts.total)
    if facts.cores:
        yield from about_threads(facts.plan, facts.workers, facts.cores)


def about_captured(sizes: Mapping[tuple[str, str], int]) -> Iterator[Finding]:
    for (step, name), size in sizes.items():
        if size >= LARGE:
            yield Finding(
                f"step {step!r} uses {name!r}, {size / MIB:,.0f} MiB, which is shipped with its "
                "code at each deployment, and once more when the step changes",
                f"pass it as a resource, which is shipped once: *, {name}=resource(value={name}), "
                "or load it from a file: resource(load, files=[...])",
            )


def about_batches(plan: Plan, limits: Limits) -> Iterator[Finding]:
    """Check that a batch can fill: no more requests than are in flight can be in it."""
    for stage in plan.stages:
        in_flight = stage.options.get("max_ongoing_requests") or limits.max_ongoing_requests
        for name, size in stage.max_batch_size.items():
            runs_over_a_list = plan.graph[name].each is not None
            if size > in_flight and not runs_over_a_list:
                yield Finding(
                    f"a batch of step {name!r} can never fill: max_batch_size={size}, but a "
                    f"replica admits {in_flight} requests at a time",
                    f"max_batch_size={in_flight}, or Limits(max_ongoing_requests={2 * size})"
                    + _waits(plan.graph[name].step.options),
                )


def _waits(options: StepOptions) -> str:
    wait_s = options.batch_wait_timeout_s
    return f"; each batch waits {wait_s:g} s in vain" if wait_s else ""


def about_resources(plan: Plan, total: Mapping[str, float]) -> Iterator[Finding]:
    demands = [
        Demand(stage.name, max(1, stage.most_replicas), requested(stage.ray_actor_options))
        for stage in plan.stages
    ]
    for shortfall in shortfalls(demands, total):
        yield Finding(
            f"with all of its replicas, it {shortfall}",
            "use fewer replicas, or request less per replica (num_cpus, num_gpus)",
        )


def about_threads(plan: Plan, workers: int | None, cores: int) -> Iterator[Finding]:
    """Check that all replicas together do not compute on more threads than there are cores.

    Stages of async steps only wait.
    """
    computing = [
        stage
        for stage in plan.stages
        if not all(plan.graph[name].step.is_async for name in stage.nodes)
    ]
    replicas = sum(stage.most_replicas for stage in computing)
    threads = {
        stage.name: stage.most_replicas * min(workers or stage.threads or cores, cores)
        for stage in computing
    }
    total = sum(threads.values())
    if replicas > 1 and total > 2 * cores:
        shown = ", ".join(f"{name} {count}" for name, count in threads.items())
        yield Finding(
            f"{replicas} replicas may compute on {total} threads at a time ({shown}), on {cores} "
            "cores: they slow each other down",
            "deploy(..., profile=profile(pipeline, payloads)) chooses replicas and threads, or set "
            f"workers={max(1, cores // replicas)}",
        )


# ---- facts --------------------------------------------------------------------------------------


def sizes_of(graph: Graph) -> dict[tuple[str, str], int]:
    """Size of the values that the code of steps captures, by name, if it is known."""
    return {
        (node.step.name, name): size
        for node in graph
        if isinstance(node.step.fn, FunctionType)
        for name, value in captured(node.step.fn).items()
        if (size := size_of(value)) > 0
    }


def size_of(value: Any) -> int:
    """Return the size in bytes of an array, a tensor, a DataFrame, or bytes; 0 of anything else."""
    if isinstance(value, (bytes, bytearray)):
        return len(value)
    if isinstance(value, (list, tuple)) and value:
        return sum(map(size_of, value)) if len(value) <= 100 else 0
    if isinstance(value, dict) and len(value) <= 100:
        return sum(map(size_of, value.values()))
    memory_usage = getattr(value, "memory_usage", None)
    if callable(memory_usage) and type(value).__module__.partition(".")[0] == "pandas":
        usage = memory_usage(deep=False)  # `deep` would read every text
        return int(getattr(usage, "sum", lambda: usage)())
    size = getattr(value, "nbytes", None)
    return size if isinstance(size, int) else 0
