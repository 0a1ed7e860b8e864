"""Puts load on a running server, and looks at its answers."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median
from time import perf_counter

from benchmarks.peers.catalogue import request, tags_of
from benchmarks.peers.figures import Point, Round
from benchmarks.peers.running import Running, answer
from benchmarks.peers.tagger import EagerModel, Tagger
from mlkit.load import closed, load_test, poisson
from mlkit.load.requests import HttpRequest
from tools.demo import processes

__all__ = ["Effort", "answers", "one_round", "reference", "saturated", "service_ms"]

CLIENTS = 16
LATEST_S = 10.0
"""A request that takes longer has failed: a server behind its rate should not hold up the rest."""


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        rounds: after the pilot.
        seconds: of a closed loop.
        point_s: seconds of Poisson arrivals at each rate.
        shares: rates, as shares of the best peer's saturated throughput in the pilot.
    """

    rounds: int = 5
    seconds: float = 5.0
    point_s: float = 8.0
    shares: tuple[float, ...] = (0.6, 0.7, 0.8, 0.9, 1.0)


def reference(images: Sequence[bytes]) -> list[frozenset[str]]:
    """The tags of eager torch in fp32, in this process."""
    tagger = Tagger(EagerModel())
    return [frozenset(tagger(image).tags) for image in images]


def service_ms(images: Sequence[bytes]) -> float:
    """Milliseconds for one image in one thread, with the compiled model: the median."""
    tagger = Tagger()
    times = []
    for image in images:
        began = perf_counter()
        tagger(image)
        times.append(perf_counter() - began)
    return 1e3 * median(times)


def answers(running: Running, images: Sequence[bytes]) -> list[frozenset[str]]:
    """The tags of each image as the server has them."""

    def ask(image: bytes) -> frozenset[str]:
        body = answer(request(running.server, running.port, image))
        return tags_of(running.server, body)

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(ask, images))


def one_round(
    running: Running, images: Sequence[bytes], effort: Effort, best: float, number: int
) -> Round:
    """Measure a server that has just started.

    Args:
        running: the server.
        images: sent in the same order to each server.
        effort: how much.
        best: saturated throughput of the best peer, of which the rates are shares; 0 for none.
        number: of the round; the seed of the schedules, so that all servers get the same.
    """
    requests = [request(running.server, running.port, image) for image in images]
    saturated(running, requests, 2.0)  # warms up
    alone = load_test(
        requests[0].url,
        requests,
        closed(concurrency=1),
        duration_s=1.5,
        warmup_s=0,
        progress=False,
    )
    rate, cpu_ms, client_cores = saturated(running, requests, effort.seconds)
    points = [
        _point(requests, share, share * best, effort.point_s, seed=100 * number + i)
        for i, share in enumerate(effort.shares)
        if best and running.server.track == "equal"
    ]
    return Round(
        ready_s=running.ready_s,
        saturated=rate,
        cpu_ms=cpu_ms,
        s1_ms=alone.percentiles["p50"].value_ms,
        pss_mb=running.pss_mb(),
        client_cores=client_cores,
        points=tuple(points),
    )


def saturated(
    running: Running, requests: Sequence[HttpRequest], seconds: float
) -> tuple[float, float, float]:
    """Answers per second in a closed loop, CPU in ms of each, and the client's cores."""
    before = running.cpu_times()
    result = load_test(
        requests[0].url,
        requests,
        closed(concurrency=CLIENTS),
        duration_s=seconds,
        warmup_s=0,  # so that the CPU and the requests are of the same time
        progress=False,
    )
    spent = processes.spent(before, running.cpu_times())
    cpu_ms = 1e3 * sum(spent.values()) / max(1, int(result.ok.sum()))
    return result.ok_rate, cpu_ms, result.client.cores


def _point(
    requests: Sequence[HttpRequest], share: float, rate: float, seconds: float, seed: int
) -> Point:
    result = load_test(
        requests[0].url,
        requests,
        poisson(rate=rate, seed=seed),
        duration_s=seconds,
        timeout_s=LATEST_S,
        progress=False,
    )
    return Point(share, rate, result.percentiles["p99"].value_ms, bool(result.void))
