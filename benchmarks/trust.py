"""What changes, faults and overload do to the clients of an app: ``make bench-trust``."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from fastapi import Depends, FastAPI

from benchmarks.flaky import flaky
from benchmarks.hostile.part import hostile
from benchmarks.kills import hung, kill
from benchmarks.leaks import soak
from benchmarks.lifecycle import lifecycle
from benchmarks.overload import deadline, overload
from benchmarks.sessions import DEPLOY_S, in_session
from benchmarks.swap import GRACE_S, Net, ended, loaded, until, within
from mlkit.define import resource, step
from mlkit.errors import DeployError
from mlkit.load import LoadResult, LoadRun, closed, poisson
from mlkit.load.expect import Received
from mlkit.load.records import RequestRecord
from mlkit.pipelines import Pipeline, pipeline
from mlkit.serving import App, deploy, served

__all__ = ["PARTS", "measure"]

LOAD = 0.25
"""Share of the saturated rate that is asked for."""
REDEPLOYS, BAD_OF_EACH = 20, 5
LEAST_REQUESTS = 4000
PAUSE_S = 1.0
"""Between two changes, so that requests meet each version."""
TOLD_IN_S = 30.0
MISSING = "no_such_package_at_all"
VARIABLE = "TRUST_SETTING"
"""An environment variable whose change takes new processes, as that of a package does."""


@dataclass(frozen=True)
class Version:
    """What is deployed.

    Attributes:
        mark: is in the results of two steps, so that a mixture of versions shows.
        seed: of the model.
        replicas: of the front.
        application: number of the user's application; 0 for none.
    """

    mark: int = 0
    seed: int = 0
    replicas: int = 1
    application: int = 0

    def pipeline(self, load: Callable[[], Any] | None = None) -> Pipeline[..., Any]:
        """The pipeline of this version.

        Args:
            load: a loader of the model.
        """
        mark, model = self.mark, resource(load) if load else resource(value=Net(self.seed))

        @step
        def begin(x: float) -> str:
            return f"{x} begin={mark}"

        @step
        def score(
            text: str,
            *,
            net: Net = model,
            factor: float = resource(value=1.0),
        ) -> str:
            rows = net(np.full((16, net.layers[0].shape[0]), factor, np.float32))
            return f"{text} score={mark} {rows[0, 0]:.3f}"

        @pipeline
        def trusted(x: float) -> str:
            return score(begin(x))

        return trusted

    def deploy(self, load: Callable[[], Any] | None = None) -> App:
        """Deploy this version."""
        trusted = self.pipeline(load)
        fastapi = _application(trusted, self.application) if self.application else None
        return deploy(trusted, fastapi=fastapi, num_replicas=self.replicas, progress=False)


def _application(trusted: Pipeline[..., Any], number: int) -> FastAPI:
    application = FastAPI()

    async def route(tag: Any = Depends(served(trusted))) -> str:
        return str(await tag(x=1.0))

    application.get(f"/route-{number}")(route)
    return application


def _whole(response: Received) -> bool:
    """Whether a response is of one version."""
    text = response.json()
    marks = [part.partition("=")[2] for part in text.split() if "=" in part]
    return response.status == 200 and len(marks) == 2 and len(set(marks)) == 1


# ---- good deployments ---------------------------------------------------------------------------


@dataclass
class Redeploys:
    """Changes of one app by kind, each on what the one before has left."""

    app: App
    version: Version = field(default_factory=Version)

    def code(self, number: int) -> None:
        """Change the code of two steps."""
        self._deploy(mark=number)

    def model(self, number: int) -> None:
        """Change the model."""
        self._deploy(seed=number)

    def options(self, number: int) -> None:
        """Change the number of replicas."""
        self._deploy(replicas=3 - self.version.replicas)

    def environment(self, number: int) -> None:
        """Change what takes new processes."""
        os.environ[VARIABLE] = str(number)
        self._deploy()

    def application(self, number: int) -> None:
        """Change the routes of the user's application."""
        self._deploy(application=number)

    def update(self, number: int) -> None:
        """Change configuration."""
        self.app.update(factor=1.0 + number / 100)

    def rollback(self, number: int) -> None:
        """Go back to the version before."""
        self.app.rollback()

    def _deploy(self, **changes: int) -> None:
        self.version = Version(**{**vars(self.version), **changes})
        self.app = self.version.deploy()

    @property
    def kinds(self) -> dict[str, Callable[[int], None]]:
        """What changes, by kind."""
        names = ("code", "model", "options", "environment", "application", "update", "rollback")
        return {name: getattr(self, name) for name in names}


