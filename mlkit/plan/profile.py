"""How long each step takes, and what a batch of each size does for it: L(b), measured here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

from mlkit.define.loop import run_here
from mlkit.define.step import BatchedStep
from mlkit.errors import InputError
from mlkit.execute import compile_graph
from mlkit.execute.inputs import arguments_of
from mlkit.execute.program import Task
from mlkit.pipelines import Pipeline

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["BATCH_SIZES", "Latency", "Profile", "profile"]

BATCH_SIZES = (1, 2, 4, 8, 16, 32)

WORTH = 0.05
"""Share of the time for an item that a larger batch has to save to be worth the wait for it."""


@dataclass(frozen=True)
class Latency:
    """Time of one call of a step.

    Attributes:
        batch_size: items of the call; 1 for a step that is not batched.
        ms: median of the calls.
        calls: how many were timed.
    """

    step: str
    batched: bool
    batch_size: int
    ms: float
    calls: int

    @property
    def ms_an_item(self) -> float:
        """Milliseconds for each item of the batch."""
        return self.ms / self.batch_size


@dataclass(frozen=True)
class Profile:
    """What a pipeline's steps were measured to take here, one call at a time."""

    pipeline: str
    latencies: tuple[Latency, ...]

    @property
    def limits(self) -> dict[str, int]:
        """For each batched step the smallest batch that larger ones do not beat by 5% an item."""
        steps: dict[str, list[Latency]] = {}
        for one in self.latencies:
            if one.batched:
                steps.setdefault(one.step, []).append(one)
        return {step: _limit(of_step) for step, of_step in steps.items()}

    def to_frame(self) -> pd.DataFrame:
        """A row for each step and batch size."""
        import pandas as pd

        limits = self.limits
        rows = [
            {
                "step": one.step,
                "batch_size": one.batch_size,
                "ms": one.ms,
                "ms_an_item": one.ms_an_item,
                "items_per_s": 1e3 / one.ms_an_item if one.ms else float("inf"),
                "calls": one.calls,
                "chosen": limits.get(one.step) == one.batch_size,
            }
            for one in self.latencies
        ]
        return pd.DataFrame(rows)

    def plot(self, **options: Any) -> Any:
        """Time an item over the batch size, for each batched step; a matplotlib figure."""
        from mlkit.views.mpl.profile import plot_profile

        return plot_profile(self, **options)

    def __str__(self) -> str:
        return (
            self.to_frame()
            .round({"ms": 3, "ms_an_item": 3, "items_per_s": 0})
            .to_string(index=False)
        )

    def __repr__(self) -> str:
        limits = ", ".join(f"{step} {size}" for step, size in self.limits.items())
        return f"<profile of {self.pipeline}: {limits or 'no batched step'}>"

    def _repr_html_(self) -> str:
        frame = self.to_frame().round({"ms": 3, "ms_an_item": 3, "items_per_s": 0})
        return str(frame.to_html(index=False))


def _limit(latencies: Sequence[Latency]) -> int:
    best = min(one.ms_an_item for one in latencies)
    good = [one.batch_size for one in latencies if one.ms_an_item * (1 - WORTH) <= best]
    return min(good)


def profile(
    pipeline: Pipeline[..., Any],
    inputs: Iterable[Any],
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    seconds: float = 0.3,
    clock: Callable[[], float] = perf_counter,
) -> Profile:
    """Measure each step of a pipeline on real inputs, batched ones at each batch size.

    The inputs are run through once; then each step is called alone, on what it was given then, one
    call at a time. A batch larger than the number of inputs repeats them.

    Args:
        pipeline: whose steps.
        inputs: dicts of arguments, or bare values where one parameter is required.
        batch_sizes: sizes to measure.
        seconds: for each step and size, at least; three calls are timed in any case.
        clock: gives seconds.

    Raises:
        InputError: there are no inputs.
        StepError: a step raises on one of them.
    """
    graph = pipeline.graph
    arguments = [arguments_of(one, graph.parameters) for one in inputs]
    if not arguments:
        raise InputError("profiling needs inputs to run on", where=f"pipeline {graph.name!r}")
    program = compile_graph(graph)
    seen = [pipeline.run(**one) for one in arguments]
    made: list[Latency] = []
    for task in program.tasks:
        given = _given(task, seen)
        if not given:  # a branch that none of the inputs took
            continue
        for size in sorted(set(batch_sizes)) if task.batched else (1,):
            times = _timed(_call(task, given, size), seconds, clock)
            made.append(Latency(task.name, task.batched, size, 1e3 * median(times), len(times)))
    return Profile(graph.name, tuple(made))


def _given(task: Task, seen: Sequence[Any]) -> list[dict[str, Any]]:
    """What the task was called with in each run; for one over a list, with each of its items."""
    found: list[dict[str, Any]] = []
    for run in seen:
        if run[task.name].status != "done":
            continue
        results = {node.name: node.value for node in run.nodes}
        arguments = {p.name: p.default for p in run.graph.parameters if not p.required}
        taken = {name: get({**arguments, **run.arguments}, results) for name, get in task.inputs}
        over = run.graph[task.name].each
        if over is None:
            found.append(taken)
        else:
            found += [{**taken, over: item} for item in taken[over]]
    return found


def _call(task: Task, given: Sequence[dict[str, Any]], size: int) -> Callable[[int], Any]:
    """A function that makes the i-th call, on the next items each time."""
    step, resources = task.step, dict(task.resources)
    if isinstance(step, BatchedStep):
        batched = step

        def call_batch(i: int) -> Any:
            items = [given[(i * size + j) % len(given)] for j in range(size)]
            return batched.call_batch({k: [item[k] for item in items] for k in given[0]}, resources)

        return call_batch

    def call(i: int) -> Any:
        result = step.fn(**given[i % len(given)], **resources)
        return run_here(result) if step.is_async else result

    return call


def _timed(call: Callable[[int], Any], seconds: float, clock: Callable[[], float]) -> list[float]:
    """Seconds of each call, after one that is not counted."""
    call(0)
    times: list[float] = []
    until = clock() + seconds
    while len(times) < 3 or clock() < until:
        began = clock()
        call(len(times))
        times.append(clock() - began)
    return times
