"""How much load a generator makes: ``python -m benchmarks.generator``.

Rates rise until a load test is void, against a server that does nothing but answer, in a process of
its own on the same machine. With ``--minutes``, a soak at ``--rate`` as well, for the memory of the
generator.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from mlkit.load import LoadResult, load_test, poisson, soak

__all__ = ["limit", "main", "row", "serve"]

RATES = (100, 300, 600, 1000, 1500, 2000, 3000)
BODY = bytes(1024)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class _Answer(asyncio.Protocol):
    """Answers each request of a connection; all are as long as the first."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.received, self.size = b"", 0

    def data_received(self, data: bytes) -> None:
        self.received += data
        if not self.size:
            self.size = self.received.find(b"\r\n\r\n") + 4 + len(BODY)
        while len(self.received) >= self.size:
            self.received = self.received[self.size :]
            self.transport.write(ANSWER)


def serve() -> None:
    """Answer on a free port, which is printed, until the process is ended."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(_Answer, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    asyncio.run(run())


@contextlib.contextmanager
def _server() -> Iterator[str]:
    command = [sys.executable, "-c", "from benchmarks.generator import serve; serve()"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/"
        finally:
            process.kill()


def row(rate: float, result: LoadResult) -> dict[str, Any]:
    """The figures of a load test at a rate."""
    return {
        "rate": rate,
        "sent_rate": result.sent_rate,
        "lateness_p50_ms": float(sorted(result.lateness_ms)[len(result) // 2]),
        "lateness_p99_ms": result.lateness_p99_ms,
        "cores": result.client.cores,
        "cpu_us_per_request": 1e6 * result.client.cpu_s / len(result),
        "realtime": result.client.realtime,
        "void": list(result.void),
    }


def limit(rows: Sequence[dict[str, Any]]) -> float | None:
    """The highest rate up to which no load test was void; None if the first one was."""
    valid = None
    for one in rows:
        if one["void"]:
            break
        valid = one["rate"]
    return valid


def _memory(url: str, rate: float, minutes: float) -> dict[str, Any]:
    """Resident memory of the generator in MB, ten times in a soak."""
    run = soak(url, [BODY], poisson(rate=rate), duration_s=60 * minutes, wait=False)
    children = psutil.Process().children()
    (worker,) = [one for one in children if "mlkit.load.worker" in " ".join(one.cmdline())]
    sizes = []
    while not run.wait(6 * minutes):
        sizes.append(worker.memory_info().rss / 2**20)
    result = run.result()
    return {
        "minutes": minutes,
        "requests": len(result),
        "mb": [round(size, 1) for size in sizes],
        "cores": result.client.cores,
        "lateness_p99_ms": result.lateness_p99_ms,
        "void": list(result.void),
    }


def main(words: list[str] | None = None) -> None:
    """Measure, print, and write ``generator.json``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generator", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each load test")
    parser.add_argument("--minutes", type=float, default=0.0, help="length of the soak")
    parser.add_argument("--rate", type=float, default=300.0, help="of the soak, per second")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    arguments = parser.parse_args(words)
    figures: dict[str, Any] = {"cores": os.cpu_count(), "load": os.getloadavg()[0]}
    with _server() as url:
        rows = []
        for rate in RATES:
            options: Any = {"duration_s": arguments.seconds, "progress": False}
            rows.append(row(rate, load_test(url, [BODY], poisson(rate=rate), **options)))
            print(
                "{rate:5}/s: late p99 {lateness_p99_ms:.2f} ms, {cores:.2f} cores".format(
                    **rows[-1]
                )
            )
        figures |= {"rates": rows, "limit": limit(rows)}
        if arguments.minutes:
            figures["soak"] = _memory(url, arguments.rate, arguments.minutes)
            print(figures["soak"])
    print(f"limit: {figures['limit']}/s")
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "generator.json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
