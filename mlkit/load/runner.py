"""Running a load test: `load_test`, and `LoadRun` for one in the background."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload
from urllib.parse import urlsplit

from mlkit.errors import LoadError, entry_point
from mlkit.load.arrivals import Arrivals, Closed
from mlkit.load.checks import MAX_IN_FLIGHT, check
from mlkit.load.expect import Expect, Expectation, Received, expectation
from mlkit.load.generator import SAMPLES_PER_KIND
from mlkit.load.job import pack
from mlkit.load.process import Progress, WorkerProcess, WorkerReport
from mlkit.load.records import ClientCost, FailureSample
from mlkit.load.requests import Preparable, Server, as_list, preparer, wire
from mlkit.load.results import LoadResult
from mlkit.load.spec import check_positive, check_seed
from mlkit.load.steered import Steered

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["LoadRun", "last_result", "load_test", "watch"]

REFRESH_S = 0.1
TIMEOUT_S = 30.0
RESPONSE_MARGIN_S = 5.0

_last: LoadResult | None = None


class LoadPlan(NamedTuple):
    """What is fixed before a load test starts."""

    target: str
    arrivals: Arrivals
    duration_s: float
    warmup_s: float
    timeout_s: float
    slo_ms: float | None
    seed: int
    order: NDArray[np.int64]
    times: NDArray[np.float64]
    expected: Expectation
    streams: bool


@overload
def load_test(
    target: Preparable | str,
    payloads: Any,
    arrivals: Arrivals,
    *,
    duration_s: float,
    warmup_s: float = ...,
    timeout_s: float | None = ...,
    slo_ms: float | None = ...,
    expect: Expect | None = ...,
    wait: Literal[True] = ...,
    progress: bool = ...,
    seed: int = ...,
) -> LoadResult: ...
@overload
def load_test(
    target: Preparable | str,
    payloads: Any,
    arrivals: Arrivals,
    *,
    duration_s: float,
    warmup_s: float = ...,
    timeout_s: float | None = ...,
    slo_ms: float | None = ...,
    expect: Expect | None = ...,
    wait: Literal[False],
    progress: bool = ...,
    seed: int = ...,
) -> LoadRun: ...
@entry_point
def load_test(
    target: Preparable | str,
    payloads: Any,
    arrivals: Arrivals,
    *,
    duration_s: float,
    warmup_s: float = 1.0,
    timeout_s: float | None = None,
    slo_ms: float | None = None,
    expect: Expect | None = None,
    wait: bool = True,
    progress: bool = True,
    seed: int = 0,
) -> LoadResult | LoadRun:
    """Send requests as ``arrivals`` schedule them, and record every response.

    The generator runs in a process of its own, with requests encoded beforehand. Latency counts
    from the time for which a request was scheduled, and a slow response never delays the next
    request: there is no coordinated omission. When the generator could not keep up, the result says
    so (``result.void``).

    Interrupting the cell ends the test and returns the records so far, with ``interrupted`` set;
    `last_result` has them too. A second interrupt discards everything.

    Args:
        target: a deployed App, or the URL of any server.
        payloads: a list, or a DataFrame whose rows are dicts, as an App takes them. For a URL,
            bytes are posted as they are, None is a GET, `mlkit.load.requests.HttpRequest` is sent
            as it is, everything else is posted as JSON. Sent in a seeded order, over and over.
        arrivals: `constant`, `poisson`, `steered`, `closed` and their like.
        duration_s: length of the measured part in seconds.
        warmup_s: seconds of the same load before it, not recorded.
        timeout_s: seconds after which a request counts as failed; 30 by default, or as long as the
            app itself may take (of one that streams, for an item).
        slo_ms: latency objective for p99 in ms.
        expect: what counts as a success: a status or a set of them; a type that pydantic validates,
            or a JSON schema, for the body; or a function of an `mlkit.load.expect.Received`
            (``status``, ``media_type``, ``body``, ``json()``) that returns whether it is one. By
            default any 2xx, of an app with a body. Redirects are not followed. The body of an app
            that streams is the list of its items, and a success is a stream that came to its end.
        wait: False returns a `LoadRun` immediately; the test runs in the background.
        progress: show a progress bar while waiting.
        seed: of the order of the payloads.

    Raises:
        LoadError: an argument is not usable, or nothing answers at the target.
    """
    if timeout_s is None:
        timeout_s = _timeout_of(target)
    durations = {"duration_s": duration_s, "warmup_s": warmup_s, "timeout_s": timeout_s}
    check(arrivals, slo_ms, **durations)
    check_seed("load_test", seed)
    expected = expectation(expect, nonempty=hasattr(target, "graph"))
    plan, job = _prepare(target, as_list(payloads), arrivals, durations, slo_ms, seed, expected)
    run = LoadRun(plan, WorkerProcess(job, target=plan.target, warmup_s=warmup_s))
    return watch(run, progress) if wait else run


def last_result() -> LoadResult | None:
    """The result of the latest load test in this process, or None."""
    return _last


class LoadRun:
    """A load test in the background, from ``load_test(..., wait=False)``."""

    def __init__(self, plan: LoadPlan, worker: WorkerProcess) -> None:
        self._plan, self._worker = plan, worker
        self._result: LoadResult | None = None
        self._rate: float | None = None

    @property
    def progress(self) -> Progress:
        """Current progress, at most some tenths of a second old."""
        return self._worker.progress

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._worker.ended.is_set()

    @property
    def duration_s(self) -> float:
        """Length of the measured part, in seconds."""
        return self._plan.duration_s

    @property
    @entry_point
    def rate(self) -> float:
        """Target rate in requests per second; it can be set for `steered` arrivals.

        Raises:
            LoadError: it is a closed loop, which has none; or the rate is set, and the arrivals are
                not steered or the rate is not positive and finite.
        """
        if isinstance(self._plan.arrivals, Closed):
            raise LoadError(
                "a closed loop has no rate: its clients send on each response",
                got=repr(self._plan.arrivals),
                fix="load_test(..., poisson(rate=50)); the throughput is result.ok_rate",
            )
        return self._plan.arrivals.opening_rate if self._rate is None else self._rate

    @rate.setter
    @entry_point
    def rate(self, rate: float) -> None:
        if not isinstance(self._plan.arrivals, Steered):
            raise LoadError(
                "the rate of these arrivals is fixed",
                got=repr(self._plan.arrivals),
                fix="load_test(..., steered(rate=20), wait=False)",
            )
        check_positive("LoadRun", "rate", rate, "requests per second above 0")
        self._rate = float(rate)
        self._worker.steer(self._rate)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end, at most ``timeout`` seconds; return whether it has ended."""
        return self._worker.ended.wait(timeout)

    @entry_point
    def stop(self) -> LoadResult:
        """End it early and return the records so far; requests in flight get one more second."""
        self._worker.stop()
        return self.result()

    def kill(self) -> None:
        """Kill it, without a result."""
        self._worker.kill()
        self._worker.ended.wait()

    @entry_point
    def result(self, timeout: float | None = None) -> LoadResult:
        """Wait for the end and return the result.

        Raises:
            TimeoutError: it is not done after ``timeout`` seconds.
            LoadError: nothing answers at the target, or the generator's process died.
        """
        global _last
        if not self.wait(timeout):
            raise TimeoutError(f"the load test is not done after {timeout} s: {self!r}")
        if self._result is None:
            _last = self._result = _collect(self._plan, self._worker.outcome())
        return self._result

    def __repr__(self) -> str:
        now = self.progress
        load = f"{self._plan.arrivals!r} on {self._plan.target}"
        if self.done:
            return f"<LoadRun {load}: done>"
        if now.elapsed_s < 0:
            return f"<LoadRun {load}: warming up>"
        at = min(now.elapsed_s, self.duration_s)
        state = f"{at:.0f} of {self.duration_s:g} s, {now.answered:,} ok, {now.failed:,} failed"
        return f"<LoadRun {load}: {state}, {now.in_flight:,} in flight>"


