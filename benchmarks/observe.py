"""What observing and autoscaling are claimed to do, measured: ``python -m benchmarks observe``."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from mlkit.define import Graph, ImageSource, step
from mlkit.load import LoadResult, closed, jump, load_test, poisson
from mlkit.load.analysis import ratio
from mlkit.load.records import parse_server_timing
from mlkit.metrics import Recorder, Sample, Span, Trace
from mlkit.metrics.recorder import PUSH_EVERY_S
from mlkit.pipelines import pipeline
from mlkit.serving import App, deploy
from mlkit.serving.kernel.session import Session
from mlkit.tagging import (
    colours,
    combine,
    decode,
    download,
    imagenet_labels,
    localise,
    look,
    product_class,
    words,
)
from mlkit.tagging.types import ProductTags

__all__ = ["PARTS", "measure"]

LOADS = (0.2, 0.4, 0.6)
SETTLE_S = 1.5
BEFORE, AFTER, JUMP_AT_S = 12.0, 36.0, 10.0
SERVES_DEFAULTS = {
    "metrics_interval_s": 10.0,
    "look_back_period_s": 30.0,
    "upscale_delay_s": 30.0,
    "downscale_delay_s": 600.0,
}


@pipeline
def observed(image: ImageSource, title: str = "") -> ProductTags:
    """The tagging pipeline, counted."""
    picture = decode(download(image))
    seen = look(picture)
    box = localise(picture, seen)
    return combine(
        product_class(seen), imagenet_labels(seen), box, colours(picture, box), words(title)
    )


@pipeline
def unobserved(image: ImageSource, title: str = "") -> ProductTags:
    """The same, not counted."""
    picture = decode(download(image))
    seen = look(picture)
    box = localise(picture, seen)
    return combine(
        product_class(seen), imagenet_labels(seen), box, colours(picture, box), words(title)
    )


@step
async def fetched(x: int) -> int:
    """Wait as a download does: for a tenth of a second, without a processor."""
    await asyncio.sleep(0.1)
    return x


@pipeline
def downloads(x: int) -> int:
    """One step that waits for others."""
    return fetched(x)


def measure(
    out: Path, parts: Sequence[str], blocks: int, seconds: float, check: Callable[[], None]
) -> dict[str, Any]:
    """Measure the parts, each written down as soon as it is there."""
    from mlkit.tagging import tag
    from tools.demo.summary import busy, machine

    path = out / "observe.json"
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    results["machine"] = facts = machine(tag)
    print(busy(facts) or f"{facts['cpu']}, {facts['cores']} cores, {facts['precision']}")
    for part in parts:
        began = time.monotonic()
        results[part] = PARTS[part](blocks, seconds, check)
        path.write_text(json.dumps(results, indent=2) + "\n")
        print(f"{part} ({time.monotonic() - began:.0f} s)")
        print(json.dumps(results[part], indent=2))
    print(path)
    return results


@contextmanager
def _session() -> Iterator[None]:
    """Apps of the block share a session, which ends with it."""
    session = Session.of_this_notebook() or Session.start()
    try:
        yield
    finally:
        session.stop()


# ---- percentiles -----------------------------------------------------------------------------


def _percentiles(blocks: int, seconds: float, check: Callable[[], None]) -> dict[str, Any]:
    """The app's percentiles against what each answer said of itself in its header."""
    payloads = _payloads()
    with _session():
        app = deploy(observed, progress=False)
        limit = _closed(app, payloads, 2 * seconds).ok_rate
        runs = []
        for share in LOADS:
            _settled(app)
            before = time.time()
            result = load_test(
                app,
                payloads,
                poisson(rate=share * limit),
                duration_s=6 * seconds,
                warmup_s=0,
                progress=False,
            )
            _settled(app)
            runs.append(_compared(app, result, time.time() - before, share))
            check()
        app.shutdown()
    return {
        "worst_error": max(run["worst_error"] for run in runs),
        "worst_error_ms": max(run["worst_error_ms"] for run in runs),
        "missed": sum(run["missed"] for run in runs),
        "loads": runs,
    }


