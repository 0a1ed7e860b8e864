"""Prestarted worker processes for the next replicas of autoscaled apps.

A new worker process takes a second to import Ray, and seconds if it is not forked from one that has
imported what it needs (see `forkserver`). Ray prestarts some workers when it starts, which import
their modules in advance (``RAY_preload_python_modules`` in `control/flags.py`).
``PrestartWorkers``, a private call of ray 2.60, starts more; if it fails, replicas start without.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

__all__ = ["Spares"]

logger = logging.getLogger(__name__)

SPARES = 2
KEEP_S = 3600
AGAIN_S = 5.0
FREE_CORES = 0.7


class Spares:
    """Keeps a number of idle worker processes on the machine of a local session."""

    def __init__(
        self,
        count: int = SPARES,
        *,
        idle: Callable[[], int] | None = None,
        free: Callable[[], float] | None = None,
        start: Callable[[int], None] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.count = count
        self._idle = idle or _count_idle
        self._free = free or _free_cores
        self._start = start or _prestart
        self._now = now
        self._next = 0.0
        self._failed = False

    def keep(self) -> None:
        """Start a missing worker if a core is idle.

        Its start takes a core; two at once delayed requests on a busy machine.
        """
        if self._failed or self._now() < self._next:
            return
        self._next = self._now() + AGAIN_S
        try:
            free = self._free() >= FREE_CORES
            if free and self._idle() < self.count:
                self._start(1)
        except Exception as error:
            self._failed = True
            logger.warning("cannot prestart worker processes: %s", error)


def _count_idle() -> int:
    import psutil

    count = 0
    for child in psutil.Process().children(recursive=True):
        try:
            count += child.cmdline()[:1] == ["ray::IDLE"]
        except psutil.Error:
            continue
    return count


def _free_cores() -> float:
    """Return the number of idle cores since the last call."""
    import psutil

    return (psutil.cpu_count() or 1) * (1 - psutil.cpu_percent() / 100)


def _prestart(count: int) -> None:
    import ray
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import common_pb2, node_manager_pb2, node_manager_pb2_grpc

    state: Any = ray
    messages: Any = node_manager_pb2
    common: Any = common_pb2
    node = state.nodes()[0]
    address = f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
    channel = init_grpc_channel(address, None, asynchronous=False)
    try:
        stub = node_manager_pb2_grpc.NodeManagerServiceStub(channel)  # type: ignore[no-untyped-call]
        request = messages.PrestartWorkersRequest(
            language=common.PYTHON,
            num_workers=count,
            keep_alive_duration_secs=KEEP_S,
            job_id=b"\xff" * 4,  # of no job
        )
        stub.PrestartWorkers(request, timeout=5)
    finally:
        channel.close()