def _prepare(
    target: Preparable | str,
    payloads: Any,
    arrivals: Arrivals,
    durations: dict[str, float],
    slo_ms: float | None,
    seed: int,
    expected: Expectation,
) -> tuple[LoadPlan, Any]:
    """The plan, and the worker's job: schedule, order of the payloads, encoded requests."""
    import numpy as np

    order = np.random.default_rng(seed).permutation(len(payloads))
    closed = isinstance(arrivals, (Closed, Steered))
    times = np.empty(0) if closed else arrivals.times(durations["duration_s"])
    warmup = np.empty(0) if closed else arrivals.warmup_times(durations["warmup_s"])
    if not closed:
        # Warm-up requests count back from the start of the order; only what is sent is encoded.
        needed = len(times) + len(warmup)
        order = order[:needed] if needed < len(payloads) else order
    prepare = preparer(target).prepare
    prepared = [prepare(payloads[position]) for position in order]
    server, requests = _to_wire(prepared)
    plan = LoadPlan(
        target=_describe(target, prepared),
        arrivals=arrivals,
        slo_ms=slo_ms,
        seed=seed,
        order=order,
        times=times,
        expected=expected,
        streams=bool(getattr(getattr(target, "graph", None), "streams", False)),
        **durations,
    )
    job = {
        "host": server.host,
        "port": server.port,
        "tls": server.tls,
        "concurrency": arrivals.concurrency if isinstance(arrivals, Closed) else None,
        "steered": asdict(arrivals) if isinstance(arrivals, Steered) else None,
        "headless": [k for k, request in enumerate(prepared) if request.method == "HEAD"],
        "statuses": sorted(expected.statuses),
        "nonempty": expected.nonempty,
        "keeps_bodies": expected.judge is not None,
        "streams": plan.streams,
        "limits": {**durations, "max_in_flight": MAX_IN_FLIGHT},
    }
    return plan, pack(job, np.concatenate([warmup, times]).tobytes(), requests)


