from __future__ import annotations

import json
import math

import pytest

from mlkit.load import closed, poisson
from tools.demo.offline import Block, by_turns, median_rate
from tools.demo.summary import TARGETS, Target, busy, summarise

FIELDS = {
    "offline_rps",
    "eager_rps",
    "served_rps",
    "client_cores",
    "blog_graph_rps",
    "overhead_cpu_ms",
    "poisson_rate",
    "poisson_p99_ms",
    "tags",
}


def test_the_figures_follow_from_what_was_measured(measured) -> None:
    found = summarise(measured())
    assert set(found) >= FIELDS
    assert found["offline_rps"] == 200
    assert found["eager_rps"] == 20
    assert found["served_rps"] == pytest.approx(150, rel=0.01)
    assert found["offline_per_eager"] == 10
    assert found["served_share_of_offline"] == pytest.approx(150 / (200 * 0.95), rel=0.01)
    assert found["served_per_blog"] == pytest.approx(15, rel=0.01)
    assert (found["poisson_rate"], found["poisson_p99_ms"]) == (90, pytest.approx(10))


def test_overhead_is_served_cpu_less_offline_cpu(measured) -> None:
    found = summarise(measured())
    assert found["served_cpu_ms"] == pytest.approx(1860 / 300)
    assert found["offline_cpu_ms"] == 5
    assert found["overhead_cpu_ms"] == pytest.approx(1.2)
    assert found["cpu_ms_by_process"] == {"replica": 6.0, "HAProxy": 0.2}


def test_every_figure_says_how_it_was_got(measured) -> None:
    found = summarise(measured())
    numbers = {name for name, value in found.items() if isinstance(value, float)}
    assert numbers == set(found["how"])


def test_pictures_have_tags_or_an_error(measured) -> None:
    found = summarise(measured())
    assert found["tags"] == {"shoe.jpg": ["shoes", "gold", "plimsolls"]}
    assert list(found["errors"].values()) == ["<script>alert(2)</script>"]


def test_what_could_not_be_measured_is_none_and_says_why(measured) -> None:
    found = summarise(measured(blog=None, blog_problem="no room"))
    assert (found["blog_graph_rps"], found["served_per_blog"]) == (None, None)
    assert found["blog_graph_problem"] == "no room"
    assert found["targets"]["served_per_blog"]["met"] is None
    assert "blog_graph" not in found["loads"]


def test_a_void_run_says_so(measured, load) -> None:
    late = [load(45, poisson(rate=45.0)), load(90, poisson(rate=90.0), late_ms=5)]
    (reason,) = summarise(measured(open_loops=late))["void"]
    assert reason.startswith("60%: requests left late")


def test_nothing_answered_is_still_json(measured, load) -> None:
    dead = load(1, closed(concurrency=1))
    dead.columns["error"][:] = "x"
    text = json.dumps(summarise(measured(blog=dead)), allow_nan=False)
    assert json.loads(text)["served_per_blog"] is None


@pytest.mark.parametrize(
    ("value", "met"), [(0.63, True), (0.62, True), (0.61, False), (None, None), (math.nan, None)]
)
def test_a_target_is_met_or_not_or_unknown(value: float | None, met: bool | None) -> None:
    assert Target("share", 0.62).met(value) is met


def test_a_target_may_be_an_upper_limit() -> None:
    (overhead,) = (target for target in TARGETS if not target.at_least)
    assert overhead.met(1.7)
    assert overhead.met(1.71) is False


def test_a_busy_machine_is_named() -> None:
    assert busy({"cores": 2, "load_before": 0.9}) == ""
    assert "load 3.3 on 2 cores" in busy({"cores": 2, "load_before": 3.3})


def test_blocks_run_by_turns_and_the_median_counts() -> None:
    order: list[str] = []

    def block(name: str):
        def run() -> Block:
            order.append(name)
            return Block(len(order), 1.0, 0.5)

        return run

    first, second = by_turns([block("a"), block("b")], 3)
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert (median_rate(first), median_rate(second)) == (3, 4)
    assert first[0].cpu_ms == 500
