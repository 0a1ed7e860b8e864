"""The gRPC gateway of an app: ``mlkit grpc`` as a process of the app's session."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from mlkit.errors import DeployError
from mlkit.serving.control.owner import Owner
from mlkit.serving.kernel.process import process_environment

__all__ = ["AppGateway"]

STOP_S = 10.0

_started: dict[int, subprocess.Popen[bytes]] = {}
"""Processes that this one has started, by id, to be waited for."""


@dataclass(frozen=True)
class AppGateway:
    """The gateway of one app, which may not run.

    Its process outlives the kernel, as the app does. It ends with the session, which ends all
    processes with its mark.

    Attributes:
        folder: the session's folder.
        app: the app's name.
    """

    folder: Path
    app: str

    @property
    def _file(self) -> Path:
        return self.folder / f"grpc-{self.app}.json"

    def _running(self) -> dict[str, Any] | None:
        """Its address, process and options."""
        try:
            details: dict[str, Any] = json.loads(self._file.read_text())
        except (OSError, ValueError):
            return None
        return details if Owner(details["pid"], details["started"]).alive else None

    @property
    def address(self) -> str | None:
        """Its ``HOST:PORT``; None if it does not run."""
        running = self._running()
        return None if running is None else running["address"]

    def start(self, url: str, max_body_bytes: int) -> str:
        """Start it, unless it runs with the same options, and return its address.

        Args:
            url: of the app.
            max_body_bytes: the app's limit.

        Raises:
            DeployError: it did not start.
        """
        options = {"url": url, "max_body_bytes": max_body_bytes}
        running = self._running()
        if running is not None and running.items() >= options.items():
            return str(running["address"])
        self.stop()
        command = [sys.executable, "-m", "mlkit.cli", "grpc", url, "--port", "0"]
        log = self.folder / f"grpc-{self.app}.log"
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [*command, "--max-body-bytes", str(max_body_bytes)],
                env=process_environment(self.folder, "local"),
                cwd=self.folder,
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        _started[process.pid] = process
        assert process.stdout is not None
        with process.stdout as output:
            line = output.readline().decode()
        if not line.startswith("ready: "):
            process.wait()
            lines = log.read_text(errors="replace").strip().splitlines()
            raise DeployError(
                "its gRPC gateway did not start",
                where=f"app {self.app!r}",
                got=lines[-1] if lines else f"exit status {process.returncode}",
            )
        address = line.removeprefix("ready: ").strip()
        owner = Owner.of(process.pid)
        process_details = {"address": address, "pid": owner.pid, "started": owner.started}
        self._file.write_text(json.dumps(options | process_details))
        return address

    def stop(self) -> None:
        """Finish the calls in flight, and stop; does nothing if it does not run."""
        running = self._running()
        if running is not None:
            pid = running["pid"]
            with suppress(psutil.Error, subprocess.TimeoutExpired):
                process = _started.pop(pid, None) or psutil.Process(pid)
                process.terminate()
                process.wait(STOP_S)
        self._file.unlink(missing_ok=True)