def _timeout_of(target: Any) -> float:
    """Seconds to wait for a response: longer than an app may take for it."""
    limits = getattr(target, "limits", None)
    return max(TIMEOUT_S, getattr(limits, "request_timeout_s", 0.0) + RESPONSE_MARGIN_S)


def _to_wire(prepared: list[Any]) -> tuple[Server, list[bytes]]:
    wired = [wire(request) for request in prepared]
    servers = {server for server, _ in wired}
    if len(servers) > 1:
        raise LoadError(
            "a load test has one target server",
            expected="requests that all go to the same host and port",
            got=", ".join(sorted(f"{server.host}:{server.port}" for server in servers)),
        )
    return servers.pop(), [raw for _, raw in wired]


def _describe(target: Preparable | str, prepared: list[Any]) -> str:
    parts = urlsplit(target if isinstance(target, str) else prepared[0].url)
    # Passwords and tokens in a query do not belong in a repr.
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def watch(run: LoadRun, progress: bool | Callable[[LoadRun], None]) -> LoadResult:
    """Wait for the end; on an interrupt stop the test and return its records so far.

    Args:
        run: the load test.
        progress: whether to show a progress bar; or what to call ten times a second instead.
    """
    try:
        try:
            _follow(run, progress)
        except KeyboardInterrupt:
            return run.stop()
        return run.result()
    except BaseException:
        if not run.done:
            run.kill()
        raise


def _follow(run: LoadRun, progress: bool | Callable[[LoadRun], None]) -> None:
    if not progress or callable(progress):
        while not run.wait(REFRESH_S):  # in slices, so that an interrupt gets through
            if callable(progress):
                progress(run)
        return
    from tqdm.auto import tqdm

    layout = "{desc} {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s {postfix}"
    with tqdm(total=run.duration_s, desc="warming up", bar_format=layout) as bar:
        while not run.wait(REFRESH_S):
            _show(bar, run)
        _show(bar, run)


