"""What an app does under more requests than it can serve, and with those that came too late."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx2
import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks.sessions import DEPLOY_S, in_session
from benchmarks.swap import ended, within
from mlkit.define import step
from mlkit.load import LoadResult, closed, load_test, poisson
from mlkit.pipelines import Pipeline, pipeline
from mlkit.serving import App, Limits, deploy

__all__ = ["after_overload", "deadline", "goodput", "overload", "recovery_s"]

SLEEP_S = 0.02
SLEEP_TIMES, TAGGING_TIMES = 5.0, 2.0
"""The load, as a multiple of the capacity."""
OVERLOAD_S, BEFORE_S, AFTER_S = 20.0, 10.0, 15.0
NORMAL_LOAD = 0.4
"""Share of the capacity that is asked for before and after."""
DEADLINE_S = 2.0
SLACK = 1.5
"""A p99 is back to normal below this multiple of what it was."""
ANSWERS = frozenset({200, 429, 503})
RAISED_S = 0.25
"""How much longer than its deadline the answer to a request may take to arrive."""


class Phases(NamedTuple):
    """Start and end of the overload within a run, in seconds from its start."""

    start_s: float
    end_s: float


# ---- analysis ------------------------------------------------------------------------------------


def goodput(result: LoadResult, phases: Phases) -> float:
    """Requests per second that were answered with 200 during the overload."""
    finished = result.columns["finished"]
    inside = (finished >= phases.start_s) & (finished < phases.end_s)
    return float((inside & (result.columns["status"] == 200)).sum()) / (
        phases.end_s - phases.start_s
    )


def recovery_s(
    intended: NDArray[np.float64],
    latency_ms: NDArray[np.float64],
    end_s: float,
    limit_ms: float,
    window_s: float = 0.5,
) -> float:
    """How long after the overload the p99 exceeds a limit, in seconds.

    Args:
        intended: when each request was due, in seconds.
        latency_ms: of each; infinite for a failed one.
        end_s: the end of the overload.
        limit_ms: the p99 that is normal.
        window_s: length of the windows of which the p99 is taken.
    """
    due, latency = intended, latency_ms
    last = 0.0
    if not (due >= end_s).any():
        return 0.0
    for number in range(int((due.max() - end_s) / window_s) + 1):
        start = end_s + number * window_s
        inside = latency[(due >= start) & (due < start + window_s)]
        if len(inside) and np.percentile(inside, 99, method="higher") > limit_ms:
            last = (number + 1) * window_s
    return last


def after_overload(result: LoadResult, phases: Phases, deadline_s: float) -> dict[str, Any]:
    """The figures of a run with a normal load, an overload, and a normal load again."""
    columns = result.columns
    due, status = columns["intended"], columns["status"]
    took_ms = (columns["finished"] - due) * 1e3
    inside = (due >= phases.start_s) & (due < phases.end_s)
    before = took_ms[due < phases.start_s]
    normal_ms = float(np.percentile(before, 99))
    answered = inside & (status == 200)
    rejected = inside & ((status == 429) | (status == 503))
    late = answered & (took_ms > 1e3 * (deadline_s + RAISED_S))
    kinds = Counter(str(value) for value in status[inside & ~answered & ~rejected].tolist())
    return {
        "requests": int(inside.sum()),
        "answered": int(answered.sum()),
        "rejected": int(rejected.sum()),
        "late": int(late.sum()),
        "others": dict(kinds),
        "goodput": goodput(result, phases),
        "reject_p99_ms": float(np.percentile(took_ms[rejected], 99)) if rejected.any() else 0.0,
        "p99_before_ms": normal_ms,
        "recovered_s": recovery_s(
            due, np.where(status == 200, took_ms, np.inf), phases.end_s, SLACK * normal_ms
        ),
        "void": list(result.void),
    }


# ---- overload ------------------------------------------------------------------------------------


@step
def doze(x: float) -> float:
    """Take a while without using the CPU."""
    time.sleep(SLEEP_S)
    return x


@pipeline
def dozing(x: float) -> float:
    """Sleep for a moment."""
    return doze(x)


class Overload(NamedTuple):
    """How a pipeline is overloaded.

    Attributes:
        pipeline: the pipeline.
        payloads: what it is sent.
        times: the load, as a multiple of the capacity.
        seconds: its length.
        clients: that saturate it.
    """

    pipeline: Pipeline[..., Any]
    payloads: Any
    times: float
    seconds: float
    clients: int


def overload(check: Callable[[], None], seconds: float | None) -> dict[str, Any]:
    """Overload an app that sleeps, and the tagger."""
    from mlkit.tagging import tag
    from tools.demo.pictures import load_payloads, sample

    long_s = seconds or OVERLOAD_S
    dozes = [{"x": float(x)} for x in range(20)]
    with in_session():
        sleep = _overloaded(Overload(dozing, dozes, SLEEP_TIMES, long_s, 64), check)
        tagging = _overloaded(
            Overload(tag, load_payloads(sample()), TAGGING_TIMES, long_s, 16),
            check,
        )
    return {
        "sleep_goodput": sleep["goodput_of_capacity"],
        "tagging_goodput": tagging["goodput_of_capacity"],
        "reject_p99_ms": max(sleep["reject_p99_ms"], tagging["reject_p99_ms"]),
        "recovered_s": max(sleep["recovered_s"], tagging["recovered_s"]),
        "sleep": sleep,
        "tagging": tagging,
    }


def _overloaded(asked: Overload, check: Callable[[], None]) -> dict[str, Any]:
    limits = Limits(request_timeout_s=DEADLINE_S, max_ongoing_requests=64)
    app = within(
        DEPLOY_S,
        "the deployment",
        partial(deploy, asked.pipeline, limits=limits, progress=False),
    )
    saturated = load_test(
        app, asked.payloads, closed(concurrency=asked.clients), duration_s=8.0, progress=False
    )
    check()
    capacity = saturated.ok_rate
    phases = Phases(BEFORE_S, BEFORE_S + asked.seconds)
    normal = poisson(rate=NORMAL_LOAD * capacity)
    arrivals = (
        normal.lasting(BEFORE_S)
        + poisson(rate=asked.times * capacity, seed=1).lasting(asked.seconds)
        + poisson(rate=NORMAL_LOAD * capacity, seed=2).lasting(AFTER_S)
    )
    before_mb = _memory_mb(app.session.folder.name)
    test = load_test(app, asked.payloads, arrivals, timeout_s=30.0, wait=False)
    try:
        with _probed(app, asked.payloads, lambda: phases.start_s < test.progress.elapsed_s) as seen:
            result = ended(test)
    finally:
        if not test.done:
            test.kill()
    check()
    after_mb = _memory_mb(app.session.folder.name)
    figures = after_overload(result, phases, DEADLINE_S)
    app.shutdown()
    return {
        "capacity": capacity,
        "goodput_of_capacity": figures["goodput"] / capacity,
        **figures,
        "with_retry_after": f"{seen['with']} of {seen['rejected']} sampled rejections",
        "memory_mb": {"before": before_mb, "after": after_mb},
    }


@contextmanager
def _probed(app: App, payloads: Any, begin: Callable[[], bool]) -> Iterator[Counter[str]]:
    """Send single requests, and count those rejections that say when to try again."""
    seen: Counter[str] = Counter()
    stop = threading.Event()
    request = app.prepare(payloads[0])

    def probe() -> None:
        with httpx2.Client(timeout=10) as client:
            while not stop.wait(0.05):
                if not begin():
                    continue
                try:
                    response = client.request(
                        request.method, request.url, headers=request.headers, content=request.body
                    )
                except httpx2.HTTPError:
                    seen["lost"] += 1
                    continue
                if response.status_code in (429, 503):
                    seen["rejected"] += 1
                    seen["with"] += response.headers.get("retry-after", "").isdigit()

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join(15)


def _memory_mb(session: str) -> float:
    """Memory of the replicas and of the front end of a session, in MB."""
    from mlkit.serving.control.watchdog import processes_of

    total = 0
    for process in processes_of(session):
        try:
            total += process.memory_full_info().uss
        except psutil.Error:
            continue
    return total / 2**20


# ---- requests that are late, and clients that leave ---------------------------------------------

EXPIRED = 1000
AT_A_TIME = 50
HOLD_S, PATIENCE_S = 1.0, 0.3
LEAVERS = 20


def deadline(check: Callable[[], None], seconds: float | None) -> dict[str, Any]:
    """Count expired requests that reach the model, and time how fast places are freed."""
    rounds = EXPIRED // AT_A_TIME if seconds is None else max(1, int(seconds / (HOLD_S + 0.5)))
    with tempfile.TemporaryDirectory() as folder, in_session():
        seen = Path(folder) / "seen"
        seen.touch()
        app = _deploy_deadlines(str(seen))
        reached, sent, statuses = _expired(app, seen, rounds, check)
        app.shutdown()
        freed_ms = _freed(check)
    return {
        "reached_model": reached / sent,
        "expired": sent,
        "reached": reached,
        "statuses": dict(statuses),
        "place_freed_ms": max(freed_ms),
        "leavers": len(freed_ms),
    }


def _deploy_deadlines(seen: str) -> App:
    @step
    def model(name: str, hold_s: float) -> str:
        file = os.open(seen, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(file, f"{name}\n".encode())
        finally:
            os.close(file)
        time.sleep(hold_s)
        return name

    @pipeline
    def expiring(name: str, hold_s: float) -> str:
        return model(name, hold_s)

    return within(DEPLOY_S, "the deployment", partial(deploy, expiring, workers=1, progress=False))


def _expired(
    app: App, seen: Path, rounds: int, check: Callable[[], None]
) -> tuple[int, int, Counter[str]]:
    """Send requests that expire while another one holds the model."""
    statuses: Counter[str] = Counter()
    headers = {"Authorization": f"Bearer {app.token}"}
    limits = httpx2.Limits(max_connections=2 * AT_A_TIME)

    def post(client: httpx2.Client, name: str, hold_s: float, **more: str) -> int:
        body = {"name": name, "hold_s": hold_s}
        return int(client.post(app.url, json=body, headers=more).status_code)

    timeout = {"x-request-timeout-seconds": f"{PATIENCE_S}"}
    with (
        httpx2.Client(headers=headers, timeout=30, limits=limits) as client,
        ThreadPoolExecutor(AT_A_TIME + 1) as threads,
    ):
        for number in range(rounds):
            holder = threads.submit(post, client, "holder", HOLD_S)
            _until_seen(seen, number + 1)
            late = [
                threads.submit(post, client, f"late {number}.{i}", 0.0, **timeout)
                for i in range(AT_A_TIME)
            ]
            statuses.update(str(each.result()) for each in late)
            holder.result()
            check()
    lines = seen.read_text().splitlines()
    return sum(line != "holder" for line in lines), rounds * AT_A_TIME, statuses


def _until_seen(seen: Path, holders: int) -> None:
    until = time.monotonic() + 30
    while seen.read_text().count("holder") < holders:
        if time.monotonic() > until:
            raise TimeoutError("the model has not begun")
        time.sleep(0.005)


def _freed(check: Callable[[], None]) -> list[float]:
    """Time from the departure of a client to an answer for the next one, in ms."""

    @step
    async def wait(hold_s: float) -> float:
        import asyncio

        await asyncio.sleep(hold_s)
        return hold_s

    @pipeline
    def leaving(hold_s: float) -> float:
        return wait(hold_s)

    limits = Limits(max_ongoing_requests=1)
    app = within(
        DEPLOY_S, "the deployment", partial(deploy, leaving, limits=limits, progress=False)
    )
    took_ms = []
    with httpx2.Client(headers={"Authorization": f"Bearer {app.token}"}, timeout=30) as client:
        for _ in range(LEAVERS):
            _post_and_leave(app, b'{"hold_s": 60.0}', partial(_is_full, client, app.url))
            left = time.perf_counter()
            while _is_full(client, app.url):
                if time.perf_counter() - left > 30:
                    break
            took_ms.append((time.perf_counter() - left) * 1e3)
            check()
    app.shutdown()
    return took_ms


def _is_full(client: httpx2.Client, url: str) -> bool:
    return bool(client.post(url, json={"hold_s": 0.0}).status_code == 503)


def _post_and_leave(app: App, body: bytes, admitted: Callable[[], bool]) -> None:
    """Send a request, and close the connection once it is in flight."""
    parts = urlsplit(app.url)
    head: Mapping[str, Any] = {
        "Host": parts.netloc,
        "Authorization": f"Bearer {app.token}",
        "Content-Type": "application/json",
        "Content-Length": len(body),
    }
    lines = [f"POST {parts.path} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items())]
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        until = time.monotonic() + 10
        while not admitted() and time.monotonic() < until:
            time.sleep(0.005)
