"""Jobs of an app on disk, shared by its replicas on one machine.

A replica claims items with a lease and renews it while they run. If it dies, the lease expires, and
another replica claims them. The first result of an item counts.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum, auto
from pathlib import Path
from typing import Any, Literal

from mlkit.errors import Overloaded, PayloadTooLarge

__all__ = [
    "LEASE_S",
    "MEMORY",
    "ItemDecision",
    "JobItem",
    "JobLimits",
    "JobResult",
    "JobStatus",
    "JobStore",
    "decide",
    "dropped",
]

LEASE_S = 10.0
"""How long a replica holds an item without renewing its lease, in seconds."""

MEMORY = ":memory:"
"""Path of a store that is lost with the process."""

_PAGE = 200
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, created REAL, total INT, open INT, failed INT, bytes INT,
    cancelled INT DEFAULT 0, ended REAL
);
CREATE TABLE IF NOT EXISTS items (
    job TEXT, n INT, body BLOB, status INT, result BLOB,
    attempts INT DEFAULT 0, owner TEXT DEFAULT '', lease REAL DEFAULT 0,
    PRIMARY KEY (job, n)
);
CREATE INDEX IF NOT EXISTS open_items ON items (n, job) WHERE status IS NULL;
"""
_COLUMNS = "id, created, total, open, failed, cancelled, ended"


@dataclass(frozen=True, kw_only=True)
class JobLimits:
    """Limits on the jobs of an app.

    Attributes:
        max_items: items of a job.
        max_bytes: bytes of the items of a job, and of its results.
        max_jobs: jobs that are kept; ended ones make way for new ones.
        keep_s: how long a job is kept after it has ended, in seconds.
    """

    max_items: int = 10_000
    max_bytes: int = 64 * 2**20
    max_jobs: int = 20
    keep_s: float = 24 * 3600.0


@dataclass(frozen=True)
class JobStatus:
    """How far a job is.

    Attributes:
        created: when it was submitted, in seconds since the epoch.
        total: number of its items.
        open: items without a result.
        failed: items whose result is an error.
        cancelled: whether it was cancelled.
        ended: when its last item ended, in seconds since the epoch; None before.
    """

    id: str
    created: float
    total: int
    open: int
    failed: int
    cancelled: bool = False
    ended: float | None = None

    @property
    def state(self) -> Literal["running", "done", "cancelled"]:
        """Whether it is running, done or cancelled."""
        if self.cancelled:
            return "cancelled"
        return "running" if self.ended is None else "done"


@dataclass(frozen=True)
class JobItem:
    """An item to run: the JSON body of a request to the pipeline."""

    job: str
    index: int
    body: bytes


@dataclass(frozen=True)
class JobResult:
    """The result of an item: JSON of the result with status 200, else of a problem document."""

    index: int
    status: int
    document: bytes


class ItemDecision(Enum):
    """What to do with an item that has no result."""

    LEAVE = auto()
    RUN = auto()
    GIVE_UP = auto()


def decide(attempts: int, lease_until: float, now: float, max_attempts: int) -> ItemDecision:
    """Decide what a replica does with an item that has no result.

    Args:
        attempts: how often it was claimed.
        lease_until: when the lease of its replica expires.
        now: the time, on the same clock.
        max_attempts: how often it may be claimed: an input may kill each replica that runs it.
    """
    if now < lease_until:
        return ItemDecision.LEAVE
    return ItemDecision.RUN if attempts < max_attempts else ItemDecision.GIVE_UP


def dropped(jobs: Sequence[JobStatus], now: float, limits: JobLimits) -> list[str]:
    """Return the jobs that are dropped to make room for another one; the oldest ended ones first.

    Raises:
        Overloaded: too many have not ended.
    """
    ended = sorted((job.ended, job.id) for job in jobs if job.ended is not None)
    if len(jobs) - len(ended) >= limits.max_jobs:
        raise Overloaded("too many jobs are running", fix="cancel one, or try again later")
    expired = sum(at <= now - limits.keep_s for at, _ in ended)
    excess = len(jobs) - limits.max_jobs + 1
    return [id for _, id in ended[: max(expired, excess)]]


