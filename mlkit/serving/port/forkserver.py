"""A fork server for Ray's worker processes: ``python -m mlkit.serving.port.forkserver``.

A worker of Ray is a new Python process that imports Ray, Serve and the modules of a replica, which
takes seconds of CPU time. The fork server imports what they depend on once per session, while Ray
starts, and each worker is a fork of it; the processes share the memory of what was imported. A
worker imports Ray itself: `ray._raylet` reads variables that differ between workers when loaded.

`start_worker` stands in for the command with which Ray starts a worker: it passes its arguments,
environment, working directory and standard streams to the fork server and ends. A worker that
needs another interpreter, a container, or environment variables that are read during the imports
is declined, and starts as usual.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from mlkit.serving.port.imports import deferred_grammar
from mlkit.serving.port.start_worker import FORKED, SOCKET

__all__ = ["WorkerRequest", "acceptable", "running"]

DEPENDENCIES = (
    *("mlkit.serving.replica.front", "mlkit.serving.replica.stage"),
    *("aiohttp", "fastapi", "google.protobuf", "grpc.aio", "jsonschema", "pandas", "pyarrow"),
    *("requests", "uvicorn"),
)
"""Modules of a replica, and dependencies of Ray and Serve; none of them imports Ray."""
LATER = "MLKIT_PRELOAD"
"""Variable with the names of modules that are imported as soon as no worker is asked for."""

IDLE_S = 0.3
RECEIVE_S = 5.0

READ_DURING_IMPORTS = (
    *("PYTHON", "LD_", "MALLOC_", "PYDANTIC_"),
    *("OPENBLAS_", "GOTO_", "BLIS_", "MKL_", "OMP_", "KMP_", "GOMP_", "NPY_", "NUMPY_"),
    *("TORCH", "PYTORCH_", "ATEN_", "ARROW_", "GRPC_"),
)
"""Prefixes of variables that apply when a process or a library of the fork server starts."""


@dataclass(frozen=True)
class WorkerRequest:
    """What a worker process is started with.

    Attributes:
        arguments: path of Ray's script of a worker, and its arguments.
        environment: the process's variables.
        folder: working directory.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str]
    folder: str

    @cached_property
    def _setup(self) -> tuple[argparse.Namespace, list[str]]:
        return _setup_parser().parse_known_args(self.arguments)

    @property
    def language(self) -> str:
        """Language of the worker."""
        language: str = self._setup[0].language
        return language

    @property
    def context(self) -> Mapping[str, Any]:
        """Ray's description of the worker's runtime environment."""
        context: Mapping[str, Any] = json.loads(self._setup[0].serialized_runtime_env_context)
        return context

    @property
    def worker_arguments(self) -> list[str]:
        """The arguments without those that Ray's setup of a worker consumes."""
        return self._setup[1]


def _setup_parser() -> argparse.ArgumentParser:
    """The options of Ray's ``setup_worker.py``."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--language", default="PYTHON")
    parser.add_argument("--serialized-runtime-env-context", default="{}")
    return parser


def acceptable(request: WorkerRequest, environment: Mapping[str, str]) -> bool:
    """Whether a fork of a process with this environment behaves like a new process."""
    context = request.context
    if request.language != "PYTHON" or context.get("command_prefix"):
        return False
    if context.get("py_executable") not in (None, sys.executable):
        return False
    if context.get("override_worker_entrypoint"):
        return False
    names = {*request.environment, *environment}
    changed = {n for n in names if request.environment.get(n) != environment.get(n)}
    changed.update(context.get("env_vars") or ())
    return not any(name.startswith(READ_DURING_IMPORTS) for name in changed)


@contextmanager
def running(folder: Path) -> Iterator[None]:
    """Run a fork server, and set the variable by which `start_worker` finds it.

    Args:
        folder: folder of its socket.
    """
    path = str(folder / "fork")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        process = subprocess.Popen(
            # The titles of workers replace the arguments, and may take as much room.
            [sys.executable, "-m", __name__, str(listener.fileno()), " " * 1024],
            pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE,
        )
    os.environ[SOCKET] = path
    try:
        yield
    finally:
        os.environ.pop(SOCKET, None)
        assert process.stdin
        process.stdin.close()  # it ends
        process.wait()
        Path(path).unlink(missing_ok=True)


def main(listener: socket.socket) -> None:
    """Import the modules, fork workers until standard input is closed, and be one in a fork."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies
    environment = dict(os.environ)
    with deferred_grammar():
        for module in DEPENDENCIES:
            _import(module)
    request = _serve(listener, environment, environment.get(LATER, "").split())
    listener.close()
    if request is not None:
        _work(request)


def _import(module: str) -> None:
    with suppress(Exception):  # a worker imports it again, and raises the error where it is seen
        import_module(module)
    gc.collect()
    gc.freeze()  # a collection in a worker would copy the pages of all objects


def _serve(
    listener: socket.socket, environment: Mapping[str, str], later: list[str]
) -> WorkerRequest | None:
    """Fork workers; returns in each of them, and when standard input is closed.

    Args:
        listener: accepts the connections of `start_worker`.
        environment: variables of this process.
        later: modules to import while no worker is asked for.
    """
    while True:
        readable, _, _ = select.select([listener.fileno(), 0], [], [], IDLE_S if later else None)
        if 0 in readable:
            return None
        if not readable:
            _import(later.pop(0))
            continue
        client = listener.accept()[0]
        with client, suppress(OSError, ValueError):
            client.settimeout(RECEIVE_S)
            request, streams = _received(client)
            try:
                if acceptable(request, environment) and _fork() == 0:
                    _take_over(client, streams)
                    return request
            finally:
                for stream in streams:
                    os.close(stream)


def _fork() -> int:
    with warnings.catch_warnings():
        # Python 3.12 warns of threads: those of NumPy and Arrow, which handle forks.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _take_over(client: socket.socket, streams: Sequence[int]) -> None:
    try:
        client.sendall(FORKED)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
    except OSError:  # `start_worker` has given up or was killed
        os._exit(1)  # a worker must not go on as a second server


def _received(client: socket.socket) -> tuple[WorkerRequest, list[int]]:
    length, streams, _, _ = socket.recv_fds(client, 8, 3)
    with client.makefile("rb") as file:
        data = file.read(int.from_bytes(length, "big"))
    return WorkerRequest(**json.loads(data.decode("utf-8", "surrogateescape"))), streams


def _work(request: WorkerRequest) -> None:
    """Run Ray's script of a worker as in a new process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setpgid(0, 0)  # Ray kills the process group of a worker that has ended
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    time.tzset()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # otherwise the same in each worker
    from ray._private.utils import update_envs

    update_envs(request.context.get("env_vars") or {})
    sys.argv = request.worker_arguments
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        main(listener)
