"""The pipeline deployed: what it answers, and what it takes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from mlkit.load import LoadResult, closed, load_test, poisson
from mlkit.serving import App
from mlkit.serving.watchdog import processes_of

__all__ = ["Saturated", "open_loop", "saturated"]


@dataclass(frozen=True)
class Saturated:
    """A closed-loop run, and the CPU that all processes but the client took for it."""

    result: LoadResult
    cpu_s: float

    @property
    def rps(self) -> float:
        """Good answers a second."""
        return float(self.result.summary()["ok_rate"])

    @property
    def client_cores(self) -> float:
        """Cores that the load generator took."""
        return float(self.result.client.cores)

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds a request, of all processes of the session."""
        return self.cpu_s / max(1, len(self.result)) * 1e3


def saturated(app: App, payloads: Sequence[Any], *, seconds: float) -> Saturated:
    """Sixteen callers that ask again as soon as they are answered."""
    load_test(app, payloads, closed(concurrency=16), duration_s=2, progress=False)
    before = _cpu_s(app)
    result = load_test(
        app, payloads, closed(concurrency=16), duration_s=seconds, warmup_s=0, progress=False
    )
    return Saturated(result, _cpu_s(app) - before)


def open_loop(app: App, payloads: Sequence[Any], *, rate: float, seconds: float) -> LoadResult:
    """Callers who come at random times and do not wait for each other."""
    return load_test(app, payloads, poisson(rate=rate), duration_s=seconds, progress=False)


def _cpu_s(app: App) -> float:
    """CPU seconds so far of every process of the session, this one not among them."""
    total = 0.0
    for process in processes_of(app.session.folder.name):
        if process.pid == os.getpid():
            continue
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total
