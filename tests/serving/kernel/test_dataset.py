"""What `map_dataset` checks before it starts anything."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel

from mlkit import InputError, pipeline, step
from mlkit.errors import MlkitError
from mlkit.serving import map_dataset
from mlkit.serving.control.dataset import RowsDone
from mlkit.serving.kernel import dataset


class Price(BaseModel):
    euros: float


@step
def cost(weight: float, fast: bool) -> Price:
    return Price(euros=weight * (2 if fast else 1))


@pipeline
def postage(weight: float, fast: bool = False) -> Price:
    return cost(weight, fast)


class Coded(BaseModel):
    code: int


@step
def coded(weight: float) -> Coded:
    return Coded(code=1)


@pipeline
def codes(weight: float) -> Coded:
    return coded(weight)


@step
def size_of(data: bytes) -> int:
    return len(data)


@pipeline
def size(data: bytes) -> int:
    return size_of(data)


@pytest.fixture
def parcels(tmp_path: Path) -> Path:
    """Two Parquet files with three rows each."""
    folder = tmp_path / "parcels"
    folder.mkdir()
    for n in range(2):
        rows = {"code": [f"{n}{k}" for k in range(3)], "weight": [1.0, 2.0, 3.0]}
        pq.write_table(pa.table(rows), folder / f"{n}.parquet")
    return folder


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[dataset.DatasetJob]:
    """The jobs that would have been started."""
    started: list[dataset.DatasetJob] = []
    monkeypatch.setattr(dataset, "_run", lambda job, bundle, show: started.append(job))
    return started


def test_columns_are_the_parameters_that_the_rows_have(jobs, parcels: Path, tmp_path: Path) -> None:
    outcome = map_dataset(postage, parcels, tmp_path / "out", id="code", progress=False)
    (job,) = jobs
    assert job.parquet
    assert (job.id, job.columns) == ("code", {"weight": "weight"})
    assert job.source == str(parcels)
    assert (outcome.rows, outcome.failed) == (0, 0)  # nothing has run


def test_nothing_is_started_when_all_rows_are_done(jobs, parcels: Path, tmp_path: Path) -> None:
    done = tmp_path / "out" / "done"
    map_dataset(postage, parcels, tmp_path / "out", id="code", progress=False)
    done.mkdir()
    pq.write_table(pa.table({"code": list("abcdef")}), done / "1.parquet")
    map_dataset(postage, parcels, tmp_path / "out", id="code", progress=False)
    assert len(jobs) == 1


def test_each_file_of_a_folder_is_a_row(jobs, tmp_path: Path) -> None:
    (tmp_path / "pictures" / "more").mkdir(parents=True)
    (tmp_path / "pictures" / "more" / "a.jpg").write_bytes(b"a")
    map_dataset(size, tmp_path / "pictures", tmp_path / "out", progress=False)
    (job,) = jobs
    assert not job.parquet
    assert (job.id, job.columns) == ("path", {"data": "bytes"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": None}, "no column identifies the rows"),
        ({"id": "cod"}, "did you mean 'code'"),
        ({"source": "missing"}, "there are no files"),
        ({"pipeline": size}, "the rows have no column data"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(
    jobs, parcels: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    options = {"pipeline": postage, "source": parcels, "id": "code", "progress": False} | change
    if options["source"] == "missing":
        options["source"] = tmp_path / "missing"
    with pytest.raises(InputError, match=message):
        map_dataset(output=tmp_path / "out", **options)
    assert jobs == []
    assert not (tmp_path / "out").exists()


def test_a_file_is_one_argument(jobs, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.txt").touch()

    @pipeline
    def two(weight: float, fast: bool) -> Price:
        return cost(weight, fast)

    with pytest.raises(InputError, match="a file is one argument"):
        map_dataset(two, tmp_path / "pictures", tmp_path / "out")


def test_a_file_that_is_not_parquet_is_named(jobs, tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_text("code,weight")
    with pytest.raises(InputError, match="cannot be read"):
        map_dataset(postage, tmp_path / "rows.parquet", tmp_path / "out", id="code")


def test_columns_of_one_name_are_refused(jobs, parcels: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="would be called code"):
        map_dataset(codes, parcels, tmp_path / "out", id="code")


def test_results_of_another_version_are_not_mixed(jobs, parcels: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    map_dataset(postage, parcels, out, id="code", progress=False)
    map_dataset(postage, parcels, out, id="code", progress=False)  # continues
    assert len(jobs) == 2

    @step
    def cost(weight: float, fast: bool) -> Price:
        return Price(euros=weight)

    with pytest.raises(InputError, match="results of another code"):
        map_dataset(postage.replace(cost=cost), parcels, out, id="code", progress=False)
    assert json.loads((out / "mapped.json").read_text())["pipeline"] == "postage"


def test_a_folder_with_other_contents_is_kept(jobs, parcels: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="other contents"):
        map_dataset(postage, parcels, tmp_path, id="code")


def test_rows_count_when_their_file_is_whole(tmp_path: Path) -> None:
    done = RowsDone(str(tmp_path))
    assert done() == 0
    table = pa.table({"code": ["a", "b"]})
    pq.write_table(table, tmp_path / "1.parquet")
    pq.write_table(table, tmp_path / "2.pending.parquet")
    assert done() == 2
    (tmp_path / "2.pending.parquet").rename(tmp_path / "2.parquet")
    assert done() == 4


def test_a_failed_process_is_an_error_that_says_why(
    monkeypatch: pytest.MonkeyPatch, parcels: Path, tmp_path: Path
) -> None:
    started = start_instead(monkeypatch, "import json; print(json.dumps({'error': 'boom'})); 1 / 0")
    with pytest.raises(MlkitError, match="boom"):
        map_dataset(postage, parcels, tmp_path / "out", id="code", progress=False)
    assert not started[0].exists()


def test_an_interrupt_ends_the_process(
    monkeypatch: pytest.MonkeyPatch, parcels: Path, tmp_path: Path
) -> None:
    start_instead(monkeypatch, "print('{\"done\": 1}', flush=True); input()")

    def show(done: int) -> None:
        if done:
            raise KeyboardInterrupt

    monkeypatch.setattr(dataset, "_bar", lambda *_: nullcontext(show))
    with pytest.raises(KeyboardInterrupt):
        map_dataset(postage, parcels, tmp_path / "out", id="code")


def start_instead(monkeypatch: pytest.MonkeyPatch, code: str) -> list[Path]:
    """Starts a process with this code instead of the one that maps; returns its folders."""
    folders: list[Path] = []
    popen: Callable[..., Any] = subprocess.Popen

    def start(command: list[str], **options: Any) -> Any:
        folders.append(Path(command[-1]))
        return popen([sys.executable, "-c", code], **options)

    monkeypatch.setattr(dataset.subprocess, "Popen", start)
    return folders
