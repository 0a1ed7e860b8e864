"""Replicas, and threads of each, from cores, memory and the share that holds the interpreter.

A process has one interpreter: of its threads, those in Python code take turns, and those in code
that lets go of the interpreter compute side by side. `throughput` says how many requests a process
finishes with a number of threads, and `place` takes the most threads a process, so the fewest
processes, that come close to the best that the cores allow; never more threads in all than cores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

__all__ = ["NEAR_BEST", "Parallelism", "place", "throughput"]

NEAR_BEST = 0.9
"""Share of the best throughput that is enough.

Every further replica costs memory, starts more slowly, and has smaller batches.
"""

MOST_WAITING = 32
"""Maximum number of threads in a replica for calls that wait: each takes memory as well."""


@dataclass(frozen=True)
class Parallelism:
    """How a stage uses the cores of a machine.

    Attributes:
        replicas: number of processes.
        threads: threads of each that compute at a time, those of models included.
        waiting: further threads of each, for calls that wait and use no core.
        held: share of a request's time on a core that holds the interpreter.
        cores: cores of the stage, which its replicas share.
        limit: why there are not more replicas, where the rule would have more.
    """

    replicas: int
    threads: int
    waiting: int
    held: float
    cores: int
    limit: str = ""

    def shared_by(self, replicas: int) -> Parallelism:
        """Share the same cores among another number of replicas; each has at least a thread."""
        threads = max(1, self.cores // replicas)
        waiting = min(MOST_WAITING, round(self.waiting * threads / self.threads))
        return replace(self, replicas=replicas, threads=threads, waiting=waiting)

    def __str__(self) -> str:
        replicas = f"{self.replicas} replica{'s' * (self.replicas != 1)}"
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        limit = f", and {self.limit}" if self.limit else ""
        return f"{replicas} × {threads}: {self.held:.0%} of a request holds the interpreter{limit}"


def throughput(held_ms: float, free_ms: float, threads: int) -> float:
    """Requests per millisecond of a process whose threads are always busy.

    Mean value analysis (Reiser and Lavenberg, 1980) of a closed network: a processor-sharing
    station, since threads take turns at the interpreter every half millisecond, and a core of its
    own for each thread that does not need it. It is exact whatever the distribution of the times.

    Args:
        held_ms: what a request computes with the interpreter locked.
        free_ms: what it computes without.
        threads: number of threads, each with one request at a time.
    """
    queue = rate = 0.0
    for population in range(1, threads + 1):
        response_ms = held_ms * (1 + queue)
        rate = population / (response_ms + free_ms)
        queue = rate * response_ms
    return rate


def place(
    held_ms: float,
    free_ms: float,
    waiting_ms: float = 0.0,
    *,
    cores: int,
    memory: float = math.inf,
    replica_memory: float = 0.0,
    replica_cpus: float = 0.0,
    replicas: int | None = None,
) -> Parallelism:
    """Choose the number of replicas of a stage, and of threads in each.

    Args:
        held_ms: what a request computes with the interpreter locked.
        free_ms: what it computes without.
        waiting_ms: how long it waits, for a network or a disk.
        cores: cores for the stage.
        memory: bytes for the stage.
        replica_memory: bytes that each replica has for itself, without mapped files.
        replica_cpus: CPUs that Ray reserves for each replica.
        replicas: the number, if it is chosen already.
    """
    computing_ms = max(held_ms + free_ms, 1e-6)
    chosen, limit = replicas, ""
    if chosen is None:
        chosen = cores // _most_threads(held_ms, computing_ms - held_ms, cores)
        for total, each, reason in (
            (memory, replica_memory, "memory is short"),
            (cores, replica_cpus, f"{replica_cpus:g} CPUs are reserved for each"),
        ):
            if chosen * each > total:
                chosen, limit = max(1, int(total // each)), reason
    threads = max(1, cores // chosen)
    return Parallelism(
        replicas=chosen,
        threads=threads,
        waiting=min(MOST_WAITING, round(threads * waiting_ms / computing_ms)),
        held=held_ms / computing_ms,
        cores=cores,
        limit=limit,
    )


def _most_threads(held_ms: float, free_ms: float, cores: int) -> int:
    """Most threads of a replica with which all replicas together come near the best throughput."""
    rates = {n: cores // n * throughput(held_ms, free_ms, n) for n in range(1, cores + 1)}
    return max(n for n, rate in rates.items() if rate >= NEAR_BEST * max(rates.values()))
