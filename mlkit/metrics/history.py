"""Metrics of the last 15 minutes as samples by time, step, stage or replica."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from mlkit.errors import InputError
from mlkit.metrics.histogram import Histogram
from mlkit.metrics.recorder import Delta

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["By", "History", "Sample", "samples_of"]

KEEP_S = 900.0
By = Literal["app", "step", "stage", "replica"]
_OF_PROCESSES = ("in_flight", "cpu", "rss_mb", "gpu_mb", "received", "sent")
"""Columns that are known for processes, and not for the steps in them."""
_ITEMS = {"first": "first_items", "between": "between_items"}
"""Fields of `Sample` by their names in a delta."""
_PERCENTS = (50, 95, 99)


@dataclass(kw_only=True)
class Sample:
    """Metrics of one interval, for the app or a part of it.

    Attributes:
        at: end of the interval, in seconds since the epoch.
        span_s: its length in seconds.
        of: the step, stage or replica; "" for the app.
        requests: number of responses (of a step: executions).
        status: responses by status code.
        held: latency of requests in the server (of a step: its run time); until the last item of
            those that stream.
        first_items: time from receiving a request to its first item.
        between_items: time from one item of a request to the next.
        waited: time that requests waited for a step.
        waited_s: sum of the waiting times.
        errors: responses of 500 and above except 503 (of a step: requests that failed in it).
        rejected: responses 429 and 503.
        sizes: number of items by the size of their batch.
        in_flight: requests in flight at the end.
        queued: requests waiting for a worker at the end.
        cpu: cores used.
        rss: resident memory in bytes, summed over processes.
        gpu: GPU memory in bytes; None without a GPU.
        bytes: bytes received and sent.
        processes: number of processes that reported.
    """

    at: float
    span_s: float
    of: str = ""
    requests: int = 0
    status: Counter[str] = field(default_factory=Counter)
    held: Histogram = field(default_factory=Histogram)
    first_items: Histogram = field(default_factory=Histogram)
    between_items: Histogram = field(default_factory=Histogram)
    waited: Histogram = field(default_factory=Histogram)
    waited_s: float = 0.0
    errors: int = 0
    rejected: int = 0
    sizes: Counter[int] = field(default_factory=Counter)
    in_flight: int = 0
    queued: int = 0
    cpu: float = 0.0
    rss: int = 0
    gpu: int | None = None
    bytes: tuple[int, int] = (0, 0)
    processes: int = 0

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.span_s if self.span_s else 0.0

    @property
    def mean_batch(self) -> float:
        """Mean number of items per call; NaN without batches."""
        calls = sum(count / size for size, count in self.sizes.items())
        return sum(self.sizes.values()) / calls if calls else math.nan

    @property
    def mean_wait_s(self) -> float:
        """Mean waiting time per request in seconds; 0 without requests."""
        return self.waited_s / self.requests if self.requests else 0.0

    def merge(self, other: Sample) -> None:
        """Add the counts of another interval or process; gauges do not change."""
        self.requests += other.requests
        self.status.update(other.status)
        self.held.add(other.held)
        self.first_items.add(other.first_items)
        self.between_items.add(other.between_items)
        self.waited.add(other.waited)
        self.waited_s += other.waited_s
        self.errors += other.errors
        self.rejected += other.rejected
        self.sizes.update(other.sizes)
        self.bytes = (self.bytes[0] + other.bytes[0], self.bytes[1] + other.bytes[1])

    def to_row(self) -> dict[str, Any]:
        """The sample as a row; latencies in ms, those of items only if requests have any."""
        p50, p95, p99 = (1e3 * s for s in self.held.percentiles_s(50, 95, 99))
        wait = 1e3 * self.waited.percentile_s(50)
        row: dict[str, Any] = {
            "rate": self.rate,
            "p50_ms": p50,
            "p95_ms": p95,
            "p99_ms": p99,
            "wait_p50_ms": wait,
        }
        counts = ("requests", "errors", "rejected", "in_flight", "queued", "mean_batch", "cpu")
        row |= {name: getattr(self, name) for name in counts}
        received, sent = self.bytes
        gpu_mb = math.nan if self.gpu is None else self.gpu / 1e6
        row |= {"rss_mb": self.rss / 1e6, "gpu_mb": gpu_mb}
        row |= {"received": received, "sent": sent}
        if not self.first_items.count:
            return row
        return row | {
            f"{name}_p{percent}_ms": 1e3 * seconds
            for name in _ITEMS.values()
            for percent, seconds in zip(
                _PERCENTS, getattr(self, name).percentiles_s(*_PERCENTS), strict=True
            )
        }


class History:
    """Deltas of the last `keep_s` seconds, and the samples computed from them."""

    def __init__(self, keep_s: float = KEEP_S) -> None:
        self.keep_s = keep_s
        self.deltas: deque[Delta] = deque()

    def add(self, deltas: Iterable[Delta]) -> None:
        """Add deltas, in order of arrival."""
        for delta in deltas:
            self.deltas.append(delta)
        if self.deltas:
            oldest = self.deltas[-1]["at"] - self.keep_s
            while self.deltas[0]["at"] < oldest:
                self.deltas.popleft()

    @property
    def at(self) -> float | None:
        """Time of the latest delta, in seconds since the epoch; None before the first."""
        return max((delta["at"] for delta in self.deltas), default=None)

    def samples(
        self,
        *,
        by: By = "app",
        last_s: float | None = None,
        every_s: float = 1.0,
        now: float | None = None,
    ) -> list[Sample]:
        """Compute samples per interval and part.

        Args:
            by: "app", or "step", "stage" or "replica" for one sample of each.
            last_s: length of the period in seconds; all that is kept by default.
            every_s: length of an interval in seconds; at least 0.5, the push interval.
            now: end of the last interval; by default the time of the latest delta.

        Raises:
            InputError: ``every_s`` is too short, or ``by`` is unknown.
        """
        if every_s < 0.5:
            raise InputError("every_s is too short", expected="at least 0.5 s", got=repr(every_s))
        end = now if now is not None else self.at
        if end is None:
            return []
        first = -math.inf if last_s is None else end - last_s
        slots: dict[tuple[int, str], list[tuple[Delta, Delta]]] = {}
        for delta in self.deltas:
            if not first < delta["at"] <= end:
                continue
            slot = math.floor((end - delta["at"]) / every_s)
            for name, part in _parts(delta, by):
                slots.setdefault((-slot, name), []).append((delta, part))
        return [
            _sample(end + slot * every_s, every_s, name, parts, by)
            for (slot, name), parts in sorted(slots.items())
        ]

    def whole(self, last_s: float, *, by: By = "app", now: float | None = None) -> list[Sample]:
        """Compute one sample per part over the last ``last_s`` seconds."""
        return self.samples(by=by, last_s=last_s, every_s=max(last_s, 0.5) + 1e-6, now=now)

    def to_frame(
        self, *, by: By = "app", last_s: float | None = None, every_s: float = 1.0
    ) -> pd.DataFrame:
        """A row per interval and part, with the columns of `Sample.to_row`; latencies in ms.

        NaN stands for what is unknown: of a step, CPU, memory, bytes and requests in flight. With
        requests that stream, there are columns for the time to the first item and between items.

        See `samples` for the arguments.
        """
        import pandas as pd

        samples = self.samples(by=by, last_s=last_s, every_s=every_s)
        rows = [
            {"time": pd.Timestamp(s.at, unit="s", tz="UTC")}
            | ({} if by == "app" else {by: s.of})
            | s.to_row()
            | (dict.fromkeys(_OF_PROCESSES, math.nan) if by == "step" else {})
            for s in samples
        ]
        names = ["time", *([] if by == "app" else [by]), *Sample(at=0, span_s=1).to_row()]
        columns = {**dict.fromkeys(names), **{name: None for row in rows for name in row}}
        return pd.DataFrame(rows, columns=list(columns))


def samples_of(delta: Delta) -> list[tuple[By, Sample]]:
    """Compute samples of the app, the stage and the steps from one delta.

    For frequent reads: without the histograms of waiting times.
    """
    at, span_s = delta["at"], max(delta["span_s"], 1e-3)
    stage = Sample(at=at, span_s=span_s, of=delta["stage"])
    _add_requests(stage, delta)
    stage.cpu, stage.rss = delta["cpu_s"] / span_s, delta["rss"]
    stage.gpu = delta.get("gpu")
    stage.in_flight = int(delta.get("in_flight", 0))
    queued = delta.get("queued", {})
    stage.queued = sum(queued.values())
    app = Sample(at=at, span_s=span_s, cpu=stage.cpu, rss=stage.rss, queued=stage.queued)
    app.gpu = stage.gpu
    if delta["front"]:
        app.merge(stage)
        app.in_flight = stage.in_flight
    samples: list[tuple[By, Sample]] = [("app", app), ("stage", stage)]
    for name in {**delta["steps"], **queued}:
        step = Sample(at=at, span_s=span_s, of=name, queued=int(queued.get(name, 0)))
        if name in delta["steps"]:
            _add_step(step, {**delta["steps"][name], "wait": ""})
        samples.append(("step", step))
    return samples


def _parts(delta: Delta, by: By) -> Iterable[tuple[str, Delta]]:
    if by == "step":
        return [(name, step) for name, step in delta["steps"].items()]
    if by == "stage":
        return [(delta["stage"], delta)]
    if by == "replica":
        return [(f"{delta['stage']} {delta['process']}", delta)]
    if by == "app":
        return [("", delta)]
    raise InputError("unknown value of by", expected="app, step, stage or replica", got=repr(by))


def _sample(
    at: float, span_s: float, of: str, parts: Sequence[tuple[Delta, Delta]], by: By
) -> Sample:
    sample = Sample(at=at, span_s=span_s, of=of)
    if by == "step":
        queued = {}  # the last reading of each process
        for delta, part in parts:
            _add_step(sample, part)
            queued[delta["process"]] = int(delta.get("queued", {}).get(of, 0))
        sample.queued = sum(queued.values())
        return sample
    last: dict[str, Delta] = {}
    received = sent = 0
    for delta, _ in parts:
        last[delta["process"]] = delta
        if delta["front"] or by != "app":
            _add_requests(sample, delta)
        sample.cpu += delta["cpu_s"] / span_s
        received, sent = received + delta["bytes"][0], sent + delta["bytes"][1]
        for step in delta["steps"].values():
            sample.sizes += Counter({int(k): n for k, n in step["sizes"].items()})
            if step["wait"]:
                sample.waited.add(Histogram(step["wait"]))
    sample.bytes = received, sent
    sample.processes = len(last)
    sample.in_flight = sum(
        int(delta.get("in_flight", 0)) for delta in last.values() if delta["front"] or by != "app"
    )
    sample.queued = sum(sum(delta.get("queued", {}).values()) for delta in last.values())
    sample.rss = sum(delta["rss"] for delta in last.values())
    on_gpu = [delta["gpu"] for delta in last.values() if "gpu" in delta]
    sample.gpu = sum(on_gpu) if on_gpu else None
    return sample


def _add_requests(sample: Sample, delta: Delta) -> None:
    sample.status.update(delta["status"])
    sample.requests += sum(delta["status"].values())
    sample.rejected += sum(delta["status"].get(code, 0) for code in ("429", "503"))
    sample.errors += sum(n for code, n in delta["status"].items() if code >= "500")
    sample.errors -= delta["status"].get("503", 0)  # those are rejections
    if delta["held"]:
        sample.held.add(Histogram(delta["held"]))
    for name, items in delta["items"].items():
        getattr(sample, _ITEMS[name]).add(Histogram(items["held"]))


def _add_step(sample: Sample, step: Delta) -> None:
    if step["run"]:
        run_times = Histogram(step["run"])
        sample.requests += run_times.count
        sample.held.add(run_times)
    if step["wait"]:
        sample.waited.add(Histogram(step["wait"]))
    sample.waited_s += step["wait_s"]
    sample.errors += step["errors"]
    sample.sizes += Counter({int(k): n for k, n in step["sizes"].items()})
