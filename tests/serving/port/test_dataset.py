"""What only Ray Data can show of `map_dataset`: a process that is killed, and goes on."""

import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlkit import InputError, pipeline, step
from mlkit.errors import MlkitError
from mlkit.serving import map_dataset
from mlkit.serving.control.dataset import RowsDone
from mlkit.serving.control.watchdog import processes_of
from mlkit.serving.kernel import dataset
from mlkit.serving.port import dataset as process_module

ROWS, BAD, HELD = 12, 2, 9


@step
def count(n: int, folder: str) -> int:
    with (Path(folder) / "calls").open("a") as calls:
        calls.write(f"{n}\n")
    if n == BAD:
        raise InputError("a bad row")
    while n == HELD and not (Path(folder) / "open").exists():
        time.sleep(0.05)
    return n * n


@pipeline
def square(n: int, folder: str) -> int:
    return count(n, folder)


class ActorDiedError(Exception):
    """As Ray's."""


CREATION = """The actor died because of an error raised in its creation task, ray::W.__init__()
  File "shop.py", line 3, in load
    raise RuntimeError("no such weights")
RuntimeError: no such weights"""


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ActorDiedError(CREATION), "RuntimeError: no such weights"),
        (ActorDiedError("The actor died unexpectedly"), "its process was killed"),
        (MlkitError("too large"), "too large"),
    ],
)
def test_the_cause_of_a_failure_is_one_line(error, cause) -> None:
    assert process_module._cause(error).startswith(cause)


def wait_until(condition) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.serve
@pytest.mark.timeout(400)
def test_a_killed_map_goes_on_with_every_row_once(tmp_path, monkeypatch) -> None:
    started = []
    popen = subprocess.Popen

    def start(command, **options):
        started.append((popen(command, **options), Path(command[-1])))
        return started[-1][0]

    monkeypatch.setattr(dataset.subprocess, "Popen", start)
    rows = {"id": [f"r{n:02}" for n in range(ROWS)], "n": range(ROWS)}
    rows["folder"] = [str(tmp_path)] * ROWS
    pq.write_table(pa.table(rows), tmp_path / "rows.parquet")

    def run():
        return map_dataset(
            square, tmp_path / "rows.parquet", tmp_path / "out", id="id", batch_size=3,
            progress=False,
        )  # fmt: skip

    failures = []

    def fail() -> None:
        try:
            run()
        except MlkitError as error:
            failures.append(error)

    thread = threading.Thread(target=fail)
    thread.start()
    done = RowsDone(str(tmp_path / "out" / "done"))
    calls = tmp_path / "calls"
    wait_until(lambda: done() >= 3 and calls.exists() and f"{HELD}\n" in calls.read_text())
    process, folder = started[0]
    process.kill()
    thread.join()
    assert "rows that are done are kept" in str(failures[0])
    wait_until(lambda: not processes_of(folder.name))
    kept = done()
    assert 3 <= kept < ROWS

    (tmp_path / "open").touch()
    outcome = run()
    assert (outcome.rows, outcome.failed) == (ROWS, 1)
    results = pq.read_table(outcome.results).sort_by("id").to_pylist()
    assert [row["id"] for row in results] == rows["id"]
    assert [row["square"] for row in results] == [n * n if n != BAD else None for n in range(ROWS)]
    assert "a bad row" in results[BAD]["error"]
    twice = [n for n, times in Counter(calls.read_text().split()).items() if times > 1]
    assert len(twice) <= ROWS - kept
    assert run() == outcome  # all of it is done
    assert len(started) == 2
    assert not processes_of(started[1][1].name)
