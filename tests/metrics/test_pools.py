"""What replicas report of their pools of models, and what is kept of it."""

from __future__ import annotations

import weakref
from typing import Any

import pytest

from mlkit.metrics import Gatherer, History, Recorder, Rolling
from mlkit.metrics.pools import SHOWN_MODELS, Pools, observe_pool, pool_reports


class FakePool:
    """Reports what it is made with."""

    def __init__(self, budget: int, models: list[list[Any]], **counts: int) -> None:
        self.budget, self.models, self.counts = budget, models, counts

    def report(self, most: int) -> dict[str, Any]:
        zeros = dict.fromkeys(("hits", "loads", "evictions", "failed"), 0)
        sizes = [size for _, size, _ in self.models]
        readings = {"resident": len(sizes), "bytes": sum(sizes), "budget_bytes": self.budget}
        return {**zeros, **readings, **self.counts, "models": self.models[:most]}


@pytest.fixture(autouse=True)
def no_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those of other tests."""
    monkeypatch.setattr("mlkit.metrics.pools._pools", weakref.WeakValueDictionary())


@pytest.fixture
def pools() -> list[FakePool]:
    """Two pools of this process; they are observed while this list exists."""
    observed = [
        FakePool(100, [["b:v1", 40, "resident"], ["a:v1", 30, "pinned"]], hits=9, loads=3),
        FakePool(50, []),
    ]
    for pool in observed:
        observe_pool(pool)
    return observed


def taken(at: float, stage: str = "shop") -> tuple[Recorder, dict[str, Any]]:
    recorder = Recorder(stage, now=lambda: at)
    return recorder, recorder.take()


def test_pools_are_reported_in_the_order_in_which_they_were_made(pools) -> None:
    assert [report["budget_bytes"] for report in pool_reports()] == [100, 50]


def test_a_report_lists_a_limited_number_of_models() -> None:
    pool = FakePool(1_000, [[f"m{i}", 1, "resident"] for i in range(SHOWN_MODELS + 5)])
    observe_pool(pool)
    (report,) = pool_reports()
    assert (len(report["models"]), report["resident"]) == (SHOWN_MODELS, SHOWN_MODELS + 5)


def test_the_pools_of_an_app_are_a_table_each_of_counts_and_of_models(pools) -> None:
    recorder, delta = taken(10.0)
    shown = Pools.of("shop", [delta])
    frame = shown.to_frame()
    assert frame["pool"].tolist() == [1, 2]
    assert frame.loc[0, ["bytes", "budget_bytes", "hit_rate"]].tolist() == [70, 100, 0.75]
    assert frame["hit_rate"].isna().tolist() == [False, True]
    assert set(frame["replica"]) == {recorder.take()["process"]}
    models = shown.models()
    assert models[["model", "bytes", "state"]].to_numpy().tolist() == [
        ["b:v1", 40, "resident"],
        ["a:v1", 30, "pinned"],
    ]


def test_a_failed_loading_is_no_hit() -> None:
    pool = FakePool(9, [], hits=2, loads=1, failed=1)
    observe_pool(pool)
    assert Pools.of("shop", [taken(10.0)[1]])[0].hit_rate == 0.5


def test_pools_of_two_apps_add_up_to_one_table(pools) -> None:
    first, second = (Pools.of(app, [taken(10.0)[1]]) for app in ("shop", "search"))
    assert (first + second).to_frame()["app"].tolist() == ["shop", "shop", "search", "search"]


def test_without_pools_there_are_empty_tables() -> None:
    shown = Pools.of("shop", [taken(10.0)[1]])
    assert (len(shown), len(shown.to_frame()), len(shown.models())) == (0, 0, 0)


def test_models_are_kept_of_the_last_delta_alone(pools) -> None:
    gatherer, history, rolling = Gatherer(), History(), Rolling()
    clock = iter([0.0, 10.0, 10.5])
    recorder = Recorder("shop", now=lambda: next(clock))
    for delta in (recorder.take(), recorder.take()):
        gatherer.push(delta)
    _, deltas = gatherer.since(0)
    assert [["models" in pool for pool in delta["pools"]] for delta in deltas] == [
        [False, False],
        [True, True],
    ]
    history.add(deltas)
    rolling.add(deltas)
    assert [pool["resident"] for delta in history.deltas for pool in delta["pools"]] == [2, 0, 2, 0]
    assert len(Pools.of("shop", rolling.latest()).models()) == 2


def test_a_replica_that_has_ended_has_no_pools(pools) -> None:
    rolling = Rolling()
    ended, present = taken(10.0)[1], taken(14.0)[1]
    rolling.add([ended, present])
    assert {pool.replica for pool in Pools.of("shop", rolling.latest())} == {present["process"]}
