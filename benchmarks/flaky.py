"""What hosts that hang, drip or fail do to requests for pictures of healthy ones."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np

from benchmarks.sessions import DEPLOY_S, in_session
from benchmarks.swap import within
from mlkit.define import step
from mlkit.fetch import fetch
from mlkit.fetch.addresses import ALLOW_VARIABLE
from mlkit.load import LoadResult, load_test, poisson
from mlkit.pipelines import pipeline
from mlkit.serving import App, deploy

__all__ = ["Kind", "flaky", "ratio", "stub_host"]

Kind: TypeAlias = Literal["healthy", "hangs", "drips", "fails"]
"""A healthy host answers after `ANSWER_S`; the others hang, send a byte at a time, or send 500."""

HEALTHY = 7
SICK: tuple[Kind, ...] = ("hangs", "drips", "fails")
ANSWER_S, DRIP_S = 0.02, 0.5
BODY = bytes(20_000)
RATE, BLOCK_S = 40.0, 20.0
"""Requests per second to all hosts, and length of a block with or without the sick ones."""
BLOCKS = 3


# ---- hosts ---------------------------------------------------------------------------------------


async def _respond(kind: Kind, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, asyncio.IncompleteReadError):
        while await reader.readuntil(b"\r\n\r\n"):
            if kind == "hangs":
                await asyncio.Event().wait()
            await asyncio.sleep(ANSWER_S)
            status = "500 Internal Server Error" if kind == "fails" else "200 OK"
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(BODY)}\r\n\r\n".encode())
            if kind == "drips":
                for position in range(len(BODY)):
                    writer.write(BODY[position : position + 1])
                    await writer.drain()
                    await asyncio.sleep(DRIP_S)
            else:
                writer.write(BODY)
            await writer.drain()
    writer.close()


@contextmanager
def stub_host(kind: Kind) -> Iterator[int]:
    """Serve HTTP on a free port of the loopback interface, in a thread; yield the port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(partial(_respond, kind), "127.0.0.1", 0)

    async def stop() -> None:
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    server = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


# ---- requests ------------------------------------------------------------------------------------


@step
async def load(url: str) -> bytes:
    """Download what a URL leads to."""
    return await fetch(url)


@step
def measure(data: bytes) -> int:
    """Its length."""
    return len(data)


@pipeline
def loading(url: str) -> int:
    """The length of what a URL leads to."""
    return measure(load(url))


def ratio(
    mixed: Sequence[LoadResult], alone: Sequence[LoadResult], healthy: int
) -> dict[str, float]:
    """Compare requests for healthy hosts beside sick ones with the same requests without.

    Args:
        mixed: runs with all hosts; their first payloads are the healthy ones.
        alone: runs with healthy hosts.
        healthy: number of payloads for healthy hosts.
    """
    beside = np.concatenate([run.latency_ms[run.columns["payload"] < healthy] for run in mixed])
    without = np.concatenate([run.latency_ms for run in alone])
    beside_ms, without_ms = (
        float(np.percentile(each, 99, method="higher")) for each in (beside, without)
    )
    return {
        "p99_ratio": beside_ms / without_ms,
        "p99_beside_ms": beside_ms,
        "p99_without_ms": without_ms,
        "requests_beside": len(beside),
        "requests_without": len(without),
        "failed_beside": int(np.isinf(beside).sum()),
        "failed_without": int(np.isinf(without).sum()),
    }


def flaky(check: Callable[[], None], seconds: float | None) -> dict[str, Any]:
    """Compare latencies of healthy hosts with and without sick ones beside them, by turns."""
    healthy: Kind = "healthy"
    kinds = [healthy] * HEALTHY + list(SICK)
    with ExitStack() as stack:
        ports = [stack.enter_context(stub_host(kind)) for kind in kinds]
        before = os.environ.get(ALLOW_VARIABLE)
        os.environ[ALLOW_VARIABLE] = ",".join(f"127.0.0.1:{port}" for port in ports)
        try:
            urls = [{"url": f"http://127.0.0.1:{port}/picture"} for port in ports]
            with in_session():
                app = within(DEPLOY_S, "the deployment", partial(deploy, loading, progress=False))
                mixed, alone = _by_turns(app, urls, seconds or BLOCK_S, check)
        finally:
            if before is None:
                del os.environ[ALLOW_VARIABLE]
            else:
                os.environ[ALLOW_VARIABLE] = before
    errors = [each.errors for each in mixed]
    return {
        **ratio(mixed, alone, HEALTHY),
        "hosts": f"{len(SICK)} of {len(kinds)} sick",
        "errors_beside": errors,
        "void": [reason for each in (*mixed, *alone) for reason in each.void],
    }


def _by_turns(
    app: App, urls: Sequence[dict[str, str]], seconds: float, check: Callable[[], None]
) -> tuple[list[LoadResult], list[LoadResult]]:
    """Run blocks without and with the sick hosts; healthy ones are asked at the same rate."""
    mixed: list[LoadResult] = []
    alone: list[LoadResult] = []
    for seed in range(BLOCKS):
        for runs, hosts in ((alone, urls[:HEALTHY]), (mixed, urls)):
            rate = RATE * len(hosts) / len(urls)
            arrivals = poisson(rate=rate, seed=seed)
            runs.append(
                load_test(app, hosts, arrivals, duration_s=seconds, seed=seed, progress=False)
            )
            check()
    return mixed, alone
