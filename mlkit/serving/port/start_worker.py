"""The command with which Ray starts a worker: asks the fork server for one.

A script without imports beyond the standard library, and without mlkit, since it runs for each
worker. If there is no fork server, or it declines, the worker starts as Ray would start it.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

SOCKET = "MLKIT_FORK_SERVER"
FORKED = b"forked"
TIMEOUT_S = 60.0


def forked(path: str, arguments: list[str]) -> bool:
    """Whether the fork server has started a worker with these arguments in our place."""
    request = {"arguments": arguments, "environment": dict(os.environ), "folder": str(Path.cwd())}
    data = json.dumps(request).encode("utf-8", "surrogateescape")
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.settimeout(TIMEOUT_S)
            server.connect(path)
            socket.send_fds(server, [len(data).to_bytes(8, "big")], [0, 1, 2])
            server.sendall(data)
            return server.recv(len(FORKED)) == FORKED
    except OSError:
        return False


def main(arguments: list[str]) -> None:
    """Start a worker; the first argument is the path of Ray's script of a worker."""
    path = os.environ.get(SOCKET)
    if not path or not forked(path, arguments):
        script = str(Path(arguments[0]).with_name("setup_worker.py"))
        os.execv(sys.executable, [sys.executable, script, *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
