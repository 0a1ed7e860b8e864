"""What each step takes, measured in this process.

Its latency as a function of the batch size, L(b), and its share of a request's time, of that on a
core, and of that which holds the interpreter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from threading import get_ident
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

from mlkit.define.loop import iterate_here, run_here
from mlkit.define.step import BatchedStep
from mlkit.errors import InputError, entry_point
from mlkit.execute import compile_graph
from mlkit.execute.inputs import arguments_of
from mlkit.execute.program import Task
from mlkit.pipelines import Pipeline, require_pipeline
from mlkit.plan.interpreter import held_s
from mlkit.plan.machine import own_memory

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["BATCH_SIZES", "Cost", "Latency", "Profile", "profile"]

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
class Cost:
    """What a step adds to a request: milliseconds in batches of the chosen size.

    Attributes:
        ms: from the call to the result, at the least: other processes use the cores as well.
        cpu_ms: on a core, in all threads.
        held_ms: of these, with the interpreter locked, so that no other Python runs.
    """

    step: str
    ms: float
    cpu_ms: float
    held_ms: float

    @property
    def held(self) -> float:
        """Share of the step's time that holds the interpreter."""
        return min(1.0, self.held_ms / self.ms) if self.ms else 0.0


@dataclass(frozen=True)
class Profile:
    """Measured latencies of a pipeline's steps, one call at a time.

    Attributes:
        costs: what each step adds to a request.
        memory: bytes that this process has for itself once the pipeline has run: all but files
            that it maps, such as weights, which processes share.
    """

    pipeline: str
    latencies: tuple[Latency, ...]
    costs: tuple[Cost, ...] = ()
    memory: int = 0

    @property
    def limits(self) -> dict[str, int]:
        """For each batched step, the smallest batch size within 5% of the best time per item."""
        steps: dict[str, list[Latency]] = {}
        for latency in self.latencies:
            if latency.batched:
                steps.setdefault(latency.step, []).append(latency)
        return {step: _limit(latencies) for step, latencies in steps.items()}

    def to_frame(self) -> pd.DataFrame:
        """A row per step and batch size; ``held`` is the share that holds the interpreter."""
        import pandas as pd

        limits = self.limits
        held = {cost.step: cost.held for cost in self.costs}
        rows = [
            {
                "step": latency.step,
                "batch_size": latency.batch_size,
                "ms": latency.ms,
                "ms_an_item": latency.ms_an_item,
                "items_per_s": 1e3 / latency.ms_an_item if latency.ms else float("inf"),
                "held": held.get(latency.step),
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
        return self.to_frame().round({"ms": 3, "ms_an_item": 3, "items_per_s": 0, "held": 2})

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
    one call at a time. A batch larger than the number of inputs repeats them. At last, at its best
    batch size, it is called against a thread that competes for the interpreter.

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
    costs: list[Cost] = []
    for task in program.tasks:
        inputs = _recorded_inputs(task, runs)
        if not inputs:  # a branch that none of the inputs took
            continue
        least_ms: dict[int, float] = {}
        cpu_ms: dict[int, float] = {}
        measured: list[Latency] = []
        for size in sorted(set(batch_sizes)) if task.batched else (1,):
            times, cpu_ms[size] = _timed(_call(task, inputs, size), seconds, clock)
            least_ms[size] = 1e3 * min(times)
            ms = 1e3 * median(times)
            measured.append(Latency(task.name, task.batched, size, ms, len(times)))
        size = _limit(measured)
        thread = run_here(_this_thread()) if task.step.is_async else get_ident()
        held_ms = 1e3 * held_s(_call(task, inputs, size), seconds, clock, thread)
        calls = len(inputs) / len(runs) / size
        held_ms = min(held_ms, cpu_ms[size])
        costs.append(Cost(task.name, calls * least_ms[size], calls * cpu_ms[size], calls * held_ms))
        latencies += measured
    return Profile(graph.name, tuple(latencies), tuple(costs), own_memory())


async def _this_thread() -> int:
    return get_ident()


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
            items = [task.keep({**inputs[(i * size + j) % len(inputs)]}) for j in range(size)]
            columns = {name: [item[name] for item in items] for name in inputs[0]}
            return batched.call_batch(columns, resources)

        return call_batch

    def call(i: int) -> Any:
        result = step.fn(**task.keep({**inputs[i % len(inputs)]}), **resources)
        if step.yields:
            return list(iterate_here(result) if step.is_async else result)
        return run_here(result) if step.is_async else result

    return call


def _timed(
    call: Callable[[int], Any], seconds: float, clock: Callable[[], float]
) -> tuple[list[float], float]:
    """Duration of each call in seconds, after one warm-up call, and mean CPU time in ms."""
    call(0)
    times: list[float] = []
    until = clock() + seconds
    cpu_began = process_time()
    while len(times) < 3 or clock() < until:
        began = clock()
        call(len(times))
        times.append(clock() - began)
    return times, 1e3 * (process_time() - cpu_began) / len(times)
