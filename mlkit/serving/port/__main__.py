"""The session process: ``python -m mlkit.serving.port FOLDER``, started by a kernel."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from mlkit.serving.control import folders, watchdog
from mlkit.serving.control.host import Host
from mlkit.serving.port import forkserver
from mlkit.serving.port.cluster import RayCluster, start_ray, stop_ray
from mlkit.serving.port.gathering import RayTelemetry
from mlkit.serving.private import missing_uses

__all__ = ["main"]

STOP_S = 30.0
"""Timeout for the shutdown of Ray and Serve, which happens in the background."""


def main(argument: str) -> None:
    """Start Ray and Serve in the main thread, and serve calls until the session ends."""
    folder = Path(argument)
    settings = json.loads((folder / "settings.json").read_text())
    local = settings["address"] == "local"
    guard = watchdog.start(folder)
    with forkserver.running(folder) if local else nullcontext():
        _run(folder, settings, RayCluster(local=local))
    guard.terminate()
    guard.wait()


def _run(folder: Path, settings: Mapping[str, Any], cluster: RayCluster) -> None:
    start_ray(
        settings["address"],
        host=settings["host"],
        port=settings["port"],
        object_store_bytes=settings["object_store_bytes"],
        folder=folder / "ray",
    )
    host: Host | None = None

    async def run() -> None:
        nonlocal host
        host = Host(folder, settings, cluster, RayTelemetry(f"mlkit-metrics-{folder.name}"))
        checking = asyncio.create_task(asyncio.to_thread(_warn_of_missing_uses))
        await host.run()
        await checking

    try:
        asyncio.run(run())
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # it is already ending
        watchdog.limit(STOP_S)
        stop_ray(settings["address"], host.applications if host else [])
        watchdog.sweep(folder.name)
        folders.remove(folder)


def _warn_of_missing_uses() -> None:
    for use in missing_uses():
        logging.warning("%s", use)


if __name__ == "__main__":
    main(sys.argv[1])
