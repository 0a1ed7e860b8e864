"""The process of a session: how it is started, and whether it is still running."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import mlkit
from mlkit.serving.control.flags import ray_environment
from mlkit.serving.control.haproxy import Tls, haproxy_binary, write_launcher
from mlkit.serving.control.watchdog import processes_of

__all__ = [
    "ends",
    "has_processes",
    "is_attended",
    "last_line",
    "process_environment",
    "spawn",
    "started",
]

started: dict[Path, subprocess.Popen[bytes]] = {}
"""Session processes started by this process, by folder."""


def process_environment(folder: Path, address: str) -> dict[str, str]:
    """Return the environment of a process that starts or joins Ray.

    Args:
        folder: the folder of the process.
        address: of a cluster; "local" to start Ray.
    """
    environment = {**os.environ, **ray_environment(folder)}
    if address != "local":  # a cluster has its own token
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            environment.pop(name)
            if name in os.environ:
                environment[name] = os.environ[name]
    root = str(Path(mlkit.__file__).resolve().parents[1])
    if "site-packages" not in root:  # a checkout: replicas need it, too
        environment["PYTHONPATH"] = os.pathsep.join(
            [root, *filter(None, [environment.get("PYTHONPATH")])]
        )
    return environment


def spawn(folder: Path, address: str, tls: Tls | None) -> subprocess.Popen[bytes]:
    """Start the process of a session, detached from this one."""
    write_launcher(folder, haproxy_binary(), tls)
    environment = process_environment(folder, address)
    with (folder / "host.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "mlkit.serving.port", str(folder)],
            env=environment,
            cwd=folder,  # HAProxy needs it when it reloads; the notebook's may be moved
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def last_line(log: Path) -> str:
    """Return the last line of a log that is not empty."""
    try:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return "no log"
    return lines[-1] if lines else "its log is empty"


def is_attended(folder: Path) -> bool:
    """Return whether the process of a session, or its watchdog, is still running."""
    import psutil

    return any(
        str(folder) in (process.info["cmdline"] or ())
        for process in psutil.process_iter(["cmdline"])
    )


def has_processes(folder: Path) -> bool:
    """Return whether any process of a session, or its watchdog, is still running."""
    return is_attended(folder) or bool(processes_of(folder.name))


def ends(pid: int, timeout_s: float) -> bool:
    """Wait until a process has ended; return False if it has not in time."""
    until = time.monotonic() + timeout_s
    while _exists(pid):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def _exists(pid: int) -> bool:
    import psutil

    for child in started.values():
        if child.pid == pid:
            return child.poll() is None
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