def _redeploy(check: Callable[[], None], seconds: float | None) -> dict[str, Any]:
    with _deployed() as app:
        rate, steady_ms = _rate_of(app, check)
        redeploys = Redeploys(app)
        changes: list[Change] = []
        kinds = redeploys.kinds
        with _under_load(app, rate) as test:
            number = 0
            while number < REDEPLOYS or _sent(test, rate) < LEAST_REQUESTS:
                kind = list(kinds)[number % len(kinds)]
                number += 1
                began, elapsed_s = time.perf_counter(), test.progress.elapsed_s
                within(DEPLOY_S, f"redeploy {number}, {kind}", partial(kinds[kind], number))
                changes.append(Change(kind, elapsed_s, time.perf_counter() - began))
                check()
                time.sleep(PAUSE_S)
            result = within(GRACE_S, "the load test", test.stop)
        return {"redeploys": number, **by_kind(changes, result.records)} | _counts(
            result, rate, steady_ms
        )


class Change(NamedTuple):
    """A redeployment: its kind, and seconds, from the start of the load and of its duration."""

    kind: str
    began_s: float
    took_s: float


def by_kind(
    changes: Sequence[Change], records: Sequence[RequestRecord]
) -> dict[str, dict[str, float]]:
    """How often each kind occurred, its mean duration, and what requests met during it.

    A request belongs to a change if it was scheduled before the end of the pause after it.

    Args:
        changes: in order.
        records: of the load.
    """
    latencies: dict[str, list[float]] = defaultdict(list)
    took: dict[str, list[float]] = defaultdict(list)
    intended = np.array([record.intended for record in records])
    latency_ms = np.array([record.latency_ms for record in records])
    for kind, began_s, took_s in changes:
        during = (intended >= began_s) & (intended < began_s + took_s + PAUSE_S)
        latencies[kind] += latency_ms[during].tolist()
        took[kind].append(took_s)
    return {
        "kinds": {kind: len(seconds) for kind, seconds in took.items()},
        "mean_s": {kind: float(np.mean(seconds)) for kind, seconds in took.items()},
        "p99_ms_by_kind": {
            kind: float(np.percentile(each, 99)) for kind, each in latencies.items() if each
        },
        "max_ms_by_kind": {kind: max(each) for kind, each in latencies.items() if each},
    }


# ---- bad deployments ----------------------------------------------------------------------------


def _raises() -> Any:
    raise RuntimeError("this model is broken")


def _imports() -> Any:
    return import_module(MISSING)


def _allocates() -> Any:
    return np.ones(10**15)


def _dies() -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


BAD: Mapping[str, tuple[Callable[[], Any], bool]] = {
    "constructor": (_raises, True),
    "import": (_imports, False),
    "memory": (_allocates, False),
    "killed": (_dies, True),
}
"""Loaders that fail, and whether they do so in a new process; in place otherwise."""


