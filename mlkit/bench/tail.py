"""How long the unlucky wait: Poisson arrivals at 60% of what the app can do."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any

import numpy as np

from mlkit.load import closed, load_test, poisson
from mlkit.serving import App

__all__ = ["poisson60", "queued"]

SHARE = 0.6
REQUESTS = 500


def poisson60(
    app: App,
    payloads: Sequence[Any],
    *,
    concurrency: int,
    cores: int,
    blocks: int,
    check: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """The p99 at 60% of the saturated rate, over the median of a lone caller.

    A block measures all three one after the other, since a machine is not as fast at one time as at
    another; each latency is taken over its own block's lone caller, and of all blocks together the
    p99 counts. Beside it stands what the same arrivals would see in a queue for as many servers as
    there are cores, each of which takes as long as the lone caller waits: nothing slows another
    there, and no server can do better.

    Args:
        app: what is asked.
        payloads: sent in turn.
        concurrency: callers that saturate it.
        cores: that it has.
        blocks: how many.
        check: raises where it is to be given up.
    """
    rates: list[float] = []
    lone_ms: list[float] = []
    p50_ms: list[float] = []
    ratios: list[Any] = []
    ideal: list[Any] = []
    void: list[str] = []
    for block in range(blocks):
        full = load_test(
            app, payloads, closed(concurrency=concurrency), duration_s=2.0, progress=False
        )
        lone = load_test(app, payloads, closed(concurrency=1), duration_s=2.0, progress=False)
        rate = SHARE * full.ok_rate
        arrivals = poisson(rate=rate, seed=block)
        found = load_test(app, payloads, arrivals, duration_s=REQUESTS / rate, progress=False)
        s1 = lone.summary()["p50_ms"]
        rates.append(rate)
        lone_ms.append(s1)
        p50_ms.append(found.summary()["p50_ms"])
        ratios.append(found.latency_ms / s1)
        sent = found.to_frame()["intended_s"].to_numpy()
        ideal.append(queued(sent, s1 / 1e3, cores) / (s1 / 1e3))
        void += found.summary()["void"]
        check()
    each = [float(np.quantile(block, 0.99)) for block in ratios]
    pooled = float(np.quantile(np.concatenate(ratios), 0.99))
    return {
        "rate": median(rates),
        "requests": sum(map(len, ratios)),
        "s1_ms": median(lone_ms),
        "p50_ms": median(p50_ms),
        "p99_over_s1": {"value": pooled, "low": min(each), "high": max(each)},
        "queue_p99_over_s1": float(np.quantile(np.concatenate(ideal), 0.99)),
        "void": void,
    }


def queued(arrivals: Iterable[float], service_s: float, servers: int) -> Any:
    """Seconds from arrival to end of each request in a queue, first come, first served.

    Args:
        arrivals: when each comes, in seconds, ascending.
        service_s: how long a server takes for one.
        servers: how many there are.
    """
    free = [float("-inf")] * servers
    took = []
    for came in arrivals:
        ends = max(came, heapq.heappop(free)) + service_s
        heapq.heappush(free, ends)
        took.append(ends - came)
    return np.array(took)