class JobStore:
    """The jobs of one app; thread-safe, as several processes with one file are.

    Args:
        path: the file, which is created with the first job; ``":memory:"`` for none.
        limits: limits on jobs.
    """

    def __init__(self, path: Path | str, limits: JobLimits | None = None) -> None:
        self.limits = limits or JobLimits()
        self.path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    @property
    def has_jobs(self) -> bool:
        """Whether there may be jobs; it takes microseconds."""
        return self._connection is not None or (self.path != MEMORY and Path(self.path).exists())

    def add(self, bodies: Sequence[bytes], now: float, id: str = "") -> JobStatus:
        """Add a job.

        Args:
            bodies: the JSON of its items.
            now: the time in seconds since the epoch.
            id: its id, of which there is one job; by default a new one.

        Raises:
            PayloadTooLarge: it has too many items, or bytes.
            Overloaded: too many jobs are running.
        """
        limits, size = self.limits, sum(map(len, bodies))
        if len(bodies) > limits.max_items or size > limits.max_bytes:
            raise PayloadTooLarge(
                "the job is too large",
                expected=f"at most {limits.max_items:,} items and {limits.max_bytes:,} bytes",
                got=f"{len(bodies):,} items of {size:,} bytes",
                fix="submit several jobs",
            )
        id = id or secrets.token_hex(8)
        ended = None if bodies else now
        with self._transaction() as database:
            if (same := _job(database, id)) is not None:
                return same
            jobs = _jobs(database)
            for old in dropped(jobs, now, limits):
                _drop(database, old)
            row = (id, now, len(bodies), len(bodies), 0, 0, 0, ended)
            database.execute("INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            rows = ((id, n, body) for n, body in enumerate(bodies))
            database.executemany("INSERT INTO items (job, n, body) VALUES (?, ?, ?)", rows)
        return JobStatus(id, now, len(bodies), len(bodies), 0, ended=ended)

    def get(self, id: str) -> JobStatus | None:
        """Return how far a job is; None if there is no such job."""
        if not self.has_jobs:
            return None
        with self._transaction(reads=True) as database:
            return _job(database, id)

    def all(self) -> list[JobStatus]:
        """Return all jobs, the newest first."""
        if not self.has_jobs:
            return []
        with self._transaction(reads=True) as database:
            return sorted(_jobs(database), key=lambda job: job.created, reverse=True)

    def claim(
        self,
        owner: str,
        places: int,
        now: float,
        max_attempts: int,
        running: Iterable[JobItem] = (),
    ) -> list[JobItem]:
        """Lease items to a replica, those of the job with the least progress first.

        Items that have been claimed too often fail. Those that the replica is running are left to
        it: their leases have expired if the clock was set forward.
        """
        held = {(item.job, item.index) for item in running}
        claimed: list[JobItem] = []
        with self._transaction() as database:
            rows = database.execute(
                "SELECT job, n, attempts, lease, body FROM items "
                "WHERE status IS NULL AND lease <= ? ORDER BY n, job LIMIT ?",
                (now, places + len(held)),
            ).fetchall()
            others = [row for row in rows if row[:2] not in held]
            for job, n, attempts, lease, body in others[:places]:
                if decide(attempts, lease, now, max_attempts) is ItemDecision.RUN:
                    database.execute(
                        "UPDATE items SET owner = ?, lease = ?, attempts = attempts + 1 "
                        "WHERE job = ? AND n = ?",
                        (owner, now + LEASE_S, job, n),
                    )
                    claimed.append(JobItem(job, n, body))
                else:
                    times = "once" if attempts == 1 else f"{attempts} times"
                    _finish(database, job, _gone(n, f"its replica died while it ran, {times}"), now)
        return claimed

    def renew(self, owner: str, items: Iterable[JobItem], now: float) -> set[JobItem]:
        """Renew the leases of items; return those that are no longer the replica's."""
        lost = set()
        with self._transaction() as database:
            for item in items:
                renewed = database.execute(
                    "UPDATE items SET lease = ? "
                    "WHERE job = ? AND n = ? AND owner = ? AND status IS NULL",
                    (now + LEASE_S, item.job, item.index, owner),
                )
                if not renewed.rowcount:
                    lost.add(item)
        return lost

    def release(self, owner: str, item: JobItem, until: float) -> None:
        """Release an item that was not run; it is claimed again after ``until``."""
        with self._transaction() as database:
            database.execute(
                "UPDATE items SET owner = '', lease = ?, attempts = attempts - 1 "
                "WHERE job = ? AND n = ? AND owner = ? AND status IS NULL",
                (until, item.job, item.index, owner),
            )

    def finish(self, owner: str, job: str, result: JobResult, now: float) -> bool:
        """Keep the result of an item; False if it is no longer the replica's."""
        with self._transaction() as database:
            held = database.execute(
                "SELECT bytes FROM items JOIN jobs ON jobs.id = items.job "
                "WHERE job = ? AND n = ? AND owner = ? AND status IS NULL",
                (job, result.index, owner),
            ).fetchone()
            if held is None:
                return False
            if held[0] + len(result.document) > self.limits.max_bytes:
                detail = f"the results of the job exceed {self.limits.max_bytes:,} bytes"
                result = _gone(result.index, detail)
            _finish(database, job, result, now)
        return True

    def cancel(self, id: str, now: float) -> JobStatus | None:
        """Cancel the items without a result; return the job, or None if there is no such job."""
        if not self.has_jobs:
            return None
        with self._transaction() as database:
            job = _job(database, id)
            if job is None or job.ended is not None:
                return job
            problem = _gone(0, "the job was cancelled", status=499)
            database.execute(
                "UPDATE items SET status = ?, result = ?, body = NULL "
                "WHERE job = ? AND status IS NULL",
                (problem.status, problem.document, id),
            )
            database.execute(
                "UPDATE jobs SET cancelled = 1, ended = ?, failed = failed + open, open = 0 "
                "WHERE id = ?",
                (now, id),
            )
            return replace(job, cancelled=True, ended=now, open=0, failed=job.failed + job.open)

    def delete(self, id: str) -> None:
        """Delete a job with its results."""
        with self._transaction() as database:
            _drop(database, id)

    def results(self, id: str) -> Iterator[JobResult]:
        """Yield the results that a job has, in the order of its items."""
        last = -1
        while True:
            with self._transaction(reads=True) as database:
                rows = database.execute(
                    "SELECT n, status, result FROM items "
                    "WHERE job = ? AND n > ? AND status IS NOT NULL ORDER BY n LIMIT ?",
                    (id, last, _PAGE),
                ).fetchall()
            yield from (JobResult(*row) for row in rows)
            if len(rows) < _PAGE:
                return
            last = rows[-1][0]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextmanager
    def _transaction(self, *, reads: bool = False) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._connection is None:
                self._connection = self._open()
            database = self._connection
            database.execute("BEGIN" if reads else "BEGIN IMMEDIATE")  # readers never wait
            try:
                yield database
            except BaseException:
                if database.in_transaction:  # else SQLite has rolled back itself, as on a full disk
                    database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")

    def _open(self) -> sqlite3.Connection:
        if self.path != MEMORY:
            Path(self.path).touch(0o600)
        database = sqlite3.connect(
            self.path, timeout=10, isolation_level=None, check_same_thread=False
        )
        try:
            _retried(database, "PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.executescript(_SCHEMA)
        except BaseException:
            database.close()
            raise
        weakref.finalize(self, database.close)  # an application may end without its lifespan
        return database


def _retried(database: sqlite3.Connection, statement: str, timeout_s: float = 10.0) -> None:
    """Execute a statement for which SQLite does not wait until another process is done."""
    until = time.monotonic() + timeout_s
    while True:
        try:
            database.execute(statement)
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return


def _job(database: sqlite3.Connection, id: str) -> JobStatus | None:
    row = database.execute(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", (id,)).fetchone()
    return None if row is None else _status(row)


def _jobs(database: sqlite3.Connection) -> list[JobStatus]:
    return [_status(row) for row in database.execute(f"SELECT {_COLUMNS} FROM jobs")]


def _status(row: Sequence[Any]) -> JobStatus:
    id, created, total, open, failed, cancelled, ended = row
    return JobStatus(id, created, total, open, failed, bool(cancelled), ended)


def _drop(database: sqlite3.Connection, id: str) -> None:
    database.execute("DELETE FROM items WHERE job = ?", (id,))
    database.execute("DELETE FROM jobs WHERE id = ?", (id,))


def _finish(database: sqlite3.Connection, job: str, result: JobResult, now: float) -> None:
    database.execute(
        "UPDATE items SET status = ?, result = ?, body = NULL WHERE job = ? AND n = ?",
        (result.status, result.document, job, result.index),
    )
    database.execute(
        "UPDATE jobs SET open = open - 1, failed = failed + ?, bytes = bytes + ?, "
        "ended = CASE WHEN open = 1 THEN ? END WHERE id = ?",
        (result.status != 200, len(result.document), now, job),
    )


def _gone(index: int, detail: str, status: int = 500) -> JobResult:
    """The result of an item that has no response, as a problem document."""
    title = "Cancelled" if status == 499 else "Internal Server Error"
    document = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return JobResult(index, status, json.dumps(document).encode())
