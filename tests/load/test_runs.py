"""The store of load tests. Its folder is injected; nothing touches the user's own."""

import gc
import os
import sqlite3
import warnings
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlkit.errors import InputError, LoadError
from mlkit.load import constant, load_test, replay, runs
from mlkit.load.runstore import Runs, RunsStore, record


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLKIT_RUNS_DIR", str(tmp_path / "runs"))
    return tmp_path / "runs"


def add(result, **options):
    record(result, code=("v1",), options={"seed": 0, **options})


def test_the_suite_does_not_write_to_the_users_store(monkeypatch):
    monkeypatch.undo()
    platformdirs = pytest.importorskip("platformdirs")
    assert os.environ["MLKIT_RUNS_DIR"] != str(platformdirs.user_data_path("mlkit") / "runs")


def test_without_a_variable_it_lies_in_the_data_directory(monkeypatch, tmp_path, make_result):
    monkeypatch.delenv("MLKIT_RUNS_DIR")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    add(make_result([5.0]))
    assert (tmp_path / "mlkit" / "runs" / "runs.db").exists()


def test_a_load_test_is_recorded_with_what_it_ran_on(make_result):
    add(make_result([5.0] * 200, slo_ms=50), timeout_s=30)
    (row,) = runs()
    assert (row.id, row.code, row.arrivals) == (1, "v1", "constant(rate=20.0)")
    assert row.options == {"seed": 0, "timeout_s": 30}
    assert row.summary["requests"] == 200
    assert row.machine["cores"] >= 1
    assert {"python", "mlkit", "numpy"} <= row.versions.keys()
    frame = runs().to_frame()
    assert frame.loc[1, "p99_ms"] == pytest.approx(5)
    assert frame.loc[1, "raw"]
    assert frame["started"].dt.year.tolist() == [2025]


def test_its_records_are_read_again_and_compared(make_result):
    add(make_result([5.0] * 20))
    add(make_result([9.0] * 20, errors={3: "timeout"}))
    assert runs().load(2).errors == {"timeout": 1}
    assert list(runs().compare(1, 2).results) == ["1", "2"]
    table = runs().compare(before=1, after=2).to_frame()
    assert table.loc["after", "p50_ms"] == pytest.approx(9)
    assert table.loc["before", "p50_ms"] == pytest.approx(5)


def test_a_missing_test_names_those_there_are(make_result):
    add(make_result([5.0]))
    with pytest.raises(LoadError, match=r"no such load test(.|\n)*one of 1"):
        runs().load(7)
    with pytest.raises(InputError, match="nothing to compare"):
        runs().compare()


def test_an_empty_store_is_an_empty_table(folder):
    assert len(runs()) == 0
    assert len(runs().to_frame()) == 0
    assert repr(runs()) == "no load tests are recorded"
    assert runs()._repr_html_()
    assert not folder.exists()


def test_records_beyond_the_size_are_deleted_oldest_first(folder, make_result):
    result = make_result([5.0] * 100)
    size = result.save(folder.parent / "one.npz", compress=False).stat().st_size
    store = RunsStore(folder, max_bytes=int(2.5 * size))
    for _ in range(4):
        store.add(figures(result), result)
    assert [row.bytes > 0 for row in store.rows()] == [False, False, True, True]
    assert {path.stem for path in folder.glob("*.npz")} == {"3", "4"}
    with pytest.raises(LoadError, match="records are not kept"):
        Runs(store).load(1)


def test_the_number_of_rows_is_bounded(folder, make_result):
    result = make_result([5.0])
    store = RunsStore(folder, max_rows=3)
    for _ in range(5):
        store.add(figures(result), result)
    assert [row.id for row in store.rows()] == [3, 4, 5]
    assert len(list(folder.glob("*.npz"))) == 3


def figures(result):
    summary = result.summary()
    return {
        "started": result.started,
        "arrivals": repr(result.arrivals),
        "code": "",
        "options": {},
        "machine": {},
        "versions": {},
        "summary": summary,
    }


def test_large_records_are_left_out(monkeypatch, make_result):
    monkeypatch.setattr("mlkit.load.runstore.MAX_RAW_BYTES", 100)
    add(make_result([5.0] * 100))
    assert runs().to_frame()["raw"].tolist() == [False]


def test_a_replay_leaves_its_times_out(folder, make_result):
    add(make_result([5.0] * 10, arrivals=replay(np.arange(50_000.0))))
    assert len((folder / "runs.db").read_bytes()) < 50_000
    assert runs().load(1).arrivals == replay(np.arange(50_000.0))


def test_a_folder_that_cannot_be_written_is_one_warning(monkeypatch, tmp_path, make_result):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLKIT_RUNS_DIR", str(tmp_path / "file" / "runs"))
    with warnings.catch_warnings(record=True, action="always") as caught:
        add(make_result([5.0]))
        add(make_result([5.0]))
    assert ["not recorded" in str(one.message) for one in caught] == [True]


def test_a_broken_database_is_a_warning_when_written_and_an_error_when_read(folder, make_result):
    folder.mkdir()
    (folder / "runs.db").write_text("no database at all, but long enough to be looked at")
    with pytest.warns(RuntimeWarning, match="not recorded"):
        add(make_result([5.0]))
    with pytest.raises(LoadError, match="cannot be read"):
        runs()
    gc.collect()  # from Python 3.13 on, a connection that was left open is a warning


def test_a_database_of_a_newer_version_is_left_alone(folder, make_result):
    add(make_result([5.0]))
    with closing(sqlite3.connect(folder / "runs.db")) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.warns(RuntimeWarning, match="newer mlkit"):
        add(make_result([5.0]))


def test_an_empty_variable_turns_it_off(monkeypatch, make_result):
    monkeypatch.setenv("MLKIT_RUNS_DIR", "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        add(make_result([5.0]))
    with pytest.raises(LoadError, match="unset MLKIT_RUNS_DIR"):
        runs()


def test_two_processes_add_at_the_same_time(folder, make_result):
    result = make_result([5.0])
    stores = [RunsStore(folder), RunsStore(folder)]
    ids = [stores[k % 2].add(figures(result), result) for k in range(6)]
    assert ids == [1, 2, 3, 4, 5, 6]


def test_all_of_it_is_exported(tmp_path, make_result):
    pytest.importorskip("pyarrow")
    add(make_result([5.0] * 10))
    add(make_result([7.0] * 10, slo_ms=20))
    frame = pd.read_parquet(runs().to_parquet(tmp_path / "runs.parquet"))
    assert frame["id"].tolist() == [1, 2]
    assert {"p99_ms", "options", "versions", "machine", "code"} <= set(frame.columns)


def test_the_table_is_short(make_result):
    add(make_result([5.0] * 10))
    assert "constant(rate=1.0)" in repr(runs())
    assert "p99_ms" in runs()._repr_html_()


def test_every_load_test_is_recorded(hello):
    result = load_test(
        f"http://127.0.0.1:{hello}/x", [b"a"], constant(rate=50), duration_s=0.2, progress=False
    )
    (row,) = runs()
    assert row.summary["requests"] == len(result)
    assert row.options["duration_s"] == 0.2
    assert row.code == ""
    assert Path(os.environ["MLKIT_RUNS_DIR"], "1.npz").exists()
