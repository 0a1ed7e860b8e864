"""How long the unlucky wait: Poisson arrivals at 60% of what the app can do."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from mlkit.load import closed, load_test, poisson
from mlkit.serving import App

__all__ = ["poisson60", "queued"]

SHARE = 0.6
REQUESTS = 500
CHANGED = 1.12
"""How much the saturated rate may differ before and after a block that counts."""

MOST_BLOCKS = 3
"""How many are made at most, for each that is wanted."""


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
    another, and then the saturated rate again: where that has changed, others have used the
    machine meanwhile, the block says nothing, and another is made. The median of the blocks counts.
    Beside it stands what the same arrivals would see in a queue for as many servers as there are
    cores, each of which takes as long as the lone caller waits: nothing slows another there, and no
    server can do better.

    Args:
        app: what is asked.
        payloads: sent in turn.
        concurrency: callers that saturate it.
        cores: that it has.
        blocks: how many.
        check: raises where it is to be given up.
    """

    def full() -> float:
        arrivals = closed(concurrency=concurrency)
        return load_test(app, payloads, arrivals, duration_s=2.0, progress=False).ok_rate

    kept: list[_Block] = []
    others: list[_Block] = []
    before = full()
    for seed in range(MOST_BLOCKS * blocks):
        block = _block(app, payloads, SHARE * before, seed, cores)
        before, rate_before = full(), before
        steady = 1 / CHANGED < before / rate_before < CHANGED
        (kept if steady else others).append(block)
        check()
        if len(kept) == blocks:
            break
    void = [f"{len(kept)} of {blocks} blocks: the machine is not steady"] * (len(kept) < blocks)
    counted = kept or others
    each = [block.p99_over_s1 for block in counted]
    return {
        "rate": median(block.rate for block in counted),
        "requests": sum(block.requests for block in counted),
        "s1_ms": median(block.s1_ms for block in counted),
        "p50_ms": median(block.p50_ms for block in counted),
        "p99_over_s1": {"value": median(each), "low": min(each), "high": max(each)},
        "queue_p99_over_s1": median(block.queue_p99_over_s1 for block in counted),
        "blocks": len(counted),
        "blocks_while_the_machine_changed": len(others),
        "p99_over_s1_of_those": [round(block.p99_over_s1, 2) for block in others],
        "void": [*void, *(reason for block in counted for reason in block.void)],
    }


class _Block(NamedTuple):
    rate: float
    requests: int
    s1_ms: float
    p50_ms: float
    p99_over_s1: float
    queue_p99_over_s1: float
    void: tuple[str, ...]


def _block(app: App, payloads: Sequence[Any], rate: float, seed: int, cores: int) -> _Block:
    lone = load_test(app, payloads, closed(concurrency=1), duration_s=2.0, progress=False)
    arrivals = poisson(rate=rate, seed=seed)
    result = load_test(app, payloads, arrivals, duration_s=REQUESTS / rate, progress=False)
    s1_ms, told = lone.summary()["p50_ms"], result.summary()
    ideal = queued(result.to_frame()["intended_s"], s1_ms / 1e3, cores)
    return _Block(
        rate,
        len(result),
        s1_ms,
        told["p50_ms"],
        told["p99_ms"] / s1_ms,
        float(np.quantile(ideal, 0.99)) / (s1_ms / 1e3),
        tuple(told["void"]),
    )


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
