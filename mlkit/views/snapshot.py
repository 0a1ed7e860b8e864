"""Builds the `mlkit.views.live.Live` of an app from its metrics."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from itertools import zip_longest
from typing import Any

from mlkit.autoscale import Count, Scaling
from mlkit.errors import InputError, SessionError
from mlkit.metrics import WINDOWS, Point, Rolling, Sample
from mlkit.metrics.pools import Pools
from mlkit.plan import Plan
from mlkit.serving import App
from mlkit.views.chart import Panel, Series, panel
from mlkit.views.live import Live, StageRow, StepRow, Tile, relabelled
from mlkit.views.picture import Picture, picture
from mlkit.views.pools import pool_rows
from mlkit.views.run import milliseconds
from mlkit.views.scaling import busiest_stage, counts_of, step_series

__all__ = ["check_window", "fitting_window", "live_of", "view"]

STALE_S = 4.0
MAX_DECISIONS = 3
MAX_MARKS = 8
MAX_GRAPH_STEPS = 14
"""Larger graphs are not drawn."""
MAX_LAYOUTS = 8
LONGEST_SUBTITLE = "9,999/s · 999 ms"
SLOW_FROM = 0.5
"""Mean number of requests waiting for a step from which on it is marked slow."""


def check_window(window_s: int) -> int:
    """Validate the time range of the charts.

    Raises:
        InputError: the range is not supported.
    """
    if window_s not in WINDOWS:
        expected = ", ".join(map(str, WINDOWS))
        raise InputError("unsupported window", expected=expected, got=repr(window_s))
    return window_s


def fitting_window(rolling: Rolling, now: float) -> int:
    """Return the shortest time range that has all requests of the last 15 minutes.

    Those of a short test would be a few dots in a longer one.
    """
    # Intervals of the long window may be open for the latest requests.
    starts = [
        point.at - WINDOWS[window_s]
        for window_s in (min(WINDOWS), max(WINDOWS))
        for point in rolling.points(window_s)
        if point.requests
    ]
    oldest = min(starts, default=now)
    return next((window_s for window_s in WINDOWS if now - oldest <= window_s), max(WINDOWS))


def view(app: App, window_s: int | None = None, *, read: bool = True) -> Live:
    """Take a snapshot of an app; see `mlkit.serving.App.view`.

    Args:
        app: the app.
        window_s: time range of the charts in seconds; by default from the metrics.
        read: whether to read new metrics from its session first.
    """
    if window_s is not None:
        check_window(window_s)
    observed = app._observed
    with observed.lock:
        if read and not app.closed:
            with suppress(SessionError):  # the snapshot then shows its age
                observed.read()
        return live_of(
            app.name,
            app.plan,
            observed.rolling,
            observed.scaling(read=False),
            window_s=window_s or fitting_window(observed.rolling, time.time()),
            closed=app.closed,
        )


def live_of(
    name: str,
    plan: Plan,
    rolling: Rolling,
    scaling: Scaling,
    *,
    window_s: int = 300,
    closed: bool = False,
    now: float | None = None,
) -> Live:
    """Build a snapshot from metrics.

    Args:
        name: name of the app.
        plan: its steps and stages.
        rolling: its metrics.
        scaling: its replicas and scaling decisions.
        window_s: time range of the charts in seconds: 60, 300 or 900.
        closed: whether it was shut down.
        now: current time in seconds since the epoch.
    """
    now = time.time() if now is None else now
    count = scaling.latest().get(plan.front.name)
    asleep = count is not None and count.wanted == count.ready == 0
    state, words = _state(rolling, closed, now, asleep)
    end = rolling.at if rolling.at is not None and state in ("stale", "closed") else now
    clock = datetime.fromtimestamp(end).strftime("%H:%M:%S")
    window = f"{window_s // 60} min"
    if rolling.at is None:
        return Live(name, state, words, clock, window, picture=_picture(plan, {}))
    steps, waiting = _steps(plan, rolling.now("step"))
    slow = max(waiting, key=lambda step: waiting[step], default="")
    if waiting.get(slow, 0.0) < SLOW_FROM:
        slow = ""
    longest_queue = max([*waiting.values(), 1.0])
    subtitles = {
        row.step: f"{row.rate}/s · {row.p50} ms" if row.p50 else f"{row.rate}/s" for row in steps
    }
    rows = tuple(_marked(row, slow) for row in steps)
    return Live(
        name,
        state,
        words,
        clock,
        window,
        tiles=_tiles(rolling),
        panels=_panels(plan, rolling, scaling, window_s, end),
        steps=rows,
        stages=_stages(plan, rolling.now("stage"), scaling),
        pools=pool_rows(Pools.of(name, rolling.latest())),
        decisions=_decisions(scaling),
        picture=_picture(plan, subtitles),
        queues={
            step: min(1.0, count / longest_queue)
            for step, count in waiting.items()
            if count >= 0.05
        },
        slow=slow,
    )


def _state(rolling: Rolling, closed: bool, now: float, asleep: bool) -> tuple[str, str]:
    if closed:
        at = datetime.fromtimestamp(rolling.at or now).strftime("%H:%M:%S")
        return "closed", f"shut down; last state of {at}"
    if rolling.at is None:
        return "starting", "starting: no metrics yet"
    age_s = now - rolling.at
    if age_s > STALE_S and asleep:
        return "asleep", "scaled to zero: the next request starts a replica"
    if age_s > STALE_S:
        return "stale", f"last sample {age_s:.0f} s ago"
    if not rolling.requests:
        return "empty", "ready, no requests yet: try app(...)"
    return "serving", "serving"


def _figure(value: float) -> str:
    """Format a count or rate with two or more significant digits."""
    if not math.isfinite(value):
        return "-"
    if 0 < value < 9.95:
        return f"{value:.1f}"
    return f"{value:,.0f}"


def _ms(seconds: float) -> str:
    return milliseconds(seconds) if math.isfinite(seconds) else "-"


def _tiles(rolling: Rolling) -> tuple[Tile, ...]:
    samples = rolling.now()
    if not samples:
        return ()
    (sample,) = samples
    p50, p95, p99 = (_ms(s) for s in sample.held.percentiles_s(50, 95, 99))
    items = (
        Tile("first item p95", _ms(sample.first_items.percentile_s(95)), "ms"),
        Tile("between items p95", _ms(sample.between_items.percentile_s(95)), "ms"),
    )
    bad = "bad" if sample.errors else ""
    full = "bad" if sample.rejected else ""
    return (
        Tile("throughput", _figure(sample.rate), "/s"),
        Tile("p50", p50, "ms"),
        Tile("p95", p95, "ms"),
        Tile("p99", p99, "ms"),
        *(items if sample.first_items.count else ()),
        Tile("errors", _figure(sample.errors / sample.span_s), "/s", bad),
        Tile("rejected", _figure(sample.rejected / sample.span_s), "/s", full),
        Tile("in flight", str(sample.in_flight)),
        Tile("queued", str(sample.queued)),
        Tile("CPU cores", f"{sample.cpu:.2f}"),
        Tile("memory MB", f"{sample.rss / 1e6:,.0f}"),
    )


def _steps(plan: Plan, samples: Sequence[Sample]) -> tuple[list[StepRow], dict[str, float]]:
    """A row for each step, in the graph's order, and the mean number of requests waiting for it."""
    by_name = {sample.of: sample for sample in samples}
    rows, waiting = [], {}
    for node in plan.graph:
        sample = by_name.get(node.name)
        stage = plan[node.name].name
        if sample is None or not sample.requests:
            rows.append(StepRow(node.name, stage, "0", "", "", "", "", "0", "", "0"))
            continue
        waiting[node.name] = sample.rate * sample.mean_wait_s  # Little's law
        p50, p95, p99 = (_ms(s) for s in sample.held.percentiles_s(50, 95, 99))
        batch = sample.mean_batch
        rows.append(
            StepRow(
                node.name,
                stage,
                _figure(sample.rate),
                _ms(sample.mean_wait_s),
                p50,
                p95,
                p99,
                str(sample.queued),
                f"{batch:.1f}" if math.isfinite(batch) else "",
                str(sample.errors),
            )
        )
    return rows, waiting


