"""What swapping a model costs: failed requests, latency and shares."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any, TypeVar

import httpx2
import numpy as np

from mlkit.define import resource, step
from mlkit.errors import MlkitError
from mlkit.load import LoadResult, LoadRun, closed, load_test, poisson
from mlkit.load.expect import Expect
from mlkit.load.spec import Arrivals
from mlkit.pipelines import pipeline
from mlkit.serving import App, deploy
from mlkit.serving.kernel.session import Session

__all__ = ["GRACE_S", "Net", "ended", "loaded", "measure", "until", "within"]

SIDE, LAYERS = 512, 4
SWAPS, CANARY, SHADOW = 20, 0.1, 0.2
LOAD = 0.3
"""Share of the saturated rate that is asked for."""
SWAP_EVERY_S = 1.5
DEPLOY_S, SWAP_S, CANARY_S, GRACE_S = 300.0, 60.0, 300.0, 60.0
"""Times after which a deployment, a swap, the requests of the canary, and a load test that should
have ended are errors."""

T = TypeVar("T")


class Net:
    """Dense layers: some milliseconds of numpy for a request."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.layers = [
            random.standard_normal((SIDE, SIDE), np.float32) / SIDE**0.5 for _ in range(LAYERS)
        ]

    def __call__(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Apply all layers."""
        for layer in self.layers:
            rows = np.maximum(rows @ layer, 0)
        return rows


def load_first() -> Net:
    """The first model."""
    return Net(0)


@step
def score(x: float, *, net: Net = resource(load_first)) -> list[float]:
    """Apply the model to a batch that is made up."""
    rows = net(np.full((64, SIDE), x, np.float32))
    return [float(value) for value in rows[0, :8]]


@pipeline
def swapped(x: float) -> list[float]:
    """Score a number."""
    return score(x)


def measure(check: Callable[[], None]) -> dict[str, Any]:
    """Swap a model under load, and try another one as a canary and as a shadow.

    Args:
        check: raises where the user has interrupted.

    Raises:
        MlkitError: something failed, or was not done in time; it says what.
    """
    with _deployed() as app:

        def run(rate: float, seconds: float, seed: int = 0) -> LoadResult:
            with loaded(app, poisson(rate=rate, seed=seed), seconds) as test:
                result = ended(test)
            check()
            return result

        with loaded(app, closed(concurrency=4), 4) as test:
            rate = LOAD * ended(test).ok_rate
        before = run(rate, 20)
        during, swaps_s = _while_swapping(app, rate)
        after = run(rate, 20, 2)
        steady_ms = np.concatenate([before.latency_ms, after.latency_ms])
        return {
            "rate": rate,
            "swaps": len(swaps_s),
            "requests": len(during),
            "failed": int((~during.ok).sum()),
            "seconds": median(swaps_s),
            "steady_p99_ms": _p99(steady_ms),
            "p99_ms": _p99(during.latency_ms),
            "p99_over_steady": _p99(during.latency_ms) / _p99(steady_ms),
            "void": [*before.void, *during.void, *after.void],
            "canary": _canary(app),
            "shadow": _shadow(app, lambda seed: run(rate, 10, seed)),
        }


def _p99(latency_ms: Any) -> float:
    return float(np.percentile(latency_ms, 99))


# ---- waiting, with a deadline -----------------------------------------------------------------


@contextmanager
def _deployed() -> Iterator[App]:
    """Serve the pipeline in a session of its own."""
    session = Session.of_this_notebook() or within(DEPLOY_S, "the start of Ray", Session.start)
    try:
        yield within(DEPLOY_S, "the deployment", partial(deploy, swapped, progress=False))
    finally:
        session.stop()


def within(seconds: float, name: str, call: Callable[[], T]) -> T:
    """Return the result of a call.

    Raises:
        MlkitError: it has not ended by then; it goes on in its thread.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)

    # A pool would wait for its threads when the process ends.
    threading.Thread(target=run, name=name, daemon=True).start()
    try:
        return outcome.result(seconds)
    except TimeoutError:
        if outcome.done():
            raise
        raise MlkitError(f"{name} has not ended after {seconds:g} s", where="swap") from None


