"""Counting what one process does, and handing on what was new every half second.

Counting a request appends numbers to lists; they become histograms on a thread, when they are
handed on. What is handed on is a `Delta`: plain data that adds up.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from mlkit.metrics.gpu import gpu_bytes, gpu_share
from mlkit.metrics.histogram import Histogram, bucket_counts
from mlkit.metrics.peek import sample
from mlkit.metrics.trace import Span, Trace

__all__ = ["PUSH_EVERY_S", "Delta", "Recorder"]

logger = logging.getLogger(__name__)

PUSH_EVERY_S = 0.5
RECENT_S = 2.0
MOST_RECENT = 2_000
MOST_TRACES = 200
"""In one delta: more than come in half a second on a few cores."""

Delta: TypeAlias = dict[str, Any]
"""What one process counted in a while: see `Recorder.take`."""


class Recorder:
    """Counts of one process, for one app.

    Args:
        stage: the process's.
        push: is given each delta, on a thread of this; where it raises, the delta is kept and goes
            with the next. What it gives back are the steps that somebody wants to look into.
        front: whether it answers requests; what comes to other stages are calls of the front's.
        gauges: gives what is going on at the moment: ``in_flight`` and ``queued`` by step.
        every_s: seconds from one delta to the next.
        now: seconds since the epoch.
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
        self._process = secrets.token_hex(4)  # process ids of several nodes may be the same
        self._number = 0
        self._since = now()
        self._cpu_s = time.process_time()
        self._pending: deque[Delta] = deque(maxlen=4)
        self.peeking: frozenset[str] = frozenset()
        self._recent: deque[tuple[float, float]] = deque(maxlen=MOST_RECENT)
        self._cpu_before = (time.perf_counter(), self._cpu_s)
        self._clear()
        self._stop = threading.Event()
        if push is not None:
            threading.Thread(target=self._run, name="mlkit-metrics", daemon=True).start()

    def _clear(self) -> None:
        self._held: list[float] = []
        self._status: Counter[int] = Counter()
        self._bytes = [0, 0]
        self._steps: dict[str, list[tuple[float, float]]] = {}
        self._sizes: dict[str, Counter[int]] = {}
        self._errors: Counter[str] = Counter()
        self._traces: list[Trace] = []
        self._peeks: dict[str, tuple[str, Mapping[str, Any], Any]] = {}

    # ---- counting ---------------------------------------------------------------------------

    def request(self, trace: Trace, received: int, sent: int) -> None:
        """Count a request that was answered.

        Args:
            trace: where its time went.
            received: bytes of its body.
            sent: bytes of the answer's.
        """
        with self._lock:  # `take` must not come in between
            self._held.append(trace.total_s)
            self._recent.append((time.perf_counter(), trace.total_s))
            self._status[trace.status] += 1
            self._bytes[0] += received
            self._bytes[1] += sent
            if len(self._traces) < MOST_TRACES:
                self._traces.append(trace)

    def called(self, held_s: float, status: int) -> None:
        """Count a call of a stage that answers no requests itself."""
        with self._lock:
            self._held.append(held_s)
            self._recent.append((time.perf_counter(), held_s))
            self._status[status] += 1

    def steps(self, spans: Sequence[Span], failed: str | None = None) -> None:
        """Count the steps of a request that ran in this process."""
        with self._lock:
            for span in spans:
                self._steps.setdefault(span.step, []).append((span.waited_s, span.took_s))
                if span.batch:
                    self._sizes.setdefault(span.step, Counter())[span.batch] += 1
            if failed is not None:
                self._errors[failed] += 1

    def peeked(self, step: str, id: str, inputs: Mapping[str, Any], output: Any) -> None:
        """Keep what went in and came out of a step that is looked into: one in each half second."""
        with self._lock:
            self._peeks.setdefault(step, (id, inputs, output))

    def recent(self) -> dict[str, float]:
        """How it goes at the moment, for a policy that scales by it.

        ``rate`` in calls per second and ``p50_ms``, ``p95_ms``, ``p99_ms`` of how long they were
        held, over the last `RECENT_S`; ``cpu`` in cores since it was asked the last time; ``gpu``
        as a share of one, where torch uses one and NVIDIA's library says so.
        """
        at, cpu_s = time.perf_counter(), time.process_time()
        with self._lock:
            while self._recent and self._recent[0][0] < at - RECENT_S:
                self._recent.popleft()
            held = sorted(held for _, held in self._recent)
            before_at, before_s = self._cpu_before
            self._cpu_before = at, cpu_s
        found = {
            "rate": len(held) / RECENT_S,
            "cpu": (cpu_s - before_s) / max(at - before_at, 1e-3),
        }
        for percentile in (50, 95, 99) if held else ():
            rank = -(-percentile * len(held) // 100) - 1  # the nearest rank
            found[f"p{percentile}_ms"] = 1e3 * held[rank]
        gpu = gpu_share()
        return found if gpu is None else found | {"gpu": gpu}

    # ---- handing on -------------------------------------------------------------------------

    def take(self) -> Delta:
        """What was counted since the last time, as plain data.

        ``stage, pid, at, span_s``, and ``process`` and ``number``, by which one that comes twice is
        known; ``held`` and each step's ``wait`` and ``run`` as encoded
        histograms with exact ``buckets`` beside; ``status`` and batch ``sizes`` (items that were in
        a batch of each size); ``bytes`` in and out; ``errors`` by step; the gauges ``in_flight``
        and ``queued``; ``cpu_s`` used, ``rss`` in bytes; ``traces``, packed.
        """
        with self._lock:
            held, status, transferred = self._held, self._status, self._bytes
            steps, sizes, errors, traces = self._steps, self._sizes, self._errors, self._traces
            peeks = self._peeks
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
            "status": {str(code): count for code, count in status.items()},
            "bytes": transferred,
            "steps": {
                name: _step(times, sizes.get(name, {}), errors.get(name, 0))
                for name, times in steps.items()
            },
            "cpu_s": used,
            "rss": resident_bytes(),
            "traces": [trace.pack() for trace in traces],
            "peeks": [
                {"step": step, "id": id, "at": at, **sample(inputs, output)}
                for step, (id, inputs, output) in peeks.items()
            ],
            **self.gauges(),
        }
        gpu = gpu_bytes()
        if gpu is not None:
            delta["gpu"] = gpu
        return delta

    def flush(self) -> None:
        """Hand on what there is now."""
        if self._push is None:
            return
        self._pending.append(self.take())
        while self._pending:
            wanted = self._push(self._pending[0])
            self._pending.popleft()
            self.peeking = frozenset(wanted or ())

    def close(self) -> None:
        """Stop; what was counted since the last time is handed on, if anybody takes it."""
        self._stop.set()

    def _run(self) -> None:
        told = last = False
        while not last:
            last = self._stop.wait(self._every_s)
            try:
                self.flush()
                told = False
            except Exception as error:
                if not told:  # nobody gathers at the moment; it is tried again
                    logger.warning("what was counted could not be handed on: %s", error)
                told = True


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


def resident_bytes() -> int:
    """Memory of this process that is in RAM, in bytes."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123  # twice a second
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import psutil

        return int(psutil.Process().memory_info().rss)
