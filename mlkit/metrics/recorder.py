"""Metrics of one process, recorded cheaply and pushed every half second.

Recording a request appends numbers to lists; a background thread converts them to histograms and
pushes these as a `Delta`: plain data that can be summed.
"""

from __future__ import annotations

import heapq
import logging
import os
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise, zip_longest
from random import random
from typing import Any, TypeAlias

from mlkit.metrics.compare import Comparisons, Values, merge
from mlkit.metrics.gpu import gpu_bytes, gpu_share
from mlkit.metrics.histogram import Histogram, bucket_counts
from mlkit.metrics.peek import sample
from mlkit.metrics.pools import pool_reports
from mlkit.metrics.recent import Recent
from mlkit.metrics.trace import Span, Trace

__all__ = ["PUSH_EVERY_S", "SLOWEST", "Delta", "Recorder"]

logger = logging.getLogger(__name__)

PUSH_EVERY_S = 0.5
MAX_PENDING = 20
"""Maximum number of unpushed deltas; later ones are merged into the last."""
SLOWEST = 100
"""Number of slowest traces kept per delta."""
SAMPLED = 200
"""Size of the uniform sample of traces kept per delta in addition."""

Delta: TypeAlias = dict[str, Any]
"""Counts of one process in an interval: see `Recorder.take`."""
_SUMMED = ("span_s", "held", "buckets", "held_s", "status", "bytes", "steps", "items", "cpu_s")


