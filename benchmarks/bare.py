"""The same contract on bare FastAPI and uvicorn, in one process: ``python -m benchmarks.bare``."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.small import Answer, Question

__all__ = ["api", "running"]

api = FastAPI()


class Body(BaseModel):
    """What mlkit makes of the pipeline's parameters."""

    question: Question


@api.post("/echo")
async def echo(body: Body) -> Answer:
    """Send back what came."""
    return Answer(text=body.question.text, number=body.question.number)


@contextmanager
def running(port: int) -> Iterator[str]:
    """The server while the block runs, as the address of its route."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.bare", str(port)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.DEVNULL,
    )
    try:
        _wait(f"http://127.0.0.1:{port}/docs", process)
        yield f"http://127.0.0.1:{port}/echo"
    finally:
        process.terminate()
        process.wait()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < until:
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("the bare server did not come up")


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(api, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
