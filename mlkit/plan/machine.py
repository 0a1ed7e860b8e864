"""What a plan needs, and what is known of this machine without Ray."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psutil

__all__ = [
    "Demand",
    "available_memory",
    "machine_resources",
    "memory",
    "own_memory",
    "requested",
    "shortfalls",
]

CGROUP = Path("/sys/fs/cgroup")

DEVICES = Path("/dev")
NVIDIA = "nvidia[0-9]*"
OTHER_GPUS = ("dxg", "kfd", "dri/renderD*")
"""Devices of GPUs whose number they do not tell: WSL, AMD, Intel."""


class Demand(NamedTuple):
    """The replicas of a stage, and the resources that Ray reserves for each, by Ray's names."""

    stage: str
    replicas: int
    each: Mapping[str, float]


def requested(actor_options: Mapping[str, Any]) -> dict[str, float]:
    """Return the resources that a replica requests, by Ray's names."""
    named = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
    amounts = {named[k]: float(v) for k, v in actor_options.items() if k in named and v}
    return amounts | {k: float(v) for k, v in (actor_options.get("resources") or {}).items()}


def machine_resources() -> dict[str, float]:
    """Return the most that a Ray on this machine could have; infinite where it is unknown."""
    others = any(any(DEVICES.glob(pattern)) for pattern in OTHER_GPUS)
    gpus = math.inf if others else len(list(DEVICES.glob(NVIDIA)))
    return {"CPU": os.cpu_count() or 1, "GPU": gpus}


def memory() -> tuple[int, int]:
    """Return total and available bytes of memory, within the limit of the container."""
    machine = psutil.virtual_memory()
    try:
        limit, used = (int((CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
    except (OSError, ValueError):  # no limit
        return int(machine.total), int(machine.available)
    return min(machine.total, limit), min(machine.available, limit - used)


def available_memory() -> int:
    """Return the bytes that new processes can use here."""
    return memory()[1]


def own_memory() -> int:
    """Return the bytes that this process has for itself: all but the files that it maps."""
    memory = psutil.Process().memory_info()
    return int(memory.rss - memory.shared)


def shortfalls(
    demands: Iterable[Demand], total: Mapping[str, float], *, other: float = 0.0
) -> Iterator[str]:
    """Yield what all replicas together need beyond a total: ``needs 1 GPU, there is none``.

    Args:
        demands: the stages.
        total: resources by Ray's names.
        other: amount of a resource that is not among them.
    """
    demands = list(demands)
    for resource in dict.fromkeys(name for demand in demands for name in demand.each):
        stages = [demand for demand in demands if demand.each.get(resource) and demand.replicas]
        needed = sum(stage.replicas * stage.each[resource] for stage in stages)
        available = total.get(resource, other)
        if needed > available + 1e-6:
            parts = ", ".join(f"{s.stage} {s.replicas} × {s.each[resource]:g}" for s in stages)
            has = _amount(available, resource) if available else "none"
            yield f"needs {_amount(needed, resource)} ({parts}), this machine has {has}"


def _amount(value: float, resource: str) -> str:
    if resource == "memory":
        return f"{value / 2**20:,.0f} MiB of memory"
    plural = "s" if value != 1 and resource in ("CPU", "GPU") else ""
    return f"{round(value, 4):g} {resource}{plural}"
