"""The store of load tests, with code versions, machine and figures; see `runs`.

A SQLite database in the user's data directory has a row for each load test, and the raw records lie
beside it until there are too many. Recording never fails a load test.
"""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import warnings
from contextlib import closing
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mlkit.errors import LoadError, entry_point
from mlkit.load import parquet
from mlkit.load.compare import Comparison, compare
from mlkit.load.results import LoadResult

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pandas as pd

__all__ = ["RecordedRun", "Runs", "RunsStore", "record", "runs"]

VARIABLE = "MLKIT_RUNS_DIR"
MAX_BYTES = 2**30
"""Total size of the raw records; the oldest are deleted first."""
MAX_RAW_BYTES = 64 * 2**20
"""Raw records of a test that are larger than this in memory are not kept."""
MAX_ROWS = 10_000
PACKAGES = ("mlkit", "ray", "fastapi", "numpy", "torch", "openvino")
FORMAT = 1
BUSY_S = 2.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    started REAL NOT NULL,
    arrivals TEXT NOT NULL,
    code TEXT NOT NULL,
    options TEXT NOT NULL,
    machine TEXT NOT NULL,
    versions TEXT NOT NULL,
    summary TEXT NOT NULL,
    bytes INTEGER NOT NULL DEFAULT 0
)
"""
_warned: set[str] = set()


class RecordedRun(NamedTuple):
    """A load test in the store.

    Attributes:
        id: its number, counted from 1.
        started: Unix time in seconds.
        arrivals: as code.
        code: versions of the apps that answered; empty where they are not known.
        options: arguments of the load test.
        machine: processor, cores and system.
        versions: of Python and the libraries.
        summary: its figures.
        bytes: size of its raw records; 0 if they are not kept.
    """

    id: int
    started: float
    arrivals: str
    code: str
    options: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    summary: dict[str, Any]
    bytes: int


class RunsStore:
    """The store in a folder, which is made when something is added.

    Args:
        folder: where it lies.
        max_bytes: total size of the raw records.
        max_rows: number of load tests.
    """

    def __init__(
        self, folder: Path, *, max_bytes: int = MAX_BYTES, max_rows: int = MAX_ROWS
    ) -> None:
        self.folder, self._max_bytes, self._max_rows = folder, max_bytes, max_rows

    def add(self, figures: Mapping[str, Any], result: LoadResult | None) -> int:
        """Add a load test, and delete what there is no space for any more; return its id.

        Args:
            figures: the fields of `RecordedRun` but ``id`` and ``bytes``.
            result: for the raw records; None if there are none to keep.

        Raises:
            OSError: the folder cannot be written.
            sqlite3.Error: the database cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with closing(self._connect()) as database, database:
            texts = [v if isinstance(v, (str, float)) else json.dumps(v) for v in figures.values()]
            names, marks = ", ".join(figures), ", ".join("?" * len(figures))
            added = database.execute(f"INSERT INTO runs ({names}) VALUES ({marks})", texts)
            run = int(added.lastrowid or 0)
            if result is not None:
                size = result.save(self.file(run), compress=False).stat().st_size
                database.execute("UPDATE runs SET bytes = ? WHERE id = ?", (size, run))
            self._prune(database)
        return run

    def rows(self) -> list[RecordedRun]:
        """Return all load tests, oldest first."""
        if not (self.folder / "runs.db").exists():
            return []
        with closing(self._connect()) as database:
            names = ", ".join(RecordedRun._fields)
            rows = database.execute(f"SELECT {names} FROM runs ORDER BY id").fetchall()
        return [RecordedRun._make(map(_restored, RecordedRun._fields, row)) for row in rows]

    def file(self, run: int) -> Path:
        """Return where the raw records of a load test are, or were."""
        return self.folder / f"{run}.npz"

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.folder / "runs.db", timeout=BUSY_S)
        try:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version not in (0, FORMAT):
                raise sqlite3.DatabaseError("the runs were recorded by a newer mlkit")
            if version == 0:
                database.executescript(f"{_SCHEMA}; PRAGMA user_version = {FORMAT}")
        except BaseException:
            database.close()
            raise
        return database

    def _prune(self, database: sqlite3.Connection) -> None:
        kept = 0
        newest_first = database.execute("SELECT id, bytes FROM runs ORDER BY id DESC").fetchall()
        for number, (run, size) in enumerate(newest_first):
            kept += size
            if number >= self._max_rows:
                self.file(run).unlink(missing_ok=True)
                database.execute("DELETE FROM runs WHERE id = ?", (run,))
            elif size and kept > self._max_bytes:
                self.file(run).unlink(missing_ok=True)
                database.execute("UPDATE runs SET bytes = 0 WHERE id = ?", (run,))


def record(result: Any, *, code: tuple[str, ...], options: Mapping[str, Any]) -> None:
    """Add a load test to the user's store; a failure is a warning, once for each folder.

    Args:
        result: a `LoadResult`, whose raw records are kept, or another result with a ``summary()``.
        code: versions of the apps that answered.
        options: arguments of the load test.
    """
    try:
        folder = _folder()
    except Exception as error:  # no home directory
        _warn("", error)
        return
    if folder is None:
        return
    try:
        summary = result.summary()
        summary.pop("arrivals")  # its code says the same, without the times of a replay
        figures = {
            "started": float(result.started),
            "arrivals": repr(result.arrivals),
            "code": ", ".join(code),
            "options": dict(options),
            "machine": _machine(),
            "versions": _versions(),
            "summary": summary,
        }
        raw = isinstance(result, LoadResult) and result.nbytes <= MAX_RAW_BYTES
        RunsStore(folder).add(figures, result if raw else None)
    except Exception as error:  # recording must never fail the load test
        _warn(str(folder), error)


