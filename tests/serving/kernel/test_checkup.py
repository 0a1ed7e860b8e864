"""What will go wrong with an app, from facts that are made up."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from mlkit import batched_step, each, pipeline, step
from mlkit.plan import plan
from mlkit.serving import Limits
from mlkit.serving.kernel import observing
from mlkit.serving.kernel.app import App
from mlkit.serving.kernel.checkup import LARGE, Facts, about_app, size_of, sizes_of
from mlkit.serving.kernel.doctor import Finding

TABLE = pd.DataFrame({"x": np.zeros(1000)})


@step
def look_up(x: int) -> float:
    return float(TABLE["x"][x])


@batched_step(max_batch_size=64, batch_wait_timeout_s=0.01)
def score(xs: list[float]) -> list[float]:
    return xs


@step(num_replicas=4)
def draw(x: float) -> float:
    return x


@step(num_replicas=4)
async def label(x: float) -> str:
    return str(x)


@pipeline
def shop(x: int) -> str:
    return label(score(look_up(x)))


@pipeline
def drawn(x: int) -> str:
    return label(draw(look_up(x)))


def found(pipe=shop, **changes) -> list[str]:
    facts = Facts(plan(pipe), Limits(), captured={}, total={"CPU": 64.0}, cores=64)
    return [str(finding) for finding in about_app(replace(facts, **changes))]


def test_an_app_that_fits_has_no_problems() -> None:
    assert found() == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"captured": {("look_up", "TABLE"): 480 * 2**20}}, ["480 MiB", "resource(value=TABLE)"]),
        (
            {"limits": Limits(max_ongoing_requests=16)},
            ["never fill", "max_batch_size=64", "0.01 s"],
        ),
        ({"total": {"CPU": 0.5}}, ["needs", "CPUs", "fewer replicas"]),
        ({"pipe": drawn, "cores": 2}, ["10 threads at a time", "drawn 2", "2 cores", "profile"]),
        ({"pipe": drawn, "cores": 2, "workers": 8}, ["10 threads at a time"]),
    ],
)
def test_what_will_go_wrong_is_said_with_a_way_out(changes, words) -> None:
    (shown,) = found(**changes)
    assert [word for word in words if word not in shown] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"captured": {("look_up", "TABLE"): LARGE - 1}},
        {"limits": Limits(max_ongoing_requests=64)},
        {"total": {"CPU": 2.0}},
        {"cores": 2},
        {"pipe": drawn, "cores": 4, "workers": 1},
        {"pipe": drawn, "cores": 0},
    ],
)
def test_what_just_fits_is_not_complained_about(changes) -> None:
    assert found(**changes) == []


def test_an_app_is_looked_at_where_it_runs(record_of, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(observing, "about_machine", lambda: [Finding("the disk is full", "fix")])
    planned = plan(shop)
    node = {"node": "a", "address": "10.0.0.1", "resources": {"CPU": 0.25}}
    placement = {"replicas": [], "nodes": [node, node], "taken": {}}
    session = SimpleNamespace(
        folder=tmp_path,
        store=SimpleNamespace(get=None),
        about=lambda: SimpleNamespace(address=address),
        call=lambda call, **options: placement,
    )
    app = App(session, planned, record_of(planned))
    address = "local"
    assert "the disk is full" in str(app.doctor())
    address = "ray://10.0.0.1:10001"  # its nodes have half a CPU, and another disk
    (finding,) = app.doctor()
    assert "needs" in finding.what


def test_a_batch_over_a_list_fills_from_one_request() -> None:
    @pipeline
    def many(xs: list[float]) -> list[float]:
        return each(score, xs)

    facts = Facts(plan(many), Limits(max_ongoing_requests=2), {}, {"CPU": 8.0}, 8)
    assert list(about_app(facts)) == []


def test_sizes_of_what_code_captures_are_known() -> None:
    assert sizes_of(plan(shop).graph) == {("look_up", "TABLE"): size_of(TABLE)}
    assert size_of(TABLE) >= 8000


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (np.zeros(10), 80),
        (b"1234", 4),
        ([b"12", b"3"], 3),
        ({"a": np.zeros(1)}, 8),
        (pd.Series(np.zeros(10)), 80 + pd.RangeIndex(10).memory_usage()),
        ("text", 0),
        (object(), 0),
        (np.zeros, 0),
    ],
)
def test_the_size_of_a_value(value, size) -> None:
    assert size_of(value) == size