def _show(bar: Any, run: LoadRun) -> None:
    now = run.progress
    bar.n = min(max(now.elapsed_s, 0.0), run.duration_s)
    if now.elapsed_s >= run.duration_s:
        bar.set_description_str("waiting for responses", refresh=False)
    elif now.elapsed_s >= 0:
        bar.set_description_str("load test", refresh=False)
    failed = f", {now.failed:,} failed" if now.failed else ""
    bar.set_postfix_str(f"{now.answered:,} ok{failed}, {now.in_flight:,} in flight", refresh=False)
    bar.refresh()


def _collect(plan: LoadPlan, report: WorkerReport) -> LoadResult:
    """Build the result from the worker's report, without the warm-up."""
    import numpy as np

    facts, stopped = report.facts, report.facts["stopped_at"]
    raw = {name: np.frombuffer(column, column.typecode) for name, column in report.columns.items()}
    rows = len(raw["intended"])
    _judge(plan.expected, report)
    error = _texts(facts["errors"], rows)
    measured = raw["intended"] >= 0
    carried = ~measured & (error == "") & (raw["finished"] >= 0)
    slots = np.arange(rows) - _first_slot(plan, raw["intended"])
    columns = {
        "intended": raw["intended"],
        "sent": raw["sent"],
        "first_byte": raw["first_byte"],
        "finished": raw["finished"],
        "status": raw["status"],
        "bytes": raw["size"],
        "payload": plan.order[slots % len(plan.order)],
        "error": error,
        "server_timing": _texts(facts["timings"], rows),
    }
    if plan.streams:
        columns["items"] = raw["items"]
    item_times = np.frombuffer(report.item_times)[np.repeat(measured, raw["items"])]
    return LoadResult(
        arrivals=plan.arrivals,
        target=plan.target,
        duration_s=plan.duration_s if stopped is None else max(stopped, 0.0),
        planned_s=plan.duration_s,
        warmup_s=plan.warmup_s,
        timeout_s=plan.timeout_s,
        slo_ms=plan.slo_ms,
        seed=plan.seed,
        payloads=int(plan.order.max()) + 1,
        started=facts["started"],
        interrupted=stopped is not None,
        carried=int(carried.sum()),
        client=_cost(facts),
        failures=_failures(facts["samples"], columns["payload"]),
        columns={name: column[measured] for name, column in columns.items()},
        item_times=item_times,
    )


def _judge(expected: Expectation, report: WorkerReport) -> None:
    """Add the responses whose bodies are not as expected to the report's errors."""
    if expected.judge is None:
        return
    facts, reasons = report.facts, {}
    successes = len(report.columns["status"]) - len(facts["errors"])
    if successes > len(facts["body_of"]):
        facts["short_of"] = "memory to keep all the different bodies that are to be checked"
    for slot, number in facts["body_of"].items():
        answer = Received(report.columns["status"][int(slot)], *report.bodies[number])
        key = answer.status, number
        if key not in reasons:  # the same body is judged once
            reasons[key] = expected.judge(answer)
        if reasons[key]:
            facts["errors"][slot] = "unexpected"
            samples = facts["samples"].setdefault("unexpected", [])
            if len(samples) < SAMPLES_PER_KIND:
                samples.append((int(slot), reasons[key]))


def _first_slot(plan: LoadPlan, intended: NDArray[np.float64]) -> int:
    """The slot of the first payload; in an open loop the first after the warm-up."""
    return 0 if isinstance(plan.arrivals, (Closed, Steered)) else int((intended < 0).sum())


def _texts(sparse: dict[str, str], rows: int) -> NDArray[np.str_]:
    import numpy as np

    texts = [""] * rows
    for slot, text in sparse.items():
        texts[int(slot)] = text
    return np.array(texts, dtype=np.str_)


def _cost(facts: dict[str, Any]) -> ClientCost:
    names = ("cpu_s", "connections", "most_in_flight", "unsent", "short_of", "realtime")
    return ClientCost(window_s=facts["cpu_window_s"], **{name: facts[name] for name in names})


def _failures(
    samples: dict[str, list[tuple[int, str]]], payload: NDArray[np.int64]
) -> tuple[FailureSample, ...]:
    return tuple(
        FailureSample(error, int(payload[slot]), detail)
        for error, of_kind in samples.items()
        for slot, detail in of_kind
    )