class Runs:
    """The load tests of a store, oldest first; a table as its repr.

    Args:
        store: where they are.
    """

    def __init__(self, store: RunsStore) -> None:
        self._store, self._rows = store, store.rows()

    def to_frame(self) -> pd.DataFrame:
        """A row per load test, by id: rates per second, latencies in ms.

        ``code`` is the version of the app that answered, ``raw`` whether the records are kept.
        """
        import pandas as pd

        rows = [_flat(row) for row in self._rows]
        index = pd.Index([row.id for row in self._rows], name="id", dtype="int64")
        frame = pd.DataFrame(rows, index=index, columns=None if rows else ["started"])
        frame["started"] = pd.to_datetime(frame["started"], unit="s", utc=True)
        return frame

    @entry_point
    def load(self, run: int) -> LoadResult:
        """Read the result of a load test.

        Raises:
            LoadError: there is no such test, or its raw records are not kept.
        """
        row = next((row for row in self._rows if row.id == run), None)
        if row is None or not self._store.file(run).exists():
            kept = [str(row.id) for row in self._rows if row.bytes]
            raise LoadError(
                "there is no such load test" if row is None else "its records are not kept",
                where=f"runs().load({run})",
                expected=f"one of {', '.join(kept[-10:])}" if kept else "a load test with records",
                fix=None if row is None else "result.save(path) keeps those of a test permanently",
            )
        return LoadResult.load(self._store.file(run))

    @entry_point
    def compare(self, *ids: int, **named: int) -> Comparison:
        """Put load tests side by side: ``runs().compare(before=12, after=15)``.

        Args:
            ids: shown by their ids.
            named: ids by the names to show.

        Raises:
            LoadError: there is no such test, or its raw records are not kept.
            InputError: there is nothing to compare.
        """
        wanted = {str(run): run for run in ids} | named
        return compare({name: self.load(run) for name, run in wanted.items()})

    @entry_point
    def to_parquet(self, path: str | Path) -> Path:
        """Write all of `to_frame`, options, machine and versions to a Parquet file.

        Raises:
            MissingExtra: pyarrow is not installed.
        """
        frame = self.to_frame()
        for name in ("options", "machine", "versions"):
            frame[name] = [json.dumps(getattr(row, name)) for row in self._rows]
        path = Path(path)
        parquet.write(frame.reset_index(), path)
        return path

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[RecordedRun]:
        return iter(self._rows)

    def __repr__(self) -> str:
        return self._shown().to_string() if self._rows else "no load tests are recorded"

    def _repr_html_(self) -> str:
        return str(self._shown()._repr_html_())  # type: ignore[operator]

    def _shown(self) -> pd.DataFrame:
        frame = self.to_frame()
        frame["started"] = frame["started"].dt.strftime("%Y-%m-%d %H:%M")
        return frame[[name for name in _SHOWN if name in frame]].round(2)


_SHOWN = (
    *("started", "target", "arrivals", "duration_s", "requests", "failed", "ok_rate"),
    *("p50_ms", "p99_ms", "void", "code", "raw"),
)


@entry_point
def runs() -> Runs:
    """Return the load tests that were recorded on this machine.

    Each `load_test` and `soak` is recorded with its figures, options, machine, versions and the
    version of the app, and up to 1 GiB of raw records are kept. They lie in ``MLKIT_RUNS_DIR``, or
    else in the user's data directory; an empty ``MLKIT_RUNS_DIR`` turns recording off.

    Raises:
        LoadError: recording is turned off, or the store cannot be read.
    """
    folder = _folder()
    if folder is None:
        raise LoadError(
            "load tests are not recorded", got=f"{VARIABLE}=''", fix=f"unset {VARIABLE}"
        )
    try:
        return Runs(RunsStore(folder))
    except (OSError, sqlite3.Error, ValueError) as error:
        raise LoadError("the recorded load tests cannot be read", where=str(folder)) from error


def _folder() -> Path | None:
    """The store's folder; None if recording is turned off."""
    configured = os.environ.get(VARIABLE)
    if configured is not None:
        return Path(configured).expanduser().absolute() if configured else None
    import platformdirs

    return platformdirs.user_data_path("mlkit", appauthor=False) / "runs"


def _restored(name: str, value: Any) -> Any:
    return json.loads(value) if name in ("options", "machine", "versions", "summary") else value


def _flat(row: RecordedRun) -> dict[str, Any]:
    """A row of the table: scalars of the summary between what identifies the test."""
    summary = dict(row.summary)
    errors, void = summary.pop("errors", {}), summary.pop("void", [])
    scalars = {k: v for k, v in summary.items() if not isinstance(v, (list, dict))}
    return {
        "started": row.started,
        "arrivals": row.arrivals,
        **scalars,
        "failed": sum(errors.values()),
        "void": "; ".join(void),
        "code": row.code,
        "mlkit": row.versions.get("mlkit", ""),
        "cpu": row.machine.get("cpu", ""),
        "raw": row.bytes > 0,
    }


@cache
def _machine() -> dict[str, Any]:
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return {
        "cpu": _cpu_name(),
        "cores": affinity or os.cpu_count(),
        "system": platform.platform(),
        "name": platform.node(),
    }


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


@cache
def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _warn(folder: str, error: Exception) -> None:
    if folder in _warned:
        return
    _warned.add(folder)
    warnings.warn(
        f"load tests are not recorded: {error} ({VARIABLE}={folder or '...'} is where; "
        f"{VARIABLE}= turns recording off)",
        RuntimeWarning,
        stacklevel=2,
    )