def _bad_deploy(check: Callable[[], None], seconds: float | None) -> dict[str, Any]:
    with _deployed() as app:
        rate, steady_ms = _rate_of(app, check)
        slowest: dict[str, float] = {}
        causes: dict[str, str] = {}
        counts: Counter[str] = Counter()
        lines = 0
        with _under_load(app, rate) as test:
            for number in range(BAD_OF_EACH):
                for kind, (load, in_new_process) in BAD.items():
                    if in_new_process:
                        os.environ[VARIABLE] = f"bad {number} {kind}"
                    began = time.perf_counter()
                    error = within(DEPLOY_S, f"bad deploy, {kind}", partial(_refused, load))
                    slowest[kind] = max(slowest.get(kind, 0.0), time.perf_counter() - began)
                    counts[kind] += 1
                    causes[kind] = error.got or error.what
                    lines = max(lines, len(str(error).splitlines()))
                    os.environ.pop(VARIABLE, None)
                    check()
                    time.sleep(PAUSE_S)
            result = within(GRACE_S, "the load test", test.stop)
        told = sum(seconds <= TOLD_IN_S for seconds in slowest.values())
        return {
            "deploys": dict(counts),
            "told_in_30_s": f"{told} of {len(slowest)} kinds",
            "slowest_s": slowest,
            "most_lines": lines,
            "causes": causes,
        } | _counts(result, rate, steady_ms)


def _refused(load: Callable[[], Any]) -> DeployError:
    try:
        Version().deploy(load)
    except DeployError as error:
        return error
    raise AssertionError("a deployment that must fail has not")


# ---- load ---------------------------------------------------------------------------------------


@contextmanager
def _deployed() -> Iterator[App]:
    os.environ.pop(VARIABLE, None)
    with in_session():
        try:
            yield within(DEPLOY_S, "the deployment", Version().deploy)
        finally:
            os.environ.pop(VARIABLE, None)


def _rate_of(app: App, check: Callable[[], None]) -> tuple[float, Any]:
    """The rate to ask for, and latencies at it while nothing changes."""
    with loaded(app, closed(concurrency=4), 4) as test:
        rate = LOAD * ended(test).ok_rate
    check()
    with loaded(app, poisson(rate=rate), 15) as test:
        steady_ms = ended(test).latency_ms
    check()
    return rate, steady_ms


@contextmanager
def _under_load(app: App, rate: float) -> Iterator[LoadRun]:
    """Load that lasts until it is stopped."""
    with loaded(app, poisson(rate=rate, seed=1), 3600.0, expect=_whole) as test:
        until(lambda: test.done or test.progress.elapsed_s >= 0, GRACE_S, "the warm-up")
        yield test


def _sent(test: LoadRun, rate: float) -> float:
    return test.progress.elapsed_s * rate


def _counts(result: LoadResult, rate: float, steady_ms: Any) -> dict[str, Any]:
    statuses = np.array([record.status for record in result.records])
    mixed = int(((statuses == 200) & ~result.ok).sum())
    return {
        "rate": rate,
        "requests": len(result),
        "failed": int((~result.ok).sum()) - mixed,
        "mixed": mixed,
        "errors": result.errors,
        "p99_ms": float(np.percentile(result.latency_ms, 99)),
        "steady_p99_ms": float(np.percentile(steady_ms, 99)),
        "void": list(result.void),
    }


PARTS: dict[str, Callable[[Callable[[], None], float | None], dict[str, Any]]] = {
    "trust_redeploy": _redeploy,
    "bad_deploy": _bad_deploy,
    "overload": overload,
    "kill": kill,
    "deadline": deadline,
    "hung": hung,
    "flaky": flaky,
    "soak": soak,
    "lifecycle": lifecycle,
    "hostile": hostile,
}
"""What is measured, by name, in this order."""


def measure(
    out: Path, parts: Sequence[str], seconds: float | None, check: Callable[[], None]
) -> dict[str, Any]:
    """Measure the parts, each written down as soon as it is there.

    Args:
        out: folder of ``trust.json``.
        parts: names of `PARTS`.
        seconds: length of what has a length; by default as long as each part needs.
        check: raises where the user has interrupted.
    """
    from mlkit.tagging import tag
    from tools.demo.summary import busy, machine

    path = out / "trust.json"
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    results["machine"] = facts = machine(tag)
    print(busy(facts) or f"{facts['cpu']}, {facts['cores']} cores")
    for part in parts:
        began = time.monotonic()
        name = part.removeprefix("trust_")
        results[name] = PARTS[part](check, seconds)
        path.write_text(json.dumps(results, indent=2) + "\n")
        print(f"{name} ({time.monotonic() - began:.0f} s)")
        print(json.dumps(results[name], indent=2))
    print(path)
    return results
