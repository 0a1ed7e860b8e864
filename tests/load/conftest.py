"""A virtual clock, a simulated server, scripted real ones, and results made by hand."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import threading
from collections.abc import Awaitable, Callable, Iterator

import numpy as np
import pytest

from mlkit.load import LoadResult, poisson
from mlkit.load.generator import ClosedLoop, OpenLoop, RunLimits
from mlkit.load.log import NEVER, Response
from mlkit.load.records import ClientCost


class VirtualClock:
    """Time that jumps from timer to timer; ``delay`` makes every timer that much late."""

    def __init__(self, delay=0.0):
        self.now, self.delay = 1000.0, delay
        self._timers, self._number = [], itertools.count()

    def time(self):
        return self.now

    def call_at(self, when, callback, *args):
        heapq.heappush(self._timers, (when, next(self._number), callback, args))

    def run(self):
        while self._timers:
            when, _, callback, args = heapq.heappop(self._timers)
            self.now = max(self.now, when + self.delay)
            callback(*args)


class SimulatedServer:
    """A transport whose answer to the request sent at ``t`` comes after ``takes(t)`` seconds.

    Infinity means never; an `Response` in place of a number fails at once with its error.
    """

    def __init__(self, clock, takes):
        self.clock, self.takes = clock, takes
        self.sent, self.abandoned = [], set()
        self.generator = None

    def send(self, slot):
        self.sent.append(slot)
        taken = self.takes(self.generator.now())
        if isinstance(taken, str):
            self.clock.call_at(self.clock.time(), self._report, slot, taken)
        elif math.isfinite(taken):
            self.clock.call_at(self.clock.time() + taken, self._report, slot, None)

    def abandon(self, slot):
        self.abandoned.add(slot)
        return ()

    def _report(self, slot, error):
        if slot not in self.abandoned:
            now = self.clock.time()
            first = NEVER if error else now
            self.generator.answered(slot, Response(first, now, 0 if error else 200, 2, "", error))


class Simulation:
    """A generator on virtual time, with the log as arrays once it has run."""

    def __init__(self, loop, argument, takes, *, delay=0.0, **limits):
        self.clock = VirtualClock(delay)
        self.server = SimulatedServer(self.clock, takes)
        self.ends = 0
        defaults = {"duration_s": 60.0, "warmup_s": 0.0, "timeout_s": 30.0, "max_in_flight": 2000}
        self.limits = RunLimits(**{**defaults, **limits})
        zero = self.clock.time() + self.limits.warmup_s
        self.generator = loop(
            argument, self.clock, self.server, self.limits, zero=zero, on_end=self._end
        )
        self.server.generator = self.generator

    def _end(self):
        self.ends += 1
        self.ended_at = self.generator.now()

    def run(self):
        self.generator.start()
        self.clock.run()
        log = self.generator.log
        self.intended, self.sent = np.array(log.intended), np.array(log.sent)
        self.finished, self.errors = np.array(log.finished), log.errors
        return self


@pytest.fixture
def open_loop():
    """``open_loop(times, takes, **limits)``: an open loop that has run on virtual time."""
    return lambda times, takes, **options: Simulation(OpenLoop, times, takes, **options).run()


@pytest.fixture
def closed_loop():
    """``closed_loop(concurrency, takes, **limits)``: a closed loop that has run."""
    return lambda count, takes, **options: Simulation(ClosedLoop, count, takes, **options).run()


@pytest.fixture
def simulation():
    """The class, for tests that step in while it runs."""
    return Simulation


@pytest.fixture
def make_result() -> Callable[..., LoadResult]:
    """``make_result([12.0, 15.0], errors={1: "timeout"}, ...)``: a result from latencies in ms."""

    def make(latencies_ms, *, errors=(), late_ms=0.0, arrivals=None, unsent=0, **fields):
        count = len(latencies_ms)
        duration = fields.pop("duration_s", 10.0)
        intended = np.arange(count) * duration / max(count, 1)
        error = np.array([dict(errors).get(k, "") for k in range(count)], dtype=np.str_)
        finished = intended + np.asarray(latencies_ms, dtype=float) / 1e3
        columns = {
            "intended": intended,
            "sent": intended + late_ms / 1e3,
            "first_byte": finished,
            "finished": finished,
            "status": np.where(error == "", 200, 0),
            "bytes": np.full(count, 2),
            "payload": np.arange(count) % 4,
            "error": error,
            "server_timing": np.full(count, "", dtype=np.str_),
        }
        defaults = {
            "arrivals": arrivals or constant_at(count, duration),
            "target": "http://127.0.0.1:8000/tag",
            "warmup_s": 1.0,
            "timeout_s": 30.0,
            "slo_ms": None,
            "seed": 0,
            "payloads": 4,
            "started": 1.75e9,
            "interrupted": False,
            "carried": 0,
            "client": ClientCost(0.2, duration, 3, 4, unsent),
            "failures": (),
        }
        return LoadResult(**{**defaults, **fields}, duration_s=duration, columns=columns)

    def constant_at(count, duration):
        from mlkit.load import constant

        return constant(rate=count / duration) if count else poisson(rate=1)

    return make


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
def serve() -> Iterator[Callable[[Handler], int]]:
    """``serve(handler)``: a real server on a loop of its own; gives the port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    servers = []

    def start(handler, **options):
        async def guarded(reader, writer):
            try:
                await handler(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        starting = asyncio.start_server(guarded, "127.0.0.1", 0, **options)
        server = asyncio.run_coroutine_threadsafe(starting, loop).result(5)
        servers.append(server)
        return server.sockets[0].getsockname()[1]

    yield start

    async def finish():
        for server in servers:
            server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run_coroutine_threadsafe(finish(), loop).result(5)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    loop.close()


async def _read_request(reader):
    """One request from a connection, as (head, body)."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    return head, await reader.readexactly(length)


@pytest.fixture
def read_request():
    """``await read_request(reader)``: one request as (head, body)."""
    return _read_request


@pytest.fixture
def hello(serve):
    """The port of a server that answers every request with 200 and ``hi``."""

    async def handler(reader, writer):
        while True:
            await _read_request(reader)
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer-Timing: a;dur=1\r\n\r\nhi"
            )
            await writer.drain()

    return serve(handler)
