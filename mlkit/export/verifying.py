"""`verify`: whether an exported pipeline answers as it did where it was written."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from mlkit.errors import ExportError, MlkitError, entry_point, printable
from mlkit.export import golden
from mlkit.export.exporting import DETAILS
from mlkit.export.parity import replayed

__all__ = ["Verification", "verify"]

START_S = 300.0
ATTEMPTS = 3
"""Starts of Ray: on a busy machine, its own timeout of 30 s may be too short."""

POLL_S = 0.5


_SERVE_RUN = """
import sys

import ray
from ray.serve.scripts import cli

ray.init(address="local", include_dashboard=False, namespace="serve")
cli(["run", sys.argv[1]])
"""
"""``serve run``, without Ray's dashboard, which takes longer to start than all else."""


@dataclass(frozen=True)
class Verification:
    """Outcome of golden requests.

    Attributes:
        folder: the exported folder.
        differences: by way and name of the request; None where the answers are equal. The ways are
            ``module`` and ``application``, in a fresh process, ``serve`` and ``url``.
    """

    folder: Path
    differences: Mapping[str, Mapping[str, str | None]]

    @property
    def equal(self) -> bool:
        """Whether every answer is equal on every way."""
        return all(
            difference is None
            for outcomes in self.differences.values()
            for difference in outcomes.values()
        )

    def __str__(self) -> str:
        lines = []
        for way, outcomes in self.differences.items():
            equal = sum(difference is None for difference in outcomes.values())
            lines.append(f"{way:12} {equal} of {len(outcomes)} equal")
            lines += [
                f"  request {name}: {difference}"
                for name, difference in outcomes.items()
                if difference is not None
            ]
        return printable("\n".join(lines))  # differences quote the server

    __repr__ = __str__


@entry_point
def verify(
    folder: str | PathLike[str],
    *,
    url: str | None = None,
    token: str | None = None,
    serve: bool = False,
) -> Verification:
    """Compare the answers to the golden requests of an export.

    Answers are equal in type and value, at every depth; those over HTTP in status, content type and
    content.

    Args:
        folder: the exported folder.
        url: of a server to ask, besides a fresh process.
        token: its bearer token; that in ``MLKIT_TOKEN`` by default.
        serve: whether to start the folder with ``serve run`` as well, on a free port.

    Raises:
        ExportError: the folder is no export, or its module cannot be imported.
    """
    path = Path(folder).absolute()
    try:
        details = json.loads((path / DETAILS).read_text(encoding="utf-8"))
        target, fastapi = details["target"], details.get("fastapi")
    except (OSError, ValueError, KeyError, TypeError):
        raise ExportError("not an exported pipeline", where=str(folder)) from None
    recorded = golden.read(path / "golden")
    differences = dict(replayed(path, target, fastapi)["ways"])
    if serve:
        with _serving(path) as (base, own_token):
            differences["serve"] = golden.send(base, own_token, recorded)
    if url is not None:
        known = token if token is not None else os.environ.get("MLKIT_TOKEN")
        differences["url"] = golden.send(url, known, recorded)
    return Verification(path, differences)


@contextmanager
def _serving(folder: Path) -> Iterator[tuple[str, str]]:
    """Run ``serve run`` on a free port; yield URL and token."""
    port, token = _free_port(), secrets.token_urlsafe(32)
    config = (folder / "serve.yaml").read_text(encoding="utf-8")
    lines = [
        f"http_options: {{host: 127.0.0.1, port: {port}}}"
        if line.startswith("http_options:")
        else line
        for line in config.splitlines()
    ]
    environment = {
        **os.environ,
        "MLKIT_TOKEN": token,
        "PYTHONPATH": _search_path(folder),
        # Otherwise Ray writes a token of its own into the home directory.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    environment.pop("RAY_ADDRESS", None)
    base = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="mlkit-serve-") as scratch:
        file, log = Path(scratch) / "serve.yaml", Path(scratch) / "serve.log"
        file.write_text("\n".join(lines), encoding="utf-8")
        process = _started(file, folder, environment, base, log)
        try:
            yield base, token
        finally:
            _stop(process)


def _started(
    config: Path, folder: Path, environment: Mapping[str, str], base: str, log: Path
) -> subprocess.Popen[bytes]:
    """Start ``serve run`` and wait until its application is ready.

    Raises:
        MlkitError: it ends, or it takes too long.
    """
    for left in reversed(range(ATTEMPTS)):
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", _SERVE_RUN, str(config)],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if _is_ready(base, process):
            return process
        _stop(process)
        text = log.read_text(errors="replace")
        if not left or "timed out during startup" not in text:
            break
    raise MlkitError(
        "`serve run` did not become ready",
        where=str(folder),
        got="\n".join(text.splitlines()[-15:]),
    )


def _search_path(folder: Path) -> str:
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_ready(base: str, process: subprocess.Popen[bytes]) -> bool:
    """Wait until the application is ready; False if the process ends, or it takes too long."""
    import httpx2

    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        with suppress(httpx2.TransportError):
            if httpx2.get(f"{base}/readyz", timeout=2.0).status_code == 200:
                return True
        time.sleep(POLL_S)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Interrupt ``serve run``, which shuts Serve and Ray down."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