def _compared(app: App, result: LoadResult, last_s: float, share: float) -> dict[str, Any]:
    (whole,) = app.metrics.whole(last_s, now=time.time())
    totals = [parse_server_timing(text)["total"] for text in result.columns["server_timing"]]
    counted = [1e3 * s for s in whole.held.percentiles_s(50, 95, 99)]
    # The nearest rank, as histograms have it: between two requests nothing was measured.
    said = np.percentile(totals, [50, 95, 99], method="inverted_cdf")
    errors = np.abs(np.array(counted) - said)
    # To a millisecond they are the same, whatever share of a short time that is.
    shares = np.where(errors <= 1.0, np.minimum(errors / said, 0.03), errors / said)
    return {
        "load": share,
        "requests": len(totals),
        "missed": len(totals) - whole.requests,
        "counted_ms": counted,
        "said_ms": said.tolist(),
        "worst_error": float(shares.max()),
        "worst_error_ms": float(errors.max()),
    }


def _settled(app: App) -> Sample | None:
    """Wait until everything that was counted has been handed on."""
    time.sleep(SETTLE_S)
    windows = app.metrics.whole(900)
    return windows[0] if windows else None


# ---- cost ------------------------------------------------------------------------------------


def _cost(blocks: int, seconds: float, check: Callable[[], None]) -> dict[str, Any]:
    """Throughput with and without counting, and with a live view besides, in turn."""
    from mlkit.views import Dashboard

    payloads = _payloads()
    rates: dict[str, list[float]] = {"off": [], "on": [], "live": [], "off_again": []}
    cpu: dict[str, list[float]] = {"off": [], "on": []}
    kernel: list[float] = []
    largest = 0
    with _session():
        on = deploy(observed, progress=False)
        off = deploy(unobserved, progress=False, observe=False)
        for app in (on, off):
            _closed(app, payloads, 2 * seconds)
        for _ in range(blocks + 1):
            for name, app in (("off", off), ("on", on)):
                spent = _cpu_of(app)
                result = _closed(app, payloads, seconds)
                rates[name].append(result.ok_rate)
                cpu[name].append((_cpu_of(app) - spent) / max(1, int(result.ok.sum())))
            rates["off_again"].append(_closed(off, payloads, seconds).ok_rate)
            dashboard = Dashboard(on, controls=False)
            sizes: list[int] = []
            dashboard._displays.append(lambda live, sizes=sizes: sizes.append(len(live.html)))  # type: ignore[misc]
            dashboard._start()
            began, used = time.perf_counter(), time.process_time()
            rates["live"].append(_closed(on, payloads, seconds).ok_rate)
            kernel.append((time.process_time() - used) / (time.perf_counter() - began))
            dashboard.close()
            largest = max([largest, *sizes])
            check()
        idle = time.process_time()
        dashboard = Dashboard(on, controls=False)
        dashboard._start()
        time.sleep(10)
        quiet = (time.process_time() - idle) / 10
        dashboard.close()
        for app in (on, off):
            app.shutdown()
    more_ms = [1e3 * (a - b) for a, b in zip(cpu["on"][1:], cpu["off"][1:], strict=True)]
    low, more, high = np.quantile(more_ms, [0.25, 0.5, 0.75]).tolist()
    return {
        "recorder_ratio": _ratio(rates["on"][1:], rates["off"][1:]),
        "dashboard_ratio": _ratio(rates["live"][1:], rates["off_again"][1:]),
        "recorder_cores_at_100_per_s": _counting(observed.graph),
        "recorder_ms_a_request": {"value": more, "low": low, "high": high},
        "kernel_cores": median(kernel[1:]),
        "kernel_cores_idle": quiet,
        "bytes_a_look": largest,
        "on_rps": median(rates["on"][1:]),
        "off_rps": median(rates["off"][1:]),
    }


def _counting(graph: Graph, rate: int = 100, seconds: float = 20) -> float:
    """Cores that counting takes by itself at a rate: what replicas use varies by more than it."""
    recorder = Recorder(graph.name)
    spans = [Span(node.name, 0.001, 0.002, 0.004, 2) for node in graph]
    trace = Trace("0" * 32, time.time(), 0.02, 200, 0.0, 0.02, tuple(spans), 1)
    began = time.process_time()
    for _ in range(round(seconds / PUSH_EVERY_S)):
        for _ in range(round(rate * PUSH_EVERY_S)):
            recorder.request(trace, 50_000, 500)
            recorder.steps(spans, None)
        recorder.take()
    return (time.process_time() - began) / seconds


def _cpu_of(app: App) -> float:
    """Seconds of CPU that the app's replicas have taken."""
    import psutil

    total = 0.0
    for replica in app.placement().replicas:
        if replica["pid"]:
            times = psutil.Process(replica["pid"]).cpu_times()
            total += times.user + times.system
    return total


# ---- autoscaling -----------------------------------------------------------------------------


