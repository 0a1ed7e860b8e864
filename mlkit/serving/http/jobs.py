"""Jobs: many inputs in one request, run in the background.

``POST /<name>/jobs`` submits one. Each replica runs items of all jobs, as requests of the priority
``bulk`` to the pipeline's own route; `mlkit.serving.http.jobstore` says how replicas share them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import blake2b
from typing import Any, TypeVar

from fastapi import FastAPI
from starlette.concurrency import iterate_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Message

from mlkit.define.arguments import Arguments
from mlkit.define.graph import Graph
from mlkit.errors import MlkitError, PayloadTooLarge
from mlkit.execute.priority import Priority, places
from mlkit.fetch import fetch
from mlkit.metrics.context import context_of, entered
from mlkit.serving.http import problem
from mlkit.serving.http.holders import HOLDER_KEY
from mlkit.serving.http.jobstore import LEASE_S, JobItem, JobResult, JobStatus, JobStore
from mlkit.serving.http.lifecycle import Ready
from mlkit.serving.http.pace import paced
from mlkit.serving.http.payload import Invalid, Payloads
from mlkit.serving.http.results import JSON, Results
from mlkit.serving.http.stream import EVENTS, LINES, as_event
from mlkit.serving.limits import Limits

__all__ = ["JobResults", "JobRunner", "Jobs", "items_of"]

POLL_S = 0.5
"""How often a replica looks for items, such as those of a dead one, in seconds."""

KEEP_ALIVE_S = 15.0
"""Interval between comments in a stream of progress without a change, in seconds."""

LIST_URL = "items_url"
"""Key of a body that names the URL of a list, unless the pipeline has such a parameter."""

MAX_CONCURRENT = 32
"""Items that a replica runs at a time, at most."""

MAX_ATTEMPTS = 3
"""How often an item is run, if its replica dies each time."""

logger = logging.getLogger(__name__)

T = TypeVar("T")


_THREADS = ThreadPoolExecutor(2, "mlkit-jobs")
"""For calls of stores, which may wait for a lock: those of asyncio decode what requests upload."""


async def _in_thread(function: Callable[..., T], *args: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(_THREADS, function, *args)


def items_of(body: bytes, arguments: Arguments, max_items: int) -> list[bytes]:
    """Return the items of a list, each as the body of a request.

    Args:
        body: a JSON list, or one JSON document per line. A document that is no object is the value
            of the only required parameter.
        arguments: of the pipeline.
        max_items: how many there may be.

    Raises:
        Invalid: it is neither.
        PayloadTooLarge: there are more.
    """
    required = [key for key, name in arguments.names.items() if arguments.parameters[name].required]
    sole = required[0] if len(required) == 1 else None
    try:
        documents = _documents(body)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"neither a JSON list nor a JSON document per line: {error}") from None
    if len(documents) > max_items:  # before each takes memory and time
        raise PayloadTooLarge(
            "the job is too large",
            expected=f"at most {max_items:,} items",
            got=f"{len(documents):,}",
            fix="submit several jobs",
        )
    wrapped = (
        {sole: each} if sole is not None and not isinstance(each, dict) else each
        for each in documents
    )
    return [json.dumps(each).encode() for each in wrapped]


def _documents(body: bytes) -> list[Any]:
    try:
        whole = json.loads(body)
    except ValueError:
        return [json.loads(line) for line in body.splitlines() if line.strip()]
    return whole if isinstance(whole, list) else [whole]


class JobResults(Results):
    """Encodes the result of an item as JSON, whatever its type; files are data URLs."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.items = None

    def preferred(self, accept: str) -> str:
        """Return the only content type."""
        return JSON

    def response(self, value: Any, accept: str) -> Response:
        """Return the response with a result."""
        return Response(self.returns.to_text(value), media_type=JSON)