class Recorder:
    """Records the metrics of one process, for one app.

    Args:
        stage: the stage of the process.
        push: receives each delta, on the recorder's thread; if it raises, the delta is kept and
            pushed again. It returns the steps to sample for peeking.
        front: whether the process receives HTTP requests, rather than calls from the front.
        gauges: returns the current ``in_flight``, and ``queued`` by step.
        every_s: interval between deltas in seconds.
        now: clock in seconds since the epoch.
    """

    def __init__(
        self,
        stage: str,
        push: Callable[[Delta], Iterable[str] | None] | None = None,
        *,
        front: bool = True,
        gauges: Callable[[], Mapping[str, Any]] = dict,
        every_s: float = PUSH_EVERY_S,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.stage = stage
        self.front = front
        self.gauges = gauges
        self._push = push
        self._every_s = every_s
        self._now = now
        self._lock = threading.Lock()
        self._process = secrets.token_hex(4)  # process ids are not unique across nodes
        self._number = 0
        self._since = now()
        self._cpu_s = time.process_time()
        self._pending: deque[Delta] = deque()
        self.peeking: frozenset[str] = frozenset()
        self._recent = Recent()
        self._cpu_before = (time.perf_counter(), self._cpu_s)
        self._clear()
        self._stop = threading.Event()
        if push is not None:
            threading.Thread(target=self._run, name="mlkit-metrics", daemon=True).start()

    def _clear(self) -> None:
        self._held: list[float] = []
        self._first_items: list[float] = []
        self._between_items: list[float] = []
        self._status: Counter[int] = Counter()
        self._bytes = [0, 0]
        self._steps: dict[str, list[tuple[float, float]]] = {}
        self._sizes: dict[str, Counter[int]] = {}
        self._errors: Counter[str] = Counter()
        self._slowest: list[tuple[float, int, Trace]] = []
        self._sampled: list[Trace] = []
        self._peeks: dict[str, tuple[str, Mapping[str, Any], Any]] = {}
        self._compared: dict[str, Comparisons] = {}

    # ---- counting ---------------------------------------------------------------------------

    def request(
        self, trace: Trace, received: int, sent: int, item_times: Sequence[float] = ()
    ) -> None:
        """Record a request after its response.

        Args:
            trace: the request's trace.
            received: size of its body in bytes.
            sent: size of the response's body in bytes.
            item_times: when each of its items was made, in seconds since it was received.
        """
        with self._lock:  # atomic with regard to `take`
            self._held.append(trace.total_s)
            if item_times:
                self._first_items.append(item_times[0])
                self._between_items += [later - earlier for earlier, later in pairwise(item_times)]
            self._recent.add(time.perf_counter(), trace.total_s)
            self._status[trace.status] += 1
            self._bytes[0] += received
            self._bytes[1] += sent
            self._keep(trace)

    def _keep(self, trace: Trace) -> None:
        """Keep a trace if it is among the slowest, or selected for the sample (Vitter's R)."""
        seen = len(self._held)  # a unique tie-breaker: traces cannot be compared
        if len(self._slowest) < SLOWEST:
            heapq.heappush(self._slowest, (trace.total_s, seen, trace))
        elif trace.total_s > self._slowest[0][0]:
            heapq.heapreplace(self._slowest, (trace.total_s, seen, trace))
        if len(self._sampled) < SAMPLED:
            self._sampled.append(trace)
        elif (place := int(random() * seen)) < SAMPLED:
            self._sampled[place] = trace

    def called(self, held_s: float, status: int) -> None:
        """Record a call of a stage other than the front, and its HTTP status."""
        with self._lock:
            self._held.append(held_s)
            self._recent.add(time.perf_counter(), held_s)
            self._status[status] += 1

    def steps(self, spans: Sequence[Span], failed: str | None = None) -> None:
        """Record the steps of a request that ran in this process."""
        with self._lock:
            for span in spans:
                self._steps.setdefault(span.step, []).append((span.waited_s, span.took_s))
                if span.batch:
                    self._sizes.setdefault(span.step, Counter())[span.batch] += 1
            if failed is not None:
                self._errors[failed] += 1

    def peeked(self, step: str, id: str, inputs: Mapping[str, Any], output: Any) -> None:
        """Record inputs and output of a step for peeking; at most one sample per delta is kept."""
        with self._lock:
            self._peeks.setdefault(step, (id, inputs, output))

    def compared(self, version: str, values: Values | None, differing: Sequence[str] = ()) -> None:
        """Record that a version on trial has seen a copy of a request.

        Args:
            version: the version.
            values: arguments, result, and that of the version on trial; None if they agree.
            differing: paths at which the results differ.
        """
        with self._lock:
            self._compared.setdefault(version, Comparisons()).add(values, differing)

    def dropped(self, version: str) -> None:
        """Record that a sampled request was not compared, for lack of time."""
        with self._lock:
            self._compared.setdefault(version, Comparisons()).dropped += 1

    def recent(self) -> dict[str, float]:
        """Return the current load, for an autoscaling policy.

        ``rate`` in calls per second, and their latency as ``p50_ms``, ``p95_ms``, ``p99_ms``, over
        the last two seconds; ``cpu`` in cores since the previous call of this method; ``gpu`` as a
        share of one GPU, if torch uses one and ``nvidia-ml-py`` is installed.
        """
        at, cpu_s = time.perf_counter(), time.process_time()
        with self._lock:
            reading = self._recent.read(at)
            before_at, before_s = self._cpu_before
            self._cpu_before = at, cpu_s
        reading["cpu"] = (cpu_s - before_s) / max(at - before_at, 1e-3)
        gpu = gpu_share()
        return reading if gpu is None else reading | {"gpu": gpu}

    # ---- pushing ----------------------------------------------------------------------------

    def take(self) -> Delta:
        """Return the metrics recorded since the previous call, as plain data.

        ``stage, pid, at, span_s``, and ``process`` and ``number``, which identify a delta that is
        pushed twice; ``held`` and each step's ``wait`` and ``run`` as encoded histograms, with
        exact ``buckets``; ``items``, the times to the ``first`` item of requests that stream, and
        ``between`` items, likewise; ``status``, and batch ``sizes`` (items by size of their batch);
        ``bytes`` received and sent; ``errors`` by step; the gauges ``in_flight`` and ``queued``;
        ``cpu_s`` used, ``rss`` in bytes; ``pools``, a report of each pool of models; ``traces``,
        packed.
        """
        gauges = self.gauges()  # first: if it raises, nothing is lost
        with self._lock:
            held, status, transferred = self._held, self._status, self._bytes
            first_items, between_items = self._first_items, self._between_items
            steps, sizes, errors, peeks = self._steps, self._sizes, self._errors, self._peeks
            compared = self._compared
            traces = {id(t): t for t in (*self._sampled, *(entry[2] for entry in self._slowest))}
            self._clear()
            at, cpu_s = self._now(), time.process_time()
            since, self._since = self._since, at
            used, self._cpu_s = cpu_s - self._cpu_s, cpu_s
            self._number += 1
        delta: Delta = {
            "stage": self.stage,
            "front": self.front,
            "process": self._process,
            "number": self._number,
            "pid": os.getpid(),
            "at": at,
            "span_s": at - since,
            "held": _encoded(held),
            "buckets": bucket_counts(held) if held else [],
            "held_s": sum(held),
            "items": {
                name: {
                    "held": _encoded(times),
                    "buckets": bucket_counts(times),
                    "held_s": sum(times),
                }
                for name, times in (("first", first_items), ("between", between_items))
                if times
            },
            "status": {str(code): count for code, count in status.items()},
            "bytes": transferred,
            "steps": {
                name: _step(times, sizes.get(name, {}), errors.get(name, 0))
                for name, times in steps.items()
            },
            "cpu_s": used,
            "rss": _resident_bytes(),
            "traces": [trace.pack() for trace in traces.values()],
            "peeks": [
                {"step": step, "id": id, "at": at, **sample(inputs, output)}
                for step, (id, inputs, output) in peeks.items()
            ],
            "compared": {version: each.pack(at) for version, each in compared.items()},
            **gauges,
        }
        gpu = gpu_bytes()
        if gpu is not None:
            delta["gpu"] = gpu
        pools = pool_reports()
        if pools:
            delta["pools"] = pools
        return delta

    def flush(self) -> None:
        """Push the current delta, after those that could not be pushed before.

        A delta that failed to be pushed is not changed afterwards: it may have arrived, and is then
        recognized by its number.
        """
        if self._push is None:
            return
        delta = self.take()
        if len(self._pending) == MAX_PENDING:
            delta = merged(self._pending.pop(), delta)
        self._pending.append(delta)
        while self._pending:
            peeked = self._push(self._pending[0])
            self._pending.popleft()
            self.peeking = frozenset(peeked or ())

    def close(self) -> None:
        """Stop after a final push."""
        self._stop.set()

    def _run(self) -> None:
        warned = last = False
        while not last:
            last = self._stop.wait(self._every_s)
            try:
                self.flush()
                warned = False
            except Exception as error:
                if not warned:
                    logger.warning(
                        "metrics could not be pushed, and are kept for a retry: %s", error
                    )
                warned = True


def merged(earlier: Delta, later: Delta) -> Delta:
    """Merge two successive deltas of one process: sums of counts, and the later gauges.

    To bound memory, only the slowest traces and one peek per step are kept.
    """
    traces = [*earlier["traces"], *later["traces"]]
    peeks = {peek["step"]: peek for peek in (*later["peeks"], *earlier["peeks"])}
    return {
        **later,
        **{name: _sum(earlier[name], later[name]) for name in _SUMMED},
        "traces": heapq.nlargest(SLOWEST + SAMPLED, traces, key=lambda trace: trace[2]),
        "peeks": list(peeks.values()),
        "compared": merge(earlier["compared"], later["compared"]),
    }


def _sum(a: Any, b: Any) -> Any:
    """Add numbers, lists of them, encoded histograms, or dicts of any of these."""
    if isinstance(a, dict):
        return {**a, **b, **{key: _sum(a[key], b[key]) for key in a.keys() & b.keys()}}
    if isinstance(a, list):
        return [x + y for x, y in zip_longest(a, b, fillvalue=0)]
    if isinstance(a, str) and a and b:
        total = Histogram(a)
        total.add(Histogram(b))
        return total.encode()
    return a + b


def _encoded(seconds: Sequence[float]) -> str:
    return Histogram.of(seconds).encode() if seconds else ""


def _step(times: list[tuple[float, float]], sizes: Mapping[int, int], errors: int) -> Delta:
    waits, runs = [wait for wait, _ in times], [run for _, run in times]
    return {
        "wait": _encoded(waits),
        "run": _encoded(runs),
        "buckets": bucket_counts(runs),
        "run_s": sum(runs),
        "wait_s": sum(waits),
        "sizes": {str(size): count for size, count in sizes.items()},
        "errors": errors,
    }


def _resident_bytes() -> int:
    """Memory of this process that is in RAM, in bytes."""
    import psutil

    return int(psutil.Process().memory_info().rss)
