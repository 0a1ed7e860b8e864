"""``python -m mlkit.serving.gateway URL HOST PORT MAX_BODY_BYTES``, started by a session.

It prints ``ready``, or why it cannot listen, and ends when its standard input is closed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading

from mlkit.errors import DeployError
from mlkit.serving.gateway.server import Gateway, run


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


def main(url: str, host: str, port: str, max_body_bytes: str) -> None:
    """Run a gateway as the child of another process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    gateway = Gateway(url, host, int(port), int(max_body_bytes))
    try:
        asyncio.run(run(gateway, lambda address: print("ready", flush=True)))
    except DeployError as error:
        print(error.what, flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
