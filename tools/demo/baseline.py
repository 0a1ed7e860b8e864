"""The graph on plain Ray Serve, started in a Ray of its own and ended again."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import mlkit
from mlkit.errors import MlkitError
from mlkit.load.requests import HttpRequest
from mlkit.serving.control.flags import free_port
from tools.demo import processes

__all__ = ["BaselineError", "environment", "requests", "running"]

MARK = "MLKIT_BASELINE"
START_TIMEOUT_S = 180.0
END_TIMEOUT_S = 15.0


class BaselineError(MlkitError):
    """The graph to compare with did not come up; the demo goes on without it."""


def environment(outside: Mapping[str, str], mark: str) -> dict[str, str]:
    """The environment of a Ray of its own: none of the settings that mlkit or the caller make."""
    kept = {
        name: value
        for name, value in outside.items()
        if not name.startswith(("RAY_", "MLKIT_SESSION", "OMP_", "MKL_"))
    }
    root = str(Path(mlkit.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, kept.get("PYTHONPATH")]))
    # None of these makes it slower or faster: a token of its own instead of one in the home
    # folder, no word to anybody, a mark to find its processes by.
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    # Ray's processes write their titles over their environment unless told not to.
    marked = {MARK: mark, "SPT_NOENV": "1"}
    return {**kept, **own, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": path, **marked}


def requests(url: str, payloads: Sequence[Mapping[str, Any]]) -> list[HttpRequest]:
    """The requests that the app gets, as the graph takes them."""
    return [
        HttpRequest(
            url=f"{url}?title={quote(payload['title'])}",
            headers={"Content-Type": "image/jpeg"},
            body=payload["image"],
        )
        for payload in payloads
    ]


@contextmanager
def running(log: Path, *, compiled: bool = False) -> Iterator[str]:
    """The graph while the block runs, as its address; with mlkit's compiled model on demand.

    Raises:
        BaselineError: it did not come up; ``log`` has its words.
    """
    mark = secrets.token_hex(8)
    with log.open("wb") as words:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tools.demo.blog_graph", str(free_port())),
                *(["compiled"] if compiled else []),
            ],
            env=environment(os.environ, mark),
            start_new_session=True,  # signals of the terminal are for this process alone
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=words,
        )
    try:
        yield _address(process, log)
    finally:
        _end(process, mark)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Wait until it says where it is."""
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    until = time.monotonic() + START_TIMEOUT_S
    said = b""
    while time.monotonic() < until and process.poll() is None:
        said += process.stdout.read() or b""
        for line in said.splitlines():
            if line.startswith(b"ready: "):
                return line.removeprefix(b"ready: ").decode()
        time.sleep(0.05)
    raise BaselineError(
        "the graph on plain Ray Serve did not come up",
        got=_last_line(log),
        fix=f"its words are in {log.name}",
    )


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "nothing in its log"


def _end(process: subprocess.Popen[bytes], mark: str) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(OSError):
        process.stdin.close()
    try:
        _drain(process)
    finally:
        processes.end(MARK, mark)
        process.stdout.close()
        process.wait()


def _drain(process: subprocess.Popen[bytes]) -> None:
    """Let it end by itself, reading what it still says so that it is not held up."""
    assert process.stdout is not None
    until = time.monotonic() + END_TIMEOUT_S
    while process.poll() is None and time.monotonic() < until:
        process.stdout.read()
        time.sleep(0.05)
