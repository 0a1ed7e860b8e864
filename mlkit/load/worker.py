"""The generator's process: ``python -m mlkit.load.worker``, controlled through pipes.

Standard input: a job from `mlkit.load.job.pack`, then commands, one per line: ``stop``, or a new
rate. At end of file the parent has exited, and so does the process. Standard output: a JSON
document per line (``ready``, ``progress``, ``interval``, finally ``done`` or ``failed``); after
``done`` the columns of the log as raw bytes, the times of items of each request that streams, and
the different bodies that are to be checked.

Nothing heavy is imported here, so that the process starts within a few tenths of a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import math
import os
import random
import signal
import sys
import time
from array import array
from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING, Any

from mlkit.load.client import Endpoint, Pool, new_event_loop, resolve
from mlkit.load.generator import ClosedLoop, Generator, OpenLoop, RunLimits, SteeredLoop
from mlkit.load.job import LENGTH

if TYPE_CHECKING:
    from mlkit.load.sampledlog import SampledLog

__all__ = ["main"]

PROGRESS_EVERY_S = 0.2
PARENT_CHECK_S = 1.0
LEAD_S = 0.05
GRACE_S = 1.0


def main() -> None:
    """Read a job, run it and write the result; exit when standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles interrupts
    _allow_many_connections()
    job = json.loads(_read(LENGTH.unpack(_read(LENGTH.size))[0]))
    times, order = array("d", _read(job["times"])), array("I", _read(job["order"]))
    requests = [_read(size) for size in job["sizes"]]
    loop = new_event_loop()
    loop.run_until_complete(JobRun(loop, job, times, order, requests).run())


