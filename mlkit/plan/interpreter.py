"""How long a call holds the interpreter: its lock, the GIL, without which no other Python runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from statistics import median

from mlkit.execute.cores import prompt_switching

__all__ = ["held_s", "least_held_s"]

READS = 64
"""Reads of the step's clock while the probe holds the lock, about 50 µs in all."""

QUANTILE = 0.05
"""Quantile of the calls' shares that counts; see `least_held_s`."""


def held_s(
    call: Callable[[int], object],
    seconds: float,
    clock: Callable[[], float],
    thread: int | None = None,
) -> float:
    """Measure how many seconds of CPU time a call spends with the interpreter locked.

    A second thread, the probe, competes for the lock. Whenever it has it, it reads the CPU clock of
    the step's thread again and again: what the step computes meanwhile, it computes without the
    lock, and the rest of its CPU time is with it. Only CPU clocks are compared, so that time in
    which either thread waits, for the lock or for a core, does not count.

    Args:
        call: makes the i-th call, on real inputs.
        seconds: minimum time to measure; at least three calls are.
        clock: returns seconds.
        thread: identifier of the thread that runs the step; this one by default.
    """
    step = time.pthread_getcpuclockid(thread or threading.get_ident())
    reads = (step,) * READS
    samples: list[float] = []
    started, stopped = threading.Event(), threading.Event()

    def probe() -> None:
        started.set()
        while not stopped.is_set():
            # One call into C: the lock cannot change hands between the first read and the last.
            samples.extend(map(time.clock_gettime, reads))

    spent: list[tuple[float, float]] = []
    prober = threading.Thread(target=probe, name="mlkit-probe", daemon=True)
    with prompt_switching():
        prober.start()
        try:
            started.wait()
            until = clock() + seconds
            while len(spent) < 3 or clock() < until:
                began = time.clock_gettime(step)
                samples.clear()
                call(len(spent))
                count = len(samples)
                cpu_s = time.clock_gettime(step) - began
                spent.append((cpu_s, _without_lock_s(samples[:count])))
        finally:
            stopped.set()
            prober.join()
    return least_held_s(spent)


def _without_lock_s(samples: Sequence[float]) -> float:
    return sum(samples[READS - 1 :: READS]) - sum(samples[::READS])


def least_held_s(spent: Sequence[tuple[float, float]]) -> float:
    """Estimate the time with the lock of a call from those that were measured.

    A call that lets go of the lock while no core is free for the probe seems to hold it still, and
    nothing makes it seem to hold it for less. So a low quantile of the shares counts.

    Args:
        spent: CPU time of each call, and how much of it was without the lock, in seconds.
    """
    shares = sorted(1 - free / cpu if cpu else 1.0 for cpu, free in spent)
    share = shares[int(QUANTILE * len(shares))]
    return max(0.0, share) * median(cpu for cpu, _ in spent)