def _marked(row: StepRow, slow: str) -> StepRow:
    return replace(row, slow=True) if row.step == slow else row


def _stages(plan: Plan, samples: Sequence[Sample], scaling: Scaling) -> tuple[StageRow, ...]:
    by_name = {sample.of: sample for sample in samples}
    counts = scaling.latest()
    rows = []
    for stage in plan.stages:
        sample, count = by_name.get(stage.name), counts.get(stage.name)
        scales = f"{stage.replicas}, autoscaled" if stage.autoscaling_config is not None else ""
        rows.append(
            StageRow(
                stage.name,
                _ready(count, sample),
                str(count.wanted) if count else stage.replicas,
                bool(count and count.ready < count.wanted),
                str(sample.in_flight) if sample else "-",
                f"{sample.cpu:.2f}" if sample else "-",
                f"{sample.rss / 1e6:,.0f}" if sample else "-",
                scales,
                f"{sample.gpu / 1e6:,.0f}" if sample and sample.gpu is not None else "",
            )
        )
    return tuple(rows)


def _ready(count: Count | None, sample: Sample | None) -> str:
    """Number of ready replicas; those that report if they are not counted."""
    # Replicas that are not autoscaled are counted only from the first view on.
    if count is not None:
        return str(count.ready)
    return "-" if sample is None else str(sample.processes)


