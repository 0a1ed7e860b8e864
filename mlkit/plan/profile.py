"""Latency of each step as a function of its batch size, L(b), measured in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

from mlkit.define.loop import run_here
from mlkit.define.step import BatchedStep
from mlkit.errors import InputError, entry_point
from mlkit.execute import compile_graph
from mlkit.execute.inputs import arguments_of
from mlkit.execute.program import Task
from mlkit.pipelines import Pipeline, require_pipeline

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["BATCH_SIZES", "Latency", "Profile", "profile"]

BATCH_SIZES = (1, 2, 4, 8, 16, 32)

MIN_GAIN = 0.05
"""Share of the time per item that a larger batch must save to be chosen."""


@dataclass(frozen=True)
class Latency:
    """Time of one call of a step.

    Attributes:
        batch_size: items of the call; 1 for a step that is not batched.
        ms: median of the calls.
        calls: number of timed calls.
    """

    step: str
    batched: bool
    batch_size: int
    ms: float
    calls: int

    @property
    def ms_an_item(self) -> float:
        """Milliseconds per item of the batch."""
        return self.ms / self.batch_size


@dataclass(frozen=True)
class Profile:
    """Measured latencies of a pipeline's steps, one call at a time."""

    pipeline: str
    latencies: tuple[Latency, ...]

    @property
    def limits(self) -> dict[str, int]:
        """For each batched step, the smallest batch size within 5% of the best time per item."""
        steps: dict[str, list[Latency]] = {}
        for latency in self.latencies:
            if latency.batched:
                steps.setdefault(latency.step, []).append(latency)
        return {step: _limit(latencies) for step, latencies in steps.items()}

    def to_frame(self) -> pd.DataFrame:
        """A row per step and batch size."""
        import pandas as pd

        limits = self.limits
        rows = [
            {
                "step": latency.step,
                "batch_size": latency.batch_size,
                "ms": latency.ms,
                "ms_an_item": latency.ms_an_item,
                "items_per_s": 1e3 / latency.ms_an_item if latency.ms else float("inf"),
                "calls": latency.calls,
                "chosen": limits.get(latency.step) == latency.batch_size,
            }
            for latency in self.latencies
        ]
        return pd.DataFrame(rows)

    def plot(self, **options: Any) -> Any:
        """Plot the time per item over the batch size of each batched step, with matplotlib."""
        from mlkit.views.mpl.profile import plot_profile

        return plot_profile(self, **options)

    def _rounded(self) -> pd.DataFrame:
        return self.to_frame().round({"ms": 3, "ms_an_item": 3, "items_per_s": 0})

    def __str__(self) -> str:
        return self._rounded().to_string(index=False)

    def __repr__(self) -> str:
        limits = ", ".join(f"{step} {size}" for step, size in self.limits.items())
        return f"<profile of {self.pipeline}: {limits or 'no batched step'}>"

    def _repr_html_(self) -> str:
        return str(self._rounded().to_html(index=False))


def _limit(latencies: Sequence[Latency]) -> int:
    best = min(latency.ms_an_item for latency in latencies)
    return min(x.batch_size for x in latencies if x.ms_an_item * (1 - MIN_GAIN) <= best)


@entry_point
def profile(
    pipeline: Pipeline[..., Any],
    inputs: Iterable[Any],
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    seconds: float = 0.3,
    clock: Callable[[], float] = perf_counter,
) -> Profile:
    """Measure each step of a pipeline on real inputs, batched ones at each batch size.

    The pipeline runs once on each input; then each step is called by itself on its recorded inputs,
    one call at a time. A batch larger than the number of inputs repeats them.

    Args:
        pipeline: the pipeline to profile.
        inputs: dicts of arguments, or bare values if only one parameter is required.
        batch_sizes: sizes to measure.
        seconds: minimum time per step and batch size; at least three calls are timed.
        clock: returns seconds.

    Raises:
        InputError: there are no inputs.
        StepError: a step raises on one of them.
    """
    graph = require_pipeline(pipeline, "profile(...)").graph
    arguments = [arguments_of(payload, graph.parameters) for payload in inputs]
    if not arguments:
        raise InputError("profiling requires inputs", where=f"pipeline {graph.name!r}")
    program = compile_graph(graph)
    runs = [pipeline.run(**payload) for payload in arguments]
    latencies: list[Latency] = []
    for task in program.tasks:
        inputs = _recorded_inputs(task, runs)
        if not inputs:  # a branch that none of the inputs took
            continue
        for size in sorted(set(batch_sizes)) if task.batched else (1,):
            times = _timed(_call(task, inputs, size), seconds, clock)
            ms = 1e3 * median(times)
            latencies.append(Latency(task.name, task.batched, size, ms, len(times)))
    return Profile(graph.name, tuple(latencies))


def _recorded_inputs(task: Task, runs: Sequence[Any]) -> list[dict[str, Any]]:
    """Inputs of a task in each run; for a task over a list, one per item."""
    recorded: list[dict[str, Any]] = []
    for run in runs:
        if run[task.name].status != "done":
            continue
        results = {node.name: node.value for node in run.nodes}
        arguments = {p.name: p.default for p in run.graph.parameters if not p.required}
        inputs = {name: get({**arguments, **run.arguments}, results) for name, get in task.inputs}
        each = run.graph[task.name].each
        if each is None:
            recorded.append(inputs)
        else:
            recorded += [{**inputs, each: item} for item in inputs[each]]
    return recorded


def _call(task: Task, inputs: Sequence[dict[str, Any]], size: int) -> Callable[[int], Any]:
    """Return a function that makes the i-th call, each on the next items."""
    step, resources = task.step, dict(task.resources)
    if isinstance(step, BatchedStep):
        batched = step

        def call_batch(i: int) -> Any:
            items = [inputs[(i * size + j) % len(inputs)] for j in range(size)]
            columns = {name: [item[name] for item in items] for name in inputs[0]}
            return batched.call_batch(columns, resources)

        return call_batch

    def call(i: int) -> Any:
        result = step.fn(**inputs[i % len(inputs)], **resources)
        return run_here(result) if step.is_async else result

    return call


def _timed(call: Callable[[int], Any], seconds: float, clock: Callable[[], float]) -> list[float]:
    """Duration of each call in seconds, after one warm-up call."""
    call(0)
    times: list[float] = []
    until = clock() + seconds
    while len(times) < 3 or clock() < until:
        began = clock()
        call(len(times))
        times.append(clock() - began)
    return times