def until(holds: Callable[[], bool], seconds: float, name: str) -> None:
    """Wait until something holds.

    Raises:
        MlkitError: it does not by then.
    """
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise MlkitError(f"{name} has not ended after {seconds:g} s", where="swap")
        time.sleep(0.05)


@contextmanager
def loaded(
    app: App, arrivals: Arrivals, seconds: float, expect: Expect | None = None
) -> Iterator[LoadRun]:
    """Run a load test, which is killed where the block is left before its end."""
    payloads = [{"x": float(x)} for x in range(1, 20)]
    test = load_test(app, payloads, arrivals, duration_s=seconds, expect=expect, wait=False)
    try:
        yield test
    finally:
        if not test.done:
            test.kill()


def ended(test: LoadRun) -> LoadResult:
    """Wait for the end of a load test."""
    until(lambda: test.done, test.duration_s + GRACE_S, repr(test))
    return test.result()


# ---- what is measured -------------------------------------------------------------------------


def _while_swapping(app: App, rate: float) -> tuple[LoadResult, list[float]]:
    """Swap models one after the other under a load that ends after the last of them."""
    took: list[float] = []
    longest_s = SWAPS * (SWAP_S + SWAP_EVERY_S)
    with loaded(app, poisson(rate=rate, seed=1), longest_s) as test:
        until(lambda: test.done or test.progress.elapsed_s >= 0, GRACE_S, "the warm-up")
        for seed in range(1, SWAPS + 1):
            began = time.perf_counter()
            swap = partial(app.swap, "score", resource(value=Net(seed)))
            within(SWAP_S, f"swap {seed} of {SWAPS}", swap)
            took.append(time.perf_counter() - began)
            time.sleep(max(0.0, SWAP_EVERY_S - took[-1]))
        return within(GRACE_S, "a load test that was stopped", test.stop), took


def _canary(app: App, requests: int = 3000) -> dict[str, Any]:
    within(SWAP_S, "the start of the canary", partial(app.swap, "score", Net(100), canary=CANARY))
    versions: Counter[str] = Counter()
    deadline = time.monotonic() + CANARY_S
    with httpx2.Client(headers={"Authorization": f"Bearer {app.token}"}, timeout=30) as client:
        for i in range(requests):
            response = client.post(app.url, json={"x": float(i % 7)}).raise_for_status()
            versions[response.headers["x-mlkit-version"]] += 1
            if time.monotonic() > deadline:
                raise MlkitError(
                    f"the canary has had {i + 1} of {requests} requests after {CANARY_S:g} s",
                    where="swap",
                )
    assert app.trial is not None
    share = versions[app.trial.version] / requests
    within(SWAP_S, "the end of the canary", app.rollback)
    return {"asked": CANARY, "share": share, "requests": requests, "versions": len(versions)}


def _shadow(app: App, run: Callable[[int], LoadResult]) -> dict[str, Any]:
    """Blocks of the same load in turn, with and without a shadow."""
    ratios: dict[str, list[float]] = {"p50": [], "p99": []}
    seen: Counter[str] = Counter()
    shadow = partial(app.swap, "score", Net(100), shadow=SHADOW)
    for seed in range(4):
        without = run(seed).latency_ms
        within(SWAP_S, "the start of the shadow", shadow)
        with_shadow = run(seed).latency_ms
        shown = app.disagreements()
        seen.update(compared=shown.compared, dropped=shown.dropped, requests=len(with_shadow))
        within(SWAP_S, "the end of the shadow", app.rollback)
        ratios["p50"].append(float(np.median(with_shadow) / np.median(without)))
        ratios["p99"].append(_p99(with_shadow) / _p99(without))
    return {
        "asked": SHADOW,
        **seen,
        "p50_over_without": median(ratios["p50"]),
        "p99_over_without": median(ratios["p99"]),
        "each": ratios,
    }