def _decisions(scaling: Scaling) -> tuple[str, ...]:
    decisions = [decision for decision in scaling.decisions if decision.kind != "ready"]
    # Of consecutive decisions that change nothing, only the last is kept.
    kept = [
        decision
        for decision, following in zip_longest(decisions, decisions[1:])
        if following is None
        or decision.kind == "scaled"
        or (decision.kind, decision.stage) != (following.kind, following.stage)
    ]
    return tuple(map(str, kept[-MAX_DECISIONS:]))


def _panels(
    plan: Plan, rolling: Rolling, scaling: Scaling, window_s: int, end: float
) -> tuple[Panel, ...]:
    points = rolling.points(window_s)
    start = end - window_s
    marks = [
        (decision.at, str(decision))
        for decision in scaling.decisions
        if decision.kind in ("scaled", "blocked", "failed") and decision.at >= start
    ][-MAX_MARKS:]
    common: dict[str, Any] = {"start": start, "end": end, "marks": marks}
    common["ago"] = f"{window_s // 60} min ago"
    at = [point.at for point in points]
    return (
        _rate(points, at, common),
        _latency(points, at, common),
        _waiting(points, at, common),
        _replicas(plan, rolling, scaling, start, end, common),
    )


def _rate(points: Sequence[Point], at: list[float], common: dict[str, Any]) -> Panel:
    rates = [point.rate for point in points]
    lost = [point.errors + point.rejected for point in points]
    now = f"{_figure(rates[-1])}/s" if rates else ""
    series = [Series("served-area", at, rates, now)]
    if any(lost):
        series.append(Series("error", at, lost, f"✕ {_figure(lost[-1])}/s"))
    return panel("requests per second", series, min_top=10, **common)


def _latency(points: Sequence[Point], at: list[float], common: dict[str, Any]) -> Panel:
    series = []
    for name in ("p50", "p95", "p99"):
        values = [getattr(point, f"{name}_ms") for point in points]
        last = next((v for v in reversed(values) if math.isfinite(v)), None)
        now = f"{name} {milliseconds(last / 1e3)} ms" if last is not None else ""
        series.append(Series(name, at, values, now))
    return panel("latency, ms", series, min_top=1, **common)


def _waiting(points: Sequence[Point], at: list[float], common: dict[str, Any]) -> Panel:
    queued, in_flight = [p.queued for p in points], [p.in_flight for p in points]
    series = [
        Series("waiting-area", at, queued, f"{queued[-1]} queued" if points else ""),
        Series("quiet", at, in_flight, f"{in_flight[-1]} in flight" if points else ""),
    ]
    return panel("requests inside: in flight, queued", series, min_top=5, **common)


def _replicas(
    plan: Plan,
    rolling: Rolling,
    scaling: Scaling,
    start: float,
    end: float,
    common: dict[str, Any],
) -> Panel:
    stage = busiest_stage(scaling) or plan.front.name
    processes = sum(sample.processes for sample in rolling.now("stage") if sample.of == stage)
    counts = counts_of(scaling, stage, rolling.started or end, processes)
    times, wanted, ready = step_series(counts, start, end)
    series = [
        Series("ready-area", times, ready, f"{ready[-1]} ready" if ready else "", steps=True),
        Series("wanted", times, wanted, f"{wanted[-1]} wanted" if wanted else "", steps=True),
    ]
    return panel(f"replicas of {stage}", series, min_top=2, tooltips=True, **common)


def _picture(plan: Plan, subtitles: dict[str, str]) -> Picture | None:
    if len(plan.graph) > MAX_GRAPH_STEPS:
        return None
    return relabelled(_layout(plan), subtitles)


def _layout(plan: Plan) -> Picture:
    """The layout of a plan, computed once, so that nothing moves when a number changes."""
    known = _layouts.get(id(plan))
    if known is None or known[0] is not plan:
        if len(_layouts) >= MAX_LAYOUTS:
            _layouts.clear()
        drawn = picture(plan.graph, together=_grounds(plan) or None, second=LONGEST_SUBTITLE)
        known = _layouts[id(plan)] = plan, drawn
    return known[1]


_layouts: dict[int, tuple[Plan, Picture]] = {}


def _grounds(plan: Plan) -> dict[str, tuple[str, ...]]:
    if len(plan.stages) == 1:
        return {}
    return {stage.name: stage.nodes for stage in plan.stages if stage.nodes}