def _autoscale(blocks: int, seconds: float, check: Callable[[], None]) -> dict[str, Any]:
    """A jump to three times the rate on a step that waits; then to zero, and back."""
    with _session():
        quick = [_jumped({}, 20.0) for _ in range(3)]
        check()
        slow = _jumped(SERVES_DEFAULTS, 75.0)
        check()
        cold = _cold()
    return {
        "first_new_replica_s": median(trial["first_new_replica_s"] for trial in quick),
        "first_new_replica_s_all": [trial["first_new_replica_s"] for trial in quick],
        "serve_default_s": slow["first_new_replica_s"],
        "unexplained": sum(trial["unexplained"] for trial in [*quick, slow]),
        "log_agrees": all(trial["log_agrees"] for trial in [*quick, slow]),
        "failed": sum(trial["failed"] for trial in [*quick, slow]),
        **cold,
    }


def _scaled(config: dict[str, Any]) -> App:
    scaling = {"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 2.0, **config}
    options = {"fetched": {"num_cpus": 0.1, "autoscaling_config": scaling}}
    return deploy(downloads, options=options, progress=False)


def _jumped(config: dict[str, Any], after_s: float) -> dict[str, Any]:
    """Seconds from the jump to the first new replica, as Serve has it."""
    app = _scaled(config)
    time.sleep(12)  # until processes are kept ready, as they are for an app that has been there
    app.scaling  # noqa: B018  # so that it is watched from the start
    result = load_test(
        app,
        list(range(20)),
        jump(before=BEFORE, after=AFTER, at_s=JUMP_AT_S),
        duration_s=JUMP_AT_S + after_s,
        warmup_s=0,
        progress=False,
    )
    time.sleep(SETTLE_S)
    scaling = app.scaling
    at = result.started + JUMP_AT_S
    counts = [count for count in scaling.counts if count.stage == "fetched"]
    had = max((count.ready for count in counts if count.at <= at), default=1)
    first = next(
        (count.at for count in counts if count.at > at and count.ready > had), float("nan")
    )
    wanted = [count.wanted for count in counts]
    changes = [b for a, b in pairwise(wanted) if a != b]
    scaled = [decision for decision in scaling.decisions if decision.kind == "scaled"]
    outcome = {
        "first_new_replica_s": first - at,
        "unexplained": sum(not decision.why for decision in scaled),
        # Ray's own status is looked at twice a second: of two changes in between it has the last.
        "log_agrees": _within(changes, [decision.after for decision in scaled]),
        "failed": int((~result.ok).sum()),
    }
    app.shutdown()
    return outcome


def _within(few: Sequence[int], many: Sequence[int]) -> bool:
    """Whether all of the few come among the many, in their order, and the last is the last."""
    rest = iter(many)
    return all(item in rest for item in few) and (not few or few[-1] == many[-1])


def _cold() -> dict[str, Any]:
    """To zero; then some requests at once, which wait for the first replica."""
    app = _scaled({"min_replicas": 0, "downscale_delay_s": 2.0, "downscale_to_zero_delay_s": 2.0})
    app(1)
    until = time.monotonic() + 60
    while app.status().stages["fetched"].get("RUNNING", 0) and time.monotonic() < until:
        time.sleep(0.2)
    time.sleep(10)
    started = threading.Barrier(8)

    def ask(x: int) -> tuple[float, bool]:
        started.wait()
        began = time.perf_counter()
        answer = app(x)
        return time.perf_counter() - began, answer == x

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    app.shutdown()
    return {
        "cold_start_s": max(seconds for seconds, _ in answers),
        "cold_lost": sum(not right for _, right in answers),
    }


# ---- shared ----------------------------------------------------------------------------------


def _payloads() -> list[Any]:
    from tools.demo.pictures import load_payloads, sample

    return list(load_payloads(sample()))


def _closed(app: App, payloads: Sequence[Any], seconds: float) -> LoadResult:
    return load_test(
        app,
        payloads,
        closed(concurrency=16),
        duration_s=seconds,
        warmup_s=0.3,
        progress=False,
    )


def _ratio(a: Sequence[float], b: Sequence[float]) -> dict[str, float]:
    measured = ratio(a, b)
    return {"value": measured.value, "low": measured.low, "high": measured.high}


PARTS: dict[str, Callable[[int, float, Callable[[], None]], dict[str, Any]]] = {
    "percentiles": _percentiles,
    "cost": _cost,
    "autoscale": _autoscale,
}
