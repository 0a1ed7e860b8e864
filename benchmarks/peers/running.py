"""Starts a server in processes of its own, waits for its first answer, and ends it."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.peers.catalogue import Server
from benchmarks.peers.environments import ROOT, environment
from mlkit.errors import MlkitError
from mlkit.load.requests import HttpRequest
from mlkit.serving.control.flags import free_port
from tools.demo import baseline, processes

__all__ = ["Running", "answer", "running"]

START_TIMEOUT_S = 180.0
END_TIMEOUT_S = 20.0
ANSWER_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Running:
    """A server that answers.

    Attributes:
        server: which.
        port: of its HTTP front.
        mark: in the environment of all of its processes.
        ready_s: seconds from its start to its first answer.
    """

    server: Server
    port: int
    mark: str
    ready_s: float

    def cpu_times(self) -> processes.CpuTimes:
        """Seconds of CPU of all of its processes so far."""
        return processes.cpu_times(processes.marked(baseline.MARK, self.mark))

    def pss_mb(self) -> float:
        """Memory of all of its processes; what they share counts once."""
        total = 0
        for process in processes.marked(baseline.MARK, self.mark):
            with suppress(psutil.Error, OSError):
                total += process.memory_full_info().pss
        return total / 1e6


@contextmanager
def running(server: Server, ask: Callable[[int], HttpRequest], logs: Path) -> Iterator[Running]:
    """The server while the block runs.

    Args:
        server: what to start; its environment is made if it is missing.
        ask: the request that it has to answer before it counts as ready, by port.
        logs: folder for what it prints.

    Raises:
        MlkitError: it could not be installed, or did not answer.
    """
    python = environment(server.environment)
    port, mark = free_port(), secrets.token_hex(8)
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{server.name.replace(' ', '-').replace(',', '')}.log"
    ports = {"port": port, "admin": free_port()}
    own = {name: value.format(**ports) for name, value in server.variables.items()}
    began = time.perf_counter()
    with log.open("wb") as words:
        process = subprocess.Popen(
            [python, *(part.format(**ports) for part in server.command)],
            cwd=ROOT,
            env={**baseline.environment(os.environ, mark), **own},
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            start_new_session=True,
        )
    try:
        _wait(process, ask(port), log)
        yield Running(server, port, mark, time.perf_counter() - began)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_TIMEOUT_S)
        processes.end(baseline.MARK, mark)
        process.wait()


def answer(asked: HttpRequest) -> bytes:
    """The body of a good answer.

    Raises:
        OSError: there was none, or one with another status.
    """
    sent = urllib.request.Request(
        asked.url, data=asked.body, headers=dict(asked.headers), method=asked.method
    )
    with urllib.request.urlopen(sent, timeout=ANSWER_TIMEOUT_S) as response:
        return bytes(response.read())


def _wait(process: subprocess.Popen[bytes], asked: HttpRequest, log: Path) -> None:
    until = time.monotonic() + START_TIMEOUT_S
    why = "nothing"
    while time.monotonic() < until and process.poll() is None:
        try:
            answer(asked)
        except OSError as error:
            why = str(error)
            time.sleep(0.05)
        else:
            return
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    ended = f"it ended with status {process.returncode}" if process.poll() is not None else why
    raise MlkitError(
        "the server did not come up",
        got=f"{ended}: {lines[-1].strip() if lines else 'it said nothing'}"[:300],
        fix=f"its words are in {log}",
    )
