"""Running a load test: `load_test`."""

from __future__ import annotations

from typing import Any, Literal, Unpack, overload

from mlkit.errors import entry_point
from mlkit.load.arrivals import Arrivals
from mlkit.load.collect import collect
from mlkit.load.expect import Expect
from mlkit.load.options import LoadOptions, settings_of
from mlkit.load.preparation import LoadPlan, prepare
from mlkit.load.process import WorkerProcess, WorkerReport
from mlkit.load.requests import Preparable
from mlkit.load.results import LoadResult
from mlkit.load.running import LoadRun, follow, watch
from mlkit.load.runstore import record

__all__ = ["LoadRun", "last_result", "load_test", "watch"]

_last: LoadResult | None = None


@overload
def load_test(
    target: Preparable | str,
    payloads: Any,
    arrivals: Arrivals,
    *,
    wait: Literal[True] = ...,
    **options: Unpack[LoadOptions],
) -> LoadResult: ...
@overload
def load_test(
    target: Preparable | str,
    payloads: Any,
    arrivals: Arrivals,
    *,
    wait: Literal[False],
    **options: Unpack[LoadOptions],
) -> LoadRun: ...
@entry_point
def load_test(
    target: Preparable | str,
    payloads: Any,
    arrivals: Arrivals,
    *,
    duration_s: float | None = None,
    warmup_s: float = 1.0,
    timeout_s: float | None = None,
    slo_ms: float | None = None,
    expect: Expect | None = None,
    wait: bool = True,
    progress: bool = True,
    seed: int = 0,
) -> LoadResult | LoadRun:
    """Send requests as ``arrivals`` schedule them, and record every response.

    The generator runs in a process of its own, with requests encoded in advance. Latency counts
    from the time for which a request was scheduled, and a slow response never delays the next
    request: there is no coordinated omission. When the generator could not keep up, the result says
    so (``result.void``).

    Interrupting the cell ends the test and returns what it has recorded, with ``interrupted`` set;
    `last_result` has them too. A second interrupt discards everything.

    Args:
        target: a deployed App, or the URL of any server.
        payloads: a list, or a DataFrame whose rows are dicts, as an App takes them. For a URL,
            bytes are posted as they are, None is a GET, `mlkit.load.requests.HttpRequest` is sent
            as it is, everything else is posted as JSON. Sent in a seeded order, over and over;
            `sampled`, `template` and `mix` choose them otherwise.
        arrivals: a schedule (`constant`, `poisson`, `gamma`, `ramp`, `jump`, `spike`, `diurnal`,
            `replay`, or several of them, added), `steered`, or `closed`.
        duration_s: length of the measured part in seconds; by default that of the arrivals, if they
            have one. For a test of many hours see `soak`.
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
        seed: of the choice and the order of the payloads.

    Raises:
        LoadError: an argument is invalid, or nothing answers at the target.
    """
    settings = settings_of(
        "load_test",
        target,
        arrivals,
        duration_s=duration_s,
        warmup_s=warmup_s,
        timeout_s=timeout_s,
        slo_ms=slo_ms,
        seed=seed,
    )
    plan, job = prepare(target, payloads, arrivals, settings, expect)
    worker = WorkerProcess(job, target=plan.target, warmup_s=warmup_s)
    run = LoadRun(plan, worker, _finish)
    return follow(run, wait=wait, progress=progress)


def last_result() -> LoadResult | None:
    """The result of the latest load test in this process, or None."""
    return _last


def _finish(plan: LoadPlan, report: WorkerReport) -> LoadResult:
    global _last
    _last = collect(plan, report)
    record(_last, code=plan.versions, options=plan.settings._asdict())
    return _last