class JobRun:
    """A job, from the first connection to the last byte of the result."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        job: dict[str, Any],
        times: array[float],
        order: array[int],
        requests: list[bytes],
    ) -> None:
        self.loop, self.job, self.times = loop, job, times
        self.order, self.requests = order, requests
        self.limits = RunLimits(**job["limits"])
        self.ended = loop.create_future()
        self.marks: dict[str, tuple[float, float]] = {}
        self.parent = os.getppid()
        self.realtime = False
        self.outbox = bytearray()
        self.sampled = self._sampled_log()

    async def run(self) -> None:
        """Connect, generate, report."""
        try:
            pool = await self._connect()
        except OSError as error:
            _emit({"event": "failed", "reason": _reason(error)})
            return
        generator = self._build(pool)
        started = time.time() + generator.zero - self.loop.time()
        _emit({"event": "ready"})
        gc.collect()
        gc.freeze()
        if self.sampled is None:  # without an end, what little garbage there is adds up
            gc.disable()
        self.realtime = self.job["loop"]["kind"] != "closed" and _request_realtime()
        with _nonblocking(1):
            self._begin(generator)
            await self.ended
        self.loop.remove_reader(0)
        self._mark(generator, "end")
        pool.close()
        self._report(generator, pool, started)

    async def _connect(self) -> Pool:
        """A pool with one open connection, to the first address of the host that accepts it."""
        job = self.job
        problem = OSError("the name has no address")
        for address in resolve(job["host"], job["port"]):
            endpoint = Endpoint(address, job["port"], job["host"], job["tls"])
            pool = Pool(
                self.loop,
                endpoint,
                self.requests,
                order=self.order,
                first=sum(1 for t in self.times if t < 0),
                headless=frozenset(job["headless"]),
                statuses=frozenset(job["statuses"]),
                nonempty=job["nonempty"],
                keeps_bodies=job["keeps_bodies"],
                streams=job["streams"],
            )
            try:
                await asyncio.wait_for(pool.probe(), self.limits.timeout_s)
                return pool
            except OSError as error:
                problem = error
        raise problem

    def _sampled_log(self) -> SampledLog | None:
        endless = self.job["endless"]
        if endless is None:
            return None
        from mlkit.load.sampledlog import SampledLog

        keep, interval_s, seed = endless["keep"], endless["interval_s"], endless["seed"]
        return SampledLog(keep, interval_s, seed, self._on_interval)

    def _times(self) -> Iterable[float]:
        """The schedule; one without an end is made while it is sent."""
        endless = self.job["endless"]
        if endless is None or self.job["loop"]["kind"] != "open":
            return self.times
        from mlkit.load.arrivals import arrivals_from_dict

        schedule: Any = arrivals_from_dict(endless["arrivals"])
        warmup = schedule.warmup_times(self.limits.warmup_s).tolist()
        batches = schedule.batches(self.limits.duration_s)
        return chain(warmup, chain.from_iterable(batch.tolist() for batch in batches))

    def _build(self, pool: Pool) -> Generator:
        times = self._times()
        zero = self.loop.time() + LEAD_S + self.limits.warmup_s

        def end() -> None:
            self.ended.set_result(None)

        run = (self.loop, pool, self.limits)
        generator = _loop(self.job["loop"], times, *run, zero=zero, on_end=end, log=self.sampled)
        pool.answered = generator.answered
        return generator

    def _begin(self, generator: Generator) -> None:
        self.loop.call_at(generator.zero, self._mark, generator, "zero")
        if math.isfinite(self.limits.duration_s):
            end = generator.zero + self.limits.duration_s
            self.loop.call_at(end, self._mark, generator, "end")
        self.loop.add_reader(0, self._on_command, generator)
        self.loop.call_later(PROGRESS_EVERY_S, self._progress, generator)
        self.loop.call_later(PARENT_CHECK_S, self._check_parent)
        generator.start()

    def _mark(self, generator: Generator, edge: str) -> None:
        """Note time and CPU time at an edge of the measured part, once for each."""
        self.marks.setdefault(edge, (generator.now(), time.process_time()))

    def _on_command(self, generator: Generator) -> None:
        commands = os.read(0, 4096)
        if not commands:
            os._exit(0)
        for command in commands.decode().splitlines():
            if command == "stop":
                self._mark(generator, "end")
                generator.stop(GRACE_S)
            else:
                generator.steer(float(command))

    def _check_parent(self) -> None:
        # The end of the pipe shows it too, unless a fork of the parent keeps it open.
        if os.getppid() != self.parent:
            os._exit(0)
        self.loop.call_later(PARENT_CHECK_S, self._check_parent)

    def _progress(self, generator: Generator) -> None:
        if self.ended.done():
            return
        progress = {
            "event": "progress",
            "elapsed_s": generator.now(),
            "sent": generator.log.opened,
            "answered": generator.answers,
            "failed": generator.log.failed,
            "in_flight": len(generator.in_flight),
        }
        self._post()
        if not self.outbox:  # dropped when the reader does not keep up
            with contextlib.suppress(BlockingIOError):
                _emit(progress)
        self.loop.call_later(PROGRESS_EVERY_S, self._progress, generator)

    def _report(self, generator: Generator, pool: Pool, started: float) -> None:
        end, cpu_at_end = self.marks["end"]
        zero, cpu_at_zero = self.marks.get("zero", (end, cpu_at_end))
        if self.sampled is not None:
            self.sampled.end(generator.now())
        log = generator.log.report()
        done = {
            "event": "done",
            "started": started,
            "stopped_at": generator.stopped_at,
            "cpu_s": cpu_at_end - cpu_at_zero,
            "cpu_window_s": end - zero,
            "most_in_flight": generator.most_in_flight,
            "unsent": generator.unsent,
            "realtime": self.realtime,
            "connections": pool.opened,
            "short_of": pool.short_of,
        }
        _write(bytes(self.outbox), json.dumps(done | log.facts).encode() + b"\n", *log.rows)

    def _on_interval(self, figures: dict[str, Any]) -> None:
        self.outbox += json.dumps({"event": "interval", **figures}).encode() + b"\n"
        self._post()

    def _post(self) -> None:
        """Write what fits into the pipe now: sending on time matters more."""
        with contextlib.suppress(BlockingIOError):
            while self.outbox:
                del self.outbox[: os.write(1, self.outbox)]


def _loop(spec: dict[str, Any], times: Iterable[float], *args: Any, **kwargs: Any) -> Generator:
    """Build the loop that `mlkit.load.spec.Arrivals.loop` describes."""
    match spec:
        case {"kind": "closed", "concurrency": concurrency}:
            return ClosedLoop(concurrency, *args, **kwargs)
        case {"kind": "steered", "rate": rate, "shape": shape, "seed": seed}:
            draw = random.Random(seed)
            gap = (lambda: 1.0) if shape == "constant" else (lambda: draw.expovariate(1.0))
            return SteeredLoop(rate, gap, *args, **kwargs)
        case _:
            return OpenLoop(times, *args, **kwargs)


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no connection in time"
    known = error.errno is not None and error.errno > 0
    return os.strerror(error.errno or 0).lower() if known else error.strerror or str(error)


def _emit(message: dict[str, Any]) -> None:
    # A write of less than PIPE_BUF bytes is atomic.
    os.write(1, json.dumps(message).encode() + b"\n")


def _write(*parts: bytes) -> None:
    for part in parts:
        view = memoryview(part)
        while view:
            view = view[os.write(1, view) :]


def _read(size: int) -> bytes:
    # Unbuffered, so that commands after the job are not consumed with it.
    buffer = bytearray()
    while len(buffer) < size:
        piece = os.read(0, min(size - len(buffer), 1 << 20))
        if not piece:
            sys.exit("standard input ended before the job did")
        buffer += piece
    return bytes(buffer)


@contextlib.contextmanager
def _nonblocking(descriptor: int) -> Any:
    os.set_blocking(descriptor, False)
    try:
        yield
    finally:
        os.set_blocking(descriptor, True)


def _request_realtime() -> bool:
    """Request real-time scheduling; return whether the system allows it.

    On a machine whose cores the server keeps busy, a generator under the normal policy sends many
    milliseconds late. It uses little CPU time, so the server loses next to nothing by waiting.
    """
    policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK
    try:
        os.sched_setscheduler(0, policy, os.sched_param(1))
    except (OSError, AttributeError):
        return False
    return True


def _allow_many_connections() -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    main()
