"""The session process: ``python -m mlkit.serving.port FOLDER``, started by a kernel."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from pathlib import Path

from mlkit.serving.control import folders, watchdog
from mlkit.serving.control.host import Host
from mlkit.serving.port.cluster import RayCluster, start_ray, stop_ray
from mlkit.serving.port.gathering import RayTelemetry
from mlkit.serving.private import missing_names

__all__ = ["main"]

STOP_S = 30.0
"""How long the end of Ray and Serve may take; nobody waits for it."""


def main(argument: str) -> None:
    """Start Ray and Serve in the main thread, and serve calls until the session ends."""
    folder = Path(argument)
    settings = json.loads((folder / "settings.json").read_text())
    guard = watchdog.start(folder)
    start_ray(
        settings["address"],
        host=settings["host"],
        port=settings["port"],
        object_store_bytes=settings["object_store_bytes"],
        folder=folder / "ray",
    )
    cluster = RayCluster(local=settings["address"] == "local")
    host: Host | None = None

    async def run() -> None:
        nonlocal host
        host = Host(folder, settings, cluster, RayTelemetry(f"mlkit-metrics-{folder.name}"))
        checking = asyncio.create_task(asyncio.to_thread(_warn_of_missing_names))
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
        guard.terminate()
        guard.wait()


def _warn_of_missing_names() -> None:
    for name in missing_names():
        logging.warning("%s is missing (%s): %s", name.name, name.used_for, name.without)


if __name__ == "__main__":
    main(sys.argv[1])
