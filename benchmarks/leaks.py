"""What grows while an app serves: memory, files, threads, processes, disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.sessions import DEPLOY_S, in_session
from benchmarks.swap import within
from mlkit.define import step
from mlkit.load import closed, load_test
from mlkit.pipelines import pipeline
from mlkit.serving import App, deploy
from mlkit.serving.control.watchdog import processes_of

__all__ = ["growth", "slope_per_10k", "soak"]

REQUESTS, WARM_UP, BLOCK_S = 50_000, 10_000, 4.0
"""Requests that are counted, those before, and seconds between two looks at the processes."""
COUNTS = ("fds", "threads", "processes", "disk_mb")


def slope_per_10k(requests: Sequence[float], values: Sequence[float]) -> float:
    """Growth of a value by 10,000 requests: the median of the slopes between all pairs.

    That of Theil and Sen: a single outlier, such as a collection of garbage, does not move it.
    """
    x, y = np.asarray(requests, float), np.asarray(values, float)
    first, second = np.triu_indices(len(x), 1)
    apart = x[second] > x[first]
    if not apart.any():
        return 0.0
    slopes = (y[second] - y[first])[apart] / (x[second] - x[first])[apart]
    return float(1e4 * np.median(slopes))


def growth(looks: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """What has grown from look to look.

    Args:
        looks: number of ``requests`` so far, ``mb`` of memory, and the counts of `COUNTS`.
    """
    requests = [look["requests"] for look in looks]
    counted = {name: [look[name] for look in looks] for name in COUNTS}
    return {
        "mb_per_10k": slope_per_10k(requests, [look["mb"] for look in looks]),
        "mb": [round(look["mb"], 1) for look in looks],
        "requests": requests[-1] - requests[0],
        "grown": {name: values[-1] - values[0] for name, values in counted.items()},
        "counts": counted,
    }


@step
def add(x: float) -> float:
    """Add one."""
    return x + 1


@pipeline
def little(x: float) -> float:
    """Add one to a number."""
    return add(x)


def soak(check: Callable[[], None], seconds: float | None) -> dict[str, Any]:
    """Serve many requests, and look at the processes of the session in between.

    Args:
        check: raises where the user has interrupted.
        seconds: between two looks.
    """
    with in_session() as session:
        app = within(DEPLOY_S, "the deployment", partial(deploy, little, progress=False))
        sent = failed = 0
        looks: list[dict[str, float]] = []
        while sent < WARM_UP + REQUESTS:
            result = load_test(
                app,
                [{"x": float(i)} for i in range(50)],
                closed(concurrency=8),
                duration_s=seconds or BLOCK_S,
                warmup_s=0.0,
                progress=False,
            )
            sent += len(result)
            failed += int((~result.ok).sum())
            if sent >= WARM_UP:
                looks.append(_look(app, session.folder, sent))
            check()
    return {**growth(looks), "failed": failed}


def _look(app: App, folder: Path, sent: int) -> dict[str, float]:
    """Look at the processes and the files of a session; the memory is that of the replicas."""
    replicas = {each["pid"] for each in app.placement().replicas}
    look = dict.fromkeys(("mb", *COUNTS), 0.0)
    for process in processes_of(folder.name):
        try:
            with process.oneshot():
                fds, threads = process.num_fds(), process.num_threads()
                used = process.memory_full_info().uss
        except psutil.Error:
            continue
        look["processes"] += 1
        look["fds"] += fds
        look["threads"] += threads
        if process.pid in replicas:
            look["mb"] += used / 2**20
    look["disk_mb"] = sum(_size(path) for path in folder.rglob("*")) / 2**20
    return {"requests": float(sent), **look}


def _size(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512 if path.is_file() and not path.is_symlink() else 0
    except OSError:
        return 0
