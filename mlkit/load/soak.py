"""Load tests of hours and days in bounded memory: `soak`."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from mlkit.errors import LoadError, entry_point
from mlkit.load import hdr
from mlkit.load.arrivals import Arrivals
from mlkit.load.collect import client_cost, collect, failure_samples
from mlkit.load.options import SoakOptions, settings_of
from mlkit.load.preparation import LoadPlan, prepare
from mlkit.load.process import WorkerProcess, WorkerReport
from mlkit.load.records import ClientCost, FailureSample
from mlkit.load.requests import Preparable
from mlkit.load.results import LoadResult
from mlkit.load.running import LoadRun, follow
from mlkit.load.runstore import record
from mlkit.load.slo import SHARES
from mlkit.load.spec import check_integer, check_positive
from mlkit.load.validity import void_reasons
from mlkit.metrics.histogram import Histogram

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Intervals", "SoakInterval", "SoakResult", "soak"]

KEEP = 10_000
INTERVAL_S = 10.0
MAX_INTERVALS = 360


@dataclass(frozen=True)
class SoakInterval:
    """The requests that were answered within an interval.

    Attributes:
        start_s: its start, in seconds from the start of the measured part.
        end_s: its end.
        errors: number of failed requests by kind.
        latency: of the successful ones, from the scheduled time to the last byte.
        lateness: how late the generator sent them.
    """

    start_s: float
    end_s: float
    errors: Mapping[str, int]
    latency: Histogram
    lateness: Histogram

    @property
    def ok(self) -> int:
        """Number of successful requests."""
        return self.latency.count

    @property
    def failed(self) -> int:
        """Number of failed requests."""
        return sum(self.errors.values())

    def percentile_ms(self, share: float) -> float:
        """A percentile of the latency, accurate to one per cent; that of a failure is infinite."""
        count = self.ok + self.failed
        if not count:
            return math.nan
        rank = max(1, math.ceil(share * count - 1e-9))
        if rank > self.ok:
            return math.inf
        return 1e3 * self.latency.percentile_s(100 * rank / self.ok)


class Intervals:
    """The intervals of a run, at most ``most`` of them: beyond that, neighbours are merged."""

    def __init__(self, most: int = MAX_INTERVALS) -> None:
        self._most = most
        self._intervals: list[SoakInterval] = []

    def add(self, figures: Mapping[str, Any]) -> None:
        """Append the figures of an interval, as the generator sends them."""
        histograms = {name: Histogram(figures[name]) for name in ("latency", "lateness")}
        self._intervals.append(SoakInterval(**{**figures, **histograms}))
        if len(self._intervals) > self._most:
            pairs = [self._intervals[k : k + 2] for k in range(0, len(self._intervals), 2)]
            self._intervals = [merged(pair) for pair in pairs]

    def get(self) -> tuple[SoakInterval, ...]:
        """Return the intervals, in their order."""
        return tuple(self._intervals)


def merged(intervals: Collection[SoakInterval]) -> SoakInterval:
    """Merge intervals: the histograms are those of all their requests."""
    latency, lateness = Histogram(), Histogram()
    errors: dict[str, int] = {}
    for interval in intervals:
        latency.add(interval.latency)
        lateness.add(interval.lateness)
        for kind, count in interval.errors.items():
            errors[kind] = errors.get(kind, 0) + count
    start_s = min((interval.start_s for interval in intervals), default=0.0)
    end_s = max((interval.end_s for interval in intervals), default=0.0)
    return SoakInterval(start_s, end_s, errors, latency, lateness)


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class SoakResult:
    """The figures of a `soak`: all requests in histograms, and a sample of the raw records.

    Attributes:
        arrivals: the arrival process.
        target: the server, as text.
        duration_s: length of the measured part.
        slo_ms: latency objective for p99 in ms, or None.
        started: start of the measured part, as Unix time in seconds.
        interrupted: whether it was stopped early; one without an end always is.
        client: resource use of the generator.
        failures: the first failures of each kind.
        intervals: figures of all requests over time.
        sample: raw records of requests drawn uniformly from all; its counts and rates are those of
            the sample.
    """

    arrivals: Arrivals
    target: str
    duration_s: float
    slo_ms: float | None
    started: float
    interrupted: bool
    client: ClientCost
    failures: tuple[FailureSample, ...]
    intervals: tuple[SoakInterval, ...]
    sample: LoadResult

    @cached_property
    def total(self) -> SoakInterval:
        """All requests, as a single interval."""
        return merged(self.intervals)

    def __len__(self) -> int:
        return self.total.ok + self.total.failed

    @property
    def errors(self) -> dict[str, int]:
        """Number of failed requests by kind."""
        return dict(self.total.errors)

    @property
    def ok_rate(self) -> float:
        """Throughput: successful responses per second, until the last response."""
        return self.total.ok / self.total.end_s if self.total.end_s else 0.0

    @property
    def sent_rate(self) -> float:
        """Requests per second that were sent."""
        sent = len(self) - self.errors.get("unsent", 0)
        return sent / self.duration_s if self.duration_s else 0.0

    @cached_property
    def percentiles(self) -> dict[str, float]:
        """p50, p95, p99 and p99_9 of the latency in ms, accurate to one per cent.

        The latency of a failed request is infinite.
        """
        return {name: self.total.percentile_ms(share) for name, share in SHARES.items()}

    @property
    def lateness_p99_ms(self) -> float:
        """p99 of how late requests were sent; NaN without requests."""
        return 1e3 * self.total.lateness.percentile_s(99)

    @property
    def void(self) -> tuple[str, ...]:
        """Why the figures are not valid; empty for a valid run."""
        closed = self.arrivals.opening_rate is None
        return void_reasons(
            self.arrivals,
            self.client,
            lateness_p99_ms=self.lateness_p99_ms,
            slo_ms=self.slo_ms,
            asked_rate=None if closed else self.sent_rate,  # all due ones are sent, however late
            sent_rate=self.sent_rate,
        )

    def to_frame(self) -> pd.DataFrame:
        """A row per interval: times in s, counts, rate per second, latency percentiles in ms."""
        import pandas as pd

        rows = [
            {
                "start_s": interval.start_s,
                "end_s": interval.end_s,
                "ok": interval.ok,
                "failed": interval.failed,
                "ok_rate": interval.ok / (interval.end_s - interval.start_s),
                **{f"{name}_ms": interval.percentile_ms(share) for name, share in SHARES.items()},
            }
            for interval in self.intervals
        ]
        return pd.DataFrame(rows)

    def summary(self) -> dict[str, Any]:
        """The figures as plain data, ready for JSON; latencies are accurate to one per cent."""
        return {
            "target": self.target,
            "arrivals": self.arrivals.to_dict(),
            "duration_s": self.duration_s,
            "requests": len(self),
            "ok": self.total.ok,
            "errors": self.errors,
            "sent_rate": self.sent_rate,
            "ok_rate": self.ok_rate,
            **{f"{name}_ms": value for name, value in self.percentiles.items()},
            "slo_ms": self.slo_ms,
            "lateness_p99_ms": self.lateness_p99_ms,
            "client_cores": self.client.cores,
            "interrupted": self.interrupted,
            "sampled": len(self.sample),
            "void": list(self.void),
        }

    def save_hgrm(self, path: str | Path) -> Path:
        """Write the percentiles as HdrHistogram's text (``.hgrm``), which its plotters read.

        Failed requests count with the time after which a request counts as failed.
        """
        return hdr.write(path, hdr.of(self.total.latency, self.total.failed, self.sample.timeout_s))

    def __repr__(self) -> str:
        p50, p99 = self.percentiles["p50"], self.percentiles["p99"]
        failed = f"{self.total.failed:,} failed" if self.total.failed else "all ok"
        void = f"; VOID: {'; '.join(self.void)}" if self.void else ""
        return (
            f"<SoakResult {self.arrivals!r} for {self.duration_s:.1f} s: {len(self):,} requests, "
            f"{failed}, {self.ok_rate:,.1f}/s, p50 {p50:.3g} ms, p99 {p99:.3g} ms{void}>"
        )


@overload
def soak(
    target: Preparable | str,
    payloads: Any,
    arrivals: Arrivals,
    *,
    wait: Literal[True] = ...,
    **options: Unpack[SoakOptions],
) -> SoakResult: ...
@overload
def soak(
    target: Preparable | str,
    payloads: Any,
    arrivals: Arrivals,
    *,
    wait: Literal[False],
    **options: Unpack[SoakOptions],
) -> LoadRun[SoakResult]: ...
@entry_point
def soak(
    target: Preparable | str,
    payloads: Any,
    arrivals: Arrivals,
    *,
    duration_s: float | None = None,
    warmup_s: float = 1.0,
    timeout_s: float | None = None,
    slo_ms: float | None = None,
    expect: int | Collection[int] | None = None,
    keep: int = KEEP,
    interval_s: float = INTERVAL_S,
    wait: bool = True,
    progress: bool = True,
    seed: int = 0,
) -> SoakResult | LoadRun[SoakResult]:
    """Run a load test of any length in bounded memory.

    It sends as `load_test` does. Instead of a record of every request it keeps histograms of
    latency by interval, accurate to one per cent, and the raw records of a uniform sample.

    ::

        run = soak(app, payloads, poisson(rate=50), wait=False)
        run.stop().to_frame()  # a row per interval

    Args:
        target: a deployed App, or the URL of any server.
        payloads: as for `load_test`. Payloads that are drawn for each request repeat: there are
            65,536 draws.
        arrivals: as for `load_test`.
        duration_s: length of the measured part in seconds; by default that of the arrivals, or else
            until it is stopped or interrupted.
        warmup_s: seconds of the same load before it, not counted.
        timeout_s: seconds after which a request counts as failed; see `load_test`.
        slo_ms: latency objective for p99 in ms.
        expect: statuses of successes; bodies are not kept, and cannot be checked.
        keep: number of raw records to keep.
        interval_s: length of an interval in seconds. From 360 intervals on, neighbours are merged.
        wait: False returns a `LoadRun` immediately; the test runs in the background.
        progress: show the progress while waiting.
        seed: of the payloads and the sample.

    Raises:
        LoadError: an argument is invalid, or nothing answers at the target.
    """
    check_positive("soak", "interval_s", interval_s, "seconds above 0")
    check_integer("soak", "keep", keep, 1)
    settings = settings_of(
        "soak",
        target,
        arrivals,
        duration_s=duration_s,
        warmup_s=warmup_s,
        timeout_s=timeout_s,
        slo_ms=slo_ms,
        seed=seed,
        endless=True,
    )
    arrivals.check(settings.duration_s)
    endless = {
        "arrivals": arrivals.to_dict(),
        "keep": keep,
        "interval_s": interval_s,
        "seed": seed,
    }
    plan, job = prepare(target, payloads, arrivals, settings, expect, endless=endless)
    if plan.expected.judge is not None:
        raise LoadError(
            "the bodies of responses are not kept",
            where="soak(..., expect=...)",
            expected="a status, or a set of them",
            got=repr(expect),
            fix="load_test(..., expect=...) checks them",
        )
    intervals = Intervals()
    worker = WorkerProcess(job, target=plan.target, warmup_s=warmup_s, on_interval=intervals.add)
    run = LoadRun(plan, worker, lambda plan, report: _collect(plan, report, intervals))
    return follow(run, wait=wait, progress=progress)


def _in_order(sample: LoadResult) -> LoadResult:
    """Sort sampled records by their scheduled times; the reservoir is in no order."""
    import numpy as np

    order = np.argsort(sample.columns["intended"], kind="stable")
    item_times = sample.item_times
    if "items" in sample.columns and len(order):
        ends = np.cumsum(sample.columns["items"])[:-1]
        of_request = np.split(item_times, ends)
        item_times = np.concatenate([of_request[position] for position in order])
    columns = {name: column[order] for name, column in sample.columns.items()}
    return replace(sample, columns=columns, item_times=item_times, sampled=True)


def _collect(plan: LoadPlan, report: WorkerReport, intervals: Intervals) -> SoakResult:
    sample = _in_order(collect(plan, report))
    result = SoakResult(
        arrivals=plan.arrivals,
        target=plan.target,
        duration_s=sample.duration_s,
        slo_ms=plan.settings.slo_ms,
        started=sample.started,
        interrupted=sample.interrupted,
        client=client_cost(report.facts),
        failures=failure_samples(plan, report.facts),
        intervals=intervals.get(),
        sample=sample,
    )
    record(result, code=plan.versions, options=plan.settings._asdict())
    return result