class JobRunner:
    """Runs items of the jobs in a store, as many at a time as there are places.

    Args:
        store: the jobs.
        run: runs an item; returns its result, or the seconds after which to try it again.
        concurrency: number of places.
        max_attempts: how often an item is run, if its replica dies each time.
        now: clock in seconds since the epoch, which all replicas share; it may be set.
        monotonic: clock in seconds by which leases are renewed.
        poll_s: how often to look for items, in seconds.
    """

    def __init__(
        self,
        store: JobStore,
        run: Callable[[JobItem], Any],
        *,
        concurrency: int,
        max_attempts: int = MAX_ATTEMPTS,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        poll_s: float = POLL_S,
    ) -> None:
        self._store, self._run = store, run
        self._concurrency, self._max_attempts = concurrency, max_attempts
        self._now, self._monotonic, self._poll_s = now, monotonic, poll_s
        self._owner = secrets.token_hex(8)
        self._running: dict[JobItem, asyncio.Task[None]] = {}
        self._renew_at = 0.0
        self._closing = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to run items in the background, unless it has begun."""
        if self._task is None:
            self._task = asyncio.create_task(self._loop())

    def wake(self) -> None:
        """Look for items now."""
        self._wake.set()

    def check(self) -> None:
        """Check now whether running items were cancelled."""
        self._renew_at = 0.0
        self.wake()

    async def close(self) -> None:
        """Run no more items, and wait for those that are running; each has its deadline."""
        self._closing = True
        self.wake()
        if self._task is not None:
            await self._task

    async def _loop(self) -> None:
        failed = False
        while self._running or not self._closing:
            self._wake.clear()
            try:
                await self.turn()
                failed = False
            except Exception as error:  # such as a full disk
                if not failed:  # once, until it works again
                    logger.warning("jobs cannot go on: %s (%s)", error, self._store.path)
                failed = True
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_s):
                    await self._wake.wait()

    async def turn(self) -> None:
        """Renew the leases of running items, and start further ones in free slots."""
        if not self._store.has_jobs:
            return
        now, passed = self._now(), self._monotonic()
        if self._running and passed >= self._renew_at:
            self._renew_at = passed + LEASE_S / 3
            held = list(self._running)
            for item in await _in_thread(self._store.renew, self._owner, held, now):
                if item in self._running:  # else it has ended in the meantime
                    self._running[item].cancel()
        free = self._concurrency - len(self._running)
        if self._closing or free <= 0:
            return
        running = list(self._running)
        for item in await _in_thread(
            self._store.claim, self._owner, free, now, self._max_attempts, running
        ):
            self._running[item] = asyncio.create_task(self._finish(item))

    async def _finish(self, item: JobItem) -> None:
        try:
            result = await self._run(item)
            if isinstance(result, JobResult):
                args = self._owner, item.job, result, self._now()
                await _in_thread(self._store.finish, *args)
            else:
                until = self._now() + result
                await _in_thread(self._store.release, self._owner, item, until)
        except Exception:  # of the store: its lease expires
            logger.warning("the result of an item could not be kept", exc_info=True)
        finally:
            self._running.pop(item, None)
            self.wake()


class Jobs:
    """Jobs of a pipeline: its routes, and what runs them.

    Args:
        graph: the graph of the pipeline.
        served: returns the pipeline once it is ready, None before.
        limits: limits on its requests.
        store: the jobs.
        traced: whether items begin a trace.
    """

    def __init__(
        self, graph: Graph, served: Ready, limits: Limits, store: JobStore, *, traced: bool = False
    ) -> None:
        self._graph, self._served, self._traced = graph, served, traced
        self._payloads = Payloads(graph, limits.max_body_bytes)
        self._results = JobResults(graph)
        self._store = store
        self._failures = problem.Failures()
        admitted = places(limits.max_ongoing_requests, Priority.BULK)
        self.runner = JobRunner(
            store,
            self._run,
            concurrency=max(1, min(MAX_CONCURRENT, admitted // 2)),
            max_attempts=MAX_ATTEMPTS if graph.idempotent else 1,
        )

    async def close(self) -> None:
        """Finish the items that are running, and close the store."""
        await self.runner.close()
        await _in_thread(self._store.close)

    async def _run(self, item: JobItem) -> JobResult | float:
        """Run an item as a request to the pipeline's own route."""
        pipeline = self._served()
        if pipeline is None or pipeline.is_full(Priority.BULK):  # nothing is run
            return 1.0
        headers = [
            (b"content-type", JSON.encode()),
            (b"content-length", str(len(item.body)).encode()),
            (b"x-priority", b"bulk"),
            (b"x-request-id", f"{item.job}-{item.index}".encode()),
        ]
        path = f"/{self._graph.name}"
        scope: dict[str, Any] = {"type": "http", "method": "POST", "path": path, "headers": headers}
        scope |= {"query_string": b"", "root_path": "", "scheme": "http", "http_version": "1.1"}
        response = _Kept()

        async def receive() -> Message:
            return {"type": "http.request", "body": item.body, "more_body": False}

        with entered(context_of(headers, traced=self._traced)):
            request = Request(scope, receive)
            await pipeline.answer(request, response.send, self._payloads, self._results)
        # A step's own 503 may have none, or a date.
        retry_after = response.headers.get(b"retry-after", b"")
        if response.status == 503 and self._graph.idempotent and retry_after.isdigit():
            return float(retry_after)
        return JobResult(item.index, response.status, bytes(response.body) or b"null")

    # ---- routes -----------------------------------------------------------------------------

    def add_to(self, own: FastAPI) -> None:
        """Add the routes."""
        for path, method, respond in (
            ("", "POST", self._submit),
            ("", "GET", self._list),
            ("/{id}", "GET", self._show),
            ("/{id}", "DELETE", self._delete),
            ("/{id}/results", "GET", self._stream_results),
        ):
            route = self._guarded(respond)
            for at in (f"/{self._graph.name}/jobs{path}", f"/jobs{path}"):
                own.add_route(at, route, [method], include_in_schema=False)

    def _guarded(self, respond: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def route(request: Request) -> Response:
            try:
                response: Response = await respond(request)
            except MlkitError as error:
                return problem.of_error(error, self._graph.name, self._failures)
            except (sqlite3.Error, OSError) as error:  # such as a full disk
                logger.warning("jobs cannot be kept: %s (%s)", error, self._store.path)
                detail = "jobs cannot be kept at present"
                return problem.answer(503, detail, headers={"Retry-After": "1"})
            return response

        return route

    async def _submit(self, request: Request) -> Response:
        body = await self._read(request)
        arguments = self._payloads.arguments
        if LIST_URL not in arguments.names and (url := _url_of(body)) is not None:
            body = await fetch(url)
        bodies = await asyncio.to_thread(items_of, body, arguments, self._store.limits.max_items)
        job = await _in_thread(self._store.add, bodies, time.time(), _id_of(request, body))
        self.runner.wake()
        location = f"{request.scope.get('mlkit.path', request.scope['path']).rstrip('/')}/{job.id}"
        return JSONResponse(_document(job), 202, {"Location": location})

    async def _read(self, request: Request) -> bytes:
        limit, body = self._store.limits.max_bytes, bytearray()
        async for part in Request(request.scope, paced(request.receive)).stream():
            body += part
            if len(body) > limit:
                raise PayloadTooLarge(
                    "the body is too large",
                    expected=f"at most {limit:,} bytes",
                    fix="submit several jobs, or URLs of the files",
                )
        return bytes(body)

    async def _list(self, request: Request) -> Response:
        jobs = await _in_thread(self._store.all)
        return JSONResponse({"jobs": [_document(job) for job in jobs]})

    async def _show(self, request: Request) -> Response:
        id = request.path_params["id"]
        job = await _in_thread(self._store.get, id)
        if job is None:
            return _missing(id)
        if EVENTS in request.headers.get("accept", ""):
            headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
            return StreamingResponse(self._progress(job), media_type=EVENTS, headers=headers)
        return JSONResponse(_document(job))

    async def _progress(self, job: JobStatus | None) -> AsyncIterator[bytes]:
        """Events of a job: ``progress`` whenever it changes, and ``end``."""
        last, silent_s = None, 0.0
        while job is not None:
            data = json.dumps(_document(job)).encode()
            if job.ended is not None:
                yield as_event("end", data)
                return
            if job != last:
                yield as_event("progress", data)
                last, silent_s = job, 0.0
            elif silent_s >= KEEP_ALIVE_S:
                yield b":\n\n"
                silent_s = 0.0
            await asyncio.sleep(POLL_S)
            silent_s += POLL_S
            job = await _in_thread(self._store.get, job.id)

    async def _delete(self, request: Request) -> Response:
        id = request.path_params["id"]
        before = await _in_thread(self._store.get, id)
        if before is None:
            return _missing(id)
        if before.ended is not None:
            await _in_thread(self._store.delete, id)
            return Response(status_code=204)
        job = await _in_thread(self._store.cancel, id, time.time())
        self.runner.check()
        return _missing(id) if job is None else JSONResponse(_document(job))

    async def _stream_results(self, request: Request) -> Response:
        id = request.path_params["id"]
        if await _in_thread(self._store.get, id) is None:
            return _missing(id)
        lines = iterate_in_threadpool(_lines(self._store.results(id)))
        return StreamingResponse(lines, media_type=LINES)


class _Kept:
    """The response to an item."""

    def __init__(self) -> None:
        self.status = 500
        self.headers: dict[bytes, bytes] = {}
        self.body = bytearray()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")


def _id_of(request: Request, body: bytes) -> str:
    """The id of a job; with an ``Idempotency-Key``, the same for a request that is sent again."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return secrets.token_hex(8)
    grant = request.scope.get(HOLDER_KEY)
    of = b"" if grant is None else grant.digest.encode()
    return blake2b(b"\0".join([of, key.encode(), body]), digest_size=8).hexdigest()


def _url_of(body: bytes) -> str | None:
    """The URL in ``{"items_url": "..."}``; None for any other body."""
    if len(body) > 10_000 or not body.lstrip().startswith(b"{"):
        return None
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    url = document.get(LIST_URL) if document.keys() == {LIST_URL} else None
    return url if isinstance(url, str) else None


def _document(job: JobStatus) -> dict[str, Any]:
    return {
        "id": job.id,
        "state": job.state,
        "total": job.total,
        "done": job.total - job.open,
        "failed": job.failed,
        "created": job.created,
        "ended": job.ended,
    }


def _lines(results: Iterator[JobResult]) -> Iterator[bytes]:
    for result in results:
        name = b"result" if result.status == 200 else b"problem"
        about = b'{"index": %d, "status": %d, "%s": ' % (result.index, result.status, name)
        yield about + result.document + b"}\n"


def _missing(id: str) -> Response:
    return problem.answer(404, f"there is no job {id:.40}")
