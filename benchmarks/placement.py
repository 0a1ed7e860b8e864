"""The rule for replicas and threads: simulated on 8, 16 and 64 cores, measured on two.

``python -m benchmarks placement`` writes ``build/bench/placement.json``, and the plot beside it.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, cast

from mlkit.define import step
from mlkit.execute.cores import SWITCH_INTERVAL_S
from mlkit.load.analysis import ratio
from mlkit.pipelines import Pipeline, pipeline
from mlkit.plan import place, profile
from mlkit.plan.placement import throughput

__all__ = ["measure", "plot", "simulate", "simulated", "write"]

CORES = (8, 16, 64)
SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.8)
"""Shares of a request that hold the interpreter."""

REQUEST_MS = 10.0
SECTIONS = 3
"""How often a request goes from Python into code that lets go of the interpreter."""

CLIENTS_PER_CORE = 2
REQUESTS_PER_CORE = 50
HANDOVER_MS = 0.01
SWITCH_MS = 1e3 * SWITCH_INTERVAL_S

ITEM_MS = 4.0
MEASURED_SHARES = (0.1, 0.3, 0.5, 0.8)


# ---- simulated -----------------------------------------------------------------------------------

Section = tuple[bool, float]
"""Whether it needs the interpreter, and milliseconds."""

Thread = Iterator[Section]
"""A thread at work on a request: the sections that are left of it."""


@dataclass
class _Process:
    """A replica.

    Attributes:
        idle: number of threads without a request.
        queue: requests without a thread.
        waiting: threads that want the interpreter, and for how long.
        last: the thread that had it last.
    """

    idle: int
    queue: deque[Thread] = field(default_factory=deque)
    waiting: deque[tuple[Thread, float]] = field(default_factory=deque)
    locked: bool = False
    last: Thread | None = None
    outstanding: int = 0


class _Simulation:
    """Discrete events of a closed loop of clients, whose requests go to the least busy replica.

    Threads take turns at the interpreter of their process as in CPython: one that others wait for
    gives it up after the switch interval, and each change takes `HANDOVER_MS`.
    """

    def __init__(self, replicas: int, threads: int, request: Callable[[], Thread]) -> None:
        self.now, self.done = 0.0, 0
        self._request = request
        self._processes = [_Process(threads) for _ in range(replicas)]
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._ticket = count()

    def run(self, done: int) -> None:
        """Go on until so many requests are done."""
        while self.done < done:
            self.now, _, event = heapq.heappop(self._events)
            event()

    def send(self) -> None:
        """Send a request; another follows when it is done."""
        process = min(self._processes, key=lambda p: p.outstanding)
        process.outstanding += 1
        process.queue.append(self._request())
        if process.idle:
            process.idle -= 1
            self._advance(process, process.queue.popleft())

    def _after(self, ms: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + ms, next(self._ticket), event))

    def _advance(self, process: _Process, thread: Thread) -> None:
        locked, ms = next(thread, (False, -1.0))
        if ms < 0:
            self._finish(process)
        elif locked:
            process.waiting.append((thread, ms))
            self._grant(process)
        else:
            self._after(ms, lambda: self._advance(process, thread))

    def _grant(self, process: _Process) -> None:
        if process.locked or not process.waiting:
            return
        thread, ms = process.waiting.popleft()
        turn_ms = min(ms, SWITCH_MS) + HANDOVER_MS * (thread is not process.last)
        process.locked, process.last = True, thread

        def release() -> None:
            process.locked = False
            if ms > SWITCH_MS:
                process.waiting.append((thread, ms - SWITCH_MS))
            else:
                self._advance(process, thread)
            self._grant(process)

        self._after(turn_ms, release)

    def _finish(self, process: _Process) -> None:
        self.done += 1
        process.outstanding -= 1
        self.send()
        if process.queue:
            self._advance(process, process.queue.popleft())
        else:
            process.idle += 1


def simulate(cores: int, replicas: int, share: float, seed: int = 0) -> float:
    """Requests a second of all replicas; sections of a request have exponential lengths."""
    random = Random(seed)

    def request() -> Thread:
        for _ in range(SECTIONS):
            for locked, part in ((True, share), (False, 1 - share)):
                yield locked, random.expovariate(SECTIONS / (part * REQUEST_MS))

    simulation = _Simulation(replicas, cores // replicas, request)
    for _ in range(CLIENTS_PER_CORE * cores):
        simulation.send()
    warm = 10 * cores
    simulation.run(warm)
    began = simulation.now
    simulation.run(warm + REQUESTS_PER_CORE * cores)
    return 1e3 * (simulation.done - warm) / (simulation.now - began)


def simulated(cores: int, share: float) -> dict[str, Any]:
    """What the rule chooses, against what every power of two would bring."""
    chosen = place(share, 1 - share, cores=cores)
    counts = {2**i for i in range(cores.bit_length()) if 2**i <= cores} | {chosen.replicas}
    rps = {n: simulate(cores, n, share) for n in sorted(counts)}
    predicted = {n: 1e3 / REQUEST_MS * n * throughput(share, 1 - share, cores // n) for n in rps}
    return {
        "replicas": chosen.replicas,
        "threads": chosen.threads,
        "rps": rps,
        "predicted_rps": predicted,
        "over_best": rps[chosen.replicas] / max(rps.values()),
        "over_one": rps[chosen.replicas] / rps[1],
    }


# ---- measured ------------------------------------------------------------------------------------


def _hold(ms: float) -> None:
    until = time.thread_time() + ms / 1e3
    while time.thread_time() < until:
        pass


def _bytes_a_ms() -> float:
    buffer, times = bytes(1 << 20), []
    for _ in range(5):
        began = time.thread_time()
        hashlib.sha256(buffer)
        times.append(time.thread_time() - began)
    return len(buffer) / min(times) / 1e3


def computing(share: float) -> Pipeline[..., Any]:
    """Return a pipeline that holds the interpreter for that share of its time."""
    buffer = bytes(int((1 - share) * ITEM_MS * _bytes_a_ms()))

    @step
    def compute(number: int) -> int:
        _hold(share * ITEM_MS)
        hashlib.sha256(buffer)
        return number

    @pipeline
    def computed(number: int) -> int:
        return compute(number)

    return computed


def _rate(share: float, threads: int, begin: float, seconds: float) -> float:
    """Items a second of this process, from a time that others start at as well."""
    computed, items = computing(share), 0
    computed(0)
    time.sleep(max(0.0, begin - time.time()))
    began = time.perf_counter()
    while time.perf_counter() < began + seconds:
        items += sum(1 for _ in computed.map(range(32 * threads), workers=threads, progress=False))
    return items / (time.perf_counter() - began)


def _measured(
    share: float, pool: ProcessPoolExecutor, blocks: int, seconds: float, check: Callable[[], None]
) -> dict[str, Any]:
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(blocks):
        for replicas, of_blocks in rates.items():
            begin = time.time() + 0.3
            ends = [
                pool.submit(_rate, share, 2 // replicas, begin, seconds) for _ in range(replicas)
            ]
            of_blocks.append(sum(end.result() for end in ends))
            check()
    (cost,) = profile(computing(share), [0], seconds=seconds).costs
    two_over_one = ratio(rates[2], rates[1])
    return {
        "held": cost.held_ms / cost.cpu_ms,
        "replicas": place(share, 1 - share, cores=2).replicas,
        "rps": rates,
        "two_over_one": {**two_over_one._asdict(), "words": str(two_over_one)},
        "predicted": 2 / throughput(share, 1 - share, 2),
    }


def measure(
    blocks: int = 5, seconds: float = 1.0, check: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Simulate the rule on machines of several sizes, and measure it on two cores of this one."""
    results: dict[str, Any] = {}
    for cores in CORES:
        rows = {f"held{round(100 * share)}": simulated(cores, share) for share in SHARES}
        results[f"cores{cores}"] = rows
        check()
    every = [row for cores in CORES for row in results[f"cores{cores}"].values()]
    results["least_over_best"] = min(row["over_best"] for row in every)
    results["model_error"] = median(
        abs(row["predicted_rps"][n] / row["rps"][n] - 1) for row in every for n in row["rps"]
    )
    results["load"] = os.getloadavg()[0]  # of other processes, which make the rest less certain
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, spawn) as pool:
        results["measured"] = {
            f"held{round(100 * share)}": _measured(share, pool, blocks, seconds, check)
            for share in MEASURED_SHARES
        }
    return results


