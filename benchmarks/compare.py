"""Two ways to tag pictures, measured by turns, and how sure their ratio is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mlkit.load.analysis import Ratio, ratio
from mlkit.pipelines import Pipeline
from mlkit.serving import App
from tools.demo import offline, served
from tools.demo.offline import Block

__all__ = ["comparison", "offline_and_eager", "served_and_offline"]


def offline_and_eager(
    pipeline: Pipeline[..., Any],
    payloads: Sequence[dict[str, Any]],
    *,
    blocks: int,
    seconds: float,
    check: Callable[[], None],
) -> dict[str, Any]:
    """The pipeline at full speed against eager torch, both in this process."""
    eager = offline.Eager()
    pictures = [payload["image"] for payload in payloads]
    timings = offline.by_turns(
        [
            lambda: offline.run_offline(pipeline, payloads, seconds),
            lambda: offline.run_eager(eager, pictures, seconds),
        ],
        blocks,
        check,
    )
    return comparison("offline", timings[0], "eager", timings[1])


def served_and_offline(
    app: App,
    pipeline: Pipeline[..., Any],
    payloads: Sequence[dict[str, Any]],
    *,
    blocks: int,
    seconds: float,
    check: Callable[[], None],
) -> dict[str, Any]:
    """The app in a closed loop against the pipeline at full speed in this process.

    The app stays up, and idle, while the latter is measured: that costs it some per cent of the
    cores. ``client_cores`` is what the load generator took of them from the former.
    """
    concurrency = served.best_concurrency(app, payloads, check)
    clients: list[float] = []

    def load() -> Block:
        load = served.saturate(app, payloads, concurrency, seconds)
        clients.append(load.result.client.cores)
        answered = int(load.result.ok.sum())
        return Block(answered, load.result.duration_s, sum(load.cpu_s.values()))

    timings = offline.by_turns(
        [load, lambda: offline.run_offline(pipeline, payloads, seconds)], blocks, check
    )
    compared = comparison("served", timings[0], "offline", timings[1])
    return {**compared, "concurrency": concurrency, "client_cores": clients}


def comparison(
    name: str, blocks: Sequence[Block], other: str, others: Sequence[Block]
) -> dict[str, Any]:
    """Rates and CPU of both, raw, and the ratios of their means with 95% intervals."""
    return {
        "rates": {name: [b.rate for b in blocks], other: [b.rate for b in others]},
        "cpu_ms": {name: [b.cpu_ms for b in blocks], other: [b.cpu_ms for b in others]},
        "rate_ratio": _plain(ratio([b.rate for b in blocks], [b.rate for b in others])),
        "cpu_ratio": _plain(ratio([b.cpu_ms for b in blocks], [b.cpu_ms for b in others])),
        "seconds": [b.wall_s for b in blocks],
    }


def _plain(measured: Ratio) -> dict[str, Any]:
    return {**measured._asdict(), "words": str(measured)}
