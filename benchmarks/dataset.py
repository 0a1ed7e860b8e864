"""`mlkit map`: how its rate compares to `tag.map`, a kill in the middle, and memory over many rows.

Each run is the command, in a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.leaks import slope_per_10k
from mlkit.define import step
from mlkit.errors import MlkitError
from mlkit.execute.cores import cores
from mlkit.pipelines import pipeline
from mlkit.serving.control.dataset import RowsDone
from mlkit.serving.control.watchdog import processes_of
from mlkit.tagging import tag
from tools.demo.pictures import sample

__all__ = ["measure", "memory", "rates", "resumed"]

ROOT = Path(__file__).resolve().parents[1]
PICTURES, ROWS, ROUNDS = 2000, 50_000, 3
BLOCK = 100
"""Rows that a worker takes at a time, and that a file of results has."""

KILLED_AT = 0.4
"""Share of the pictures that are done when the command is killed."""

LOOK_S = 0.2
TEXT = "a product with a title that is as long as titles are. " * 40

Check = Callable[[], None]


@step
def count(text: str) -> int:
    """Words of a text."""
    return len(text.split())


@pipeline
def words(text: str) -> int:
    """Little work per row: what grows is not hidden by the time that steps take."""
    return count(text)


def measure(out: Path, check: Check) -> dict[str, Any]:
    """Measure all of it, and write ``map.json``."""
    with tempfile.TemporaryDirectory(prefix="mlkit-map-") as scratch:
        folder = Path(scratch)
        pictures = _copies(folder / "pictures", PICTURES)
        report = resumed(pictures, folder, check)
        _write(out, report)
        report |= memory(folder, ROWS, check)
        _write(out, report)
        report |= rates(pictures, folder, ROUNDS, check)
        _write(out, report)
    return report


def _write(out: Path, report: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "map.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report), flush=True)


def _copies(folder: Path, number: int) -> Path:
    """So many pictures of the sample catalogue, each a file of its own."""
    folder.mkdir()
    paths = [picture.path for picture in sample()]
    for place in range(number):
        source = paths[place % len(paths)]
        shutil.copyfile(source, folder / f"{place:05}{source.suffix}")
    return folder


def rates(pictures: Path, scratch: Path, rounds: int, check: Check) -> dict[str, Any]:
    """Pictures per second of the command and of `tag.map`, by turns; both without their start.

    The command's rate is that from its first complete file of results to its last one.
    """
    paths = sorted(pictures.iterdir())
    list(tag.map(paths[:BLOCK], progress=False))  # compiles the model
    ours, local = [], []
    for turn in range(rounds):
        began = time.perf_counter()
        list(tag.map(paths, progress=False))
        local.append(len(paths) / (time.perf_counter() - began))
        check()
        output = scratch / f"rates-{turn}"
        with _command("mlkit.tagging:tag", pictures, output, "--batch-size", BLOCK) as process:
            _ended(process, check)
        times = sorted(file.stat().st_mtime for file in (output / "results").glob("*.parquet"))
        per_file = len(paths) / len(times)
        ours.append((len(paths) - per_file) / (times[-1] - times[0]))
    return {
        "pictures": len(paths),
        "ray_data_over_local": round(float(np.median(np.divide(ours, local))), 3),
        "ray_data_per_s": [round(rate, 1) for rate in ours],
        "local_per_s": [round(rate, 1) for rate in local],
        "cores": cores(),
    }


def resumed(pictures: Path, scratch: Path, check: Check) -> dict[str, Any]:
    """Kill the command in the middle, call it again, and count the rows."""
    output = scratch / "killed"
    total = len(list(pictures.iterdir()))
    done = RowsDone(str(output / "done"))
    arguments = ("mlkit.tagging:tag", pictures, output, "--batch-size", BLOCK)
    with _command(*arguments) as process:
        while done() < KILLED_AT * total:
            _alive(process)
            time.sleep(0.1)
            check()
        process.kill()
    _wait_until(lambda: not _children(output), check)
    kept = done()
    with _command(*arguments) as process:
        _ended(process, check)
    paths = _column(output, "path")
    return {
        "killed_at_rows": kept,
        "rows": len(paths),
        "distinct": len(set(paths)),
        "every_row_once": len(paths) == len(set(paths)) == total,
    }


def memory(scratch: Path, rows: int, check: Check) -> dict[str, Any]:
    """Memory of the command's processes while it runs, from a fifth of the rows on.

    Of those that are there all the time: Ray starts others for single tasks.
    """
    import pandas as pd

    source, output = scratch / "texts.parquet", scratch / "texts"
    pd.DataFrame({"id": np.arange(rows), "text": [f"{n} {TEXT}" for n in range(rows)]}).to_parquet(
        source, row_group_size=1000
    )
    done = RowsDone(str(output / "done"))
    looks: list[tuple[int, dict[int, float]]] = []
    arguments = ("benchmarks.dataset:words", source, output, "--id", "id", "--batch-size", BLOCK)
    with _command(*arguments) as process:
        while process.poll() is None:
            looks.append((done(), _used_mb(output)))
            time.sleep(LOOK_S)
            check()
        _ended(process, check)
    steady = steady_memory(looks, rows)
    return {
        "memory_rows": len(set(_column(output, "id"))),
        "mb_per_10k": round(slope_per_10k(*zip(*steady, strict=True)), 2) if steady else None,
        "mb": [round(mb) for _, mb in steady],
        "at_rows": [n for n, _ in steady],
    }


def steady_memory(
    looks: Sequence[tuple[int, Mapping[int, float]]], rows: int
) -> list[tuple[int, float]]:
    """Rows done, and MB of the processes that are in every look from a fifth of the rows on."""
    looks = [(done, used) for done, used in looks if rows / 5 <= done < rows and used]
    always = set.intersection(*(set(used) for _, used in looks)) if looks else set()
    return [(done, sum(used[pid] for pid in always)) for done, used in looks]


@contextmanager
def _command(*words: object) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``mlkit map``; it is ended if it is left."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlkit.cli", "map", *map(str, words)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait()
            if process.returncode > 0:
                log.seek(0)
                raise MlkitError(
                    "`mlkit map` failed", got=log.read().decode(errors="replace")[-1500:]
                )


def _alive(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        raise MlkitError("`mlkit map` ended before it was killed")


def _ended(process: subprocess.Popen[bytes], check: Check) -> None:
    while process.poll() is None:
        time.sleep(0.2)
        check()


def _wait_until(condition: Callable[[], bool], check: Check) -> None:
    while not condition():
        time.sleep(0.2)
        check()


def _children(output: Path) -> list[psutil.Process]:
    """Processes of Ray and its workers that map to a folder."""
    sessions = set()
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "mlkit.serving.port.dataset" in command:
            job = Path(command[-1]) / "job.json"
            if job.is_file() and json.loads(job.read_text())["output"] == str(output):
                sessions.add(job.parent.name)
    return [process for session in sessions for process in processes_of(session)]


def _used_mb(output: Path) -> dict[int, float]:
    """Memory of these processes that they share with no other, in MB, by process id."""
    used = {}
    for process in _children(output):
        with suppress(psutil.Error):
            used[process.pid] = process.memory_full_info().uss / 2**20
    return used


def _column(output: Path, name: str) -> list[Any]:
    import pandas as pd

    return list(pd.read_parquet(output / "results", columns=[name])[name])