def write(out: Path, blocks: int, seconds: float, check: Callable[[], None]) -> None:
    """Measure, and write ``placement.json`` and ``placement.png``."""
    results = measure(blocks, seconds, check)
    out.mkdir(parents=True, exist_ok=True)
    (out / "placement.json").write_text(json.dumps(results, indent=2) + "\n")
    plot(results, out / "placement.png")
    print(f"placement: at least {results['least_over_best']:.0%} of the best, simulated")
    for name, row in results["measured"].items():
        words = row["two_over_one"]["words"]
        print(f"  {name}: two replicas over one {words}, predicted {row['predicted']:.2f}")
    print(f"  {out / 'placement.json'}")


def plot(results: dict[str, Any], path: Path) -> None:
    """Draw the simulated throughput over the number of replicas; the rule's choice is filled."""
    import matplotlib as mpl

    from mlkit.views.mpl.style import STYLE, subplots
    from mlkit.views.palette import QUIET, SERVED

    with mpl.rc_context(cast("Any", STYLE)):
        figure, axes = subplots(1, len(CORES), 2.6, sharey=True)
        for axis, cores in zip(axes, CORES, strict=True):
            for name, row in results[f"cores{cores}"].items():
                percents = {n: rps * REQUEST_MS / 10 / cores for n, rps in row["rps"].items()}
                axis.plot([*percents], [*percents.values()], color=SERVED, linewidth=1.2)
                axis.plot(row["replicas"], percents[row["replicas"]], "o", color=SERVED)
                axis.annotate(
                    name.removeprefix("held"),
                    (1, percents[1]),
                    (-4, 0),
                    textcoords="offset points",
                    ha="right",
                    va="center",
                    fontsize=7,
                    color=QUIET,
                )
            axis.set_xscale("log", base=2)
            ticks = [2**i for i in range(cores.bit_length())]
            axis.set_xticks(ticks, [str(n) for n in ticks])
            axis.set_xlim(0.5, cores * 1.2)
            axis.set_ylim(0, 105)
            axis.set_title(f"{cores} cores", loc="left", fontsize=10)
            axis.set_xlabel("replicas")
        axes[0].set_ylabel("% of the cores' throughput")
        figure.savefig(path)
