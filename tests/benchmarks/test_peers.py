"""Ranks, ratios and turns of the comparison with other servers."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.peers.catalogue import OURS, QUICK, SERVERS, Server, request, tags_of
from benchmarks.peers.figures import (
    Point,
    Round,
    Row,
    agreement,
    capacity,
    ranking,
    ratios,
    summary,
)
from benchmarks.peers.independent import agree, rate_in
from benchmarks.peers.runner import chosen, take_turns
from mlkit.errors import InputError, MlkitError

TAGS = [frozenset({"dress", "red"}), frozenset({"hat"})]


def measured(saturated: float, p99_ms: float = 40.0) -> Round:
    points = (Point(0.6, 60.0, 20.0), Point(0.8, 80.0, p99_ms), Point(1.0, 100.0, math.inf))
    return Round(1.0, saturated, 10.0, 9.0, 100.0, 0.1, points)


def row(name: str, rates: list[float], *, track: str = "equal", p99_ms: float = 40.0) -> Row:
    found = Row(name, track, not name.startswith(OURS), agreement=1.0)  # type: ignore[arg-type]
    found.rounds = {i: measured(rate, p99_ms) for i, rate in enumerate(rates, 1)}
    return found


# ---- agreement ---------------------------------------------------------------------------------


def test_the_same_tags_agree() -> None:
    assert agreement(TAGS, TAGS) == 1.0


def test_agreement_counts_tags_not_images() -> None:
    assert agreement([frozenset({"dress", "blue"}), frozenset({"hat"})], TAGS) == pytest.approx(0.5)


def test_as_many_answers_as_images_are_needed() -> None:
    with pytest.raises(ValueError):
        agreement(TAGS[:1], TAGS)


@pytest.mark.parametrize(
    ("share", "counts"), [(None, False), (0.98, False), (0.99, True), (1.0, True)]
)
def test_numbers_count_from_99_per_cent_of_agreement(share: float | None, counts: bool) -> None:
    assert Row("FastAPI", "equal", True, agreement=share).counts is counts


# ---- capacity ----------------------------------------------------------------------------------


def test_the_capacity_is_where_p99_crosses_the_objective() -> None:
    points = [Point(0.6, 60.0, 25.0), Point(0.8, 80.0, 100.0)]
    assert capacity(points, 50.0) == pytest.approx(70.0)


@pytest.mark.parametrize(
    ("p99s", "rate"),
    [((20, 30, 40), 3.0), ((60, 70, 80), 0.0), ((20, math.inf, math.inf), 1.0), ((), 0.0)],
)
def test_the_capacity_stays_within_the_measured_rates(p99s: tuple[float, ...], rate: float) -> None:
    points = [Point(i / 10, float(i), p99) for i, p99 in enumerate(p99s, 1)]
    assert capacity(points, 50.0) == rate


def test_a_lucky_run_above_a_missed_rate_does_not_raise_the_capacity() -> None:
    points = [Point(0.6, 60.0, 25.0), Point(0.8, 80.0, 100.0), Point(1.0, 100.0, 20.0)]
    assert capacity(points, 50.0) == pytest.approx(70.0)


@given(st.lists(st.floats(1.0, 1e4), min_size=2, max_size=6), st.floats(10.0, 1e3))
def test_a_looser_objective_never_lowers_the_capacity(p99s: list[float], slo_ms: float) -> None:
    points = [Point(i / 10, float(i), p99) for i, p99 in enumerate(p99s, 1)]
    assert capacity(points, slo_ms) <= capacity(points, 1.5 * slo_ms) + 1e-9


# ---- ranks and ratios --------------------------------------------------------------------------


def test_the_best_peer_has_the_best_mean() -> None:
    rows = [row("a", [10, 20, 30]), row("b", [21, 21, 21]), row("c", [1, 1, 50])]
    assert [r.name for r in ranking(rows, lambda one: one.saturated)] == ["b", "a", "c"]
    lowest = ranking(rows, lambda one: one.saturated, lowest=True)
    assert [r.name for r in lowest] == ["c", "a", "b"]


def test_what_does_not_agree_or_was_not_measured_is_not_ranked() -> None:
    wrong, absent = row("fast but wrong", [900.0]), row("absent", [])
    wrong.agreement = 0.5
    assert ranking([wrong, absent, row("a", [1.0])], lambda one: one.saturated) == [row("a", [1.0])]


def test_a_ratio_pairs_the_rounds_that_both_have() -> None:
    ours, theirs = row(OURS, [100, 100, 100]), row("Mosec", [50, 1, 50])
    del theirs.rounds[2]
    found = ratios(ours, theirs, lambda one: one.saturated)
    assert (found["value"], found["low"], found["high"], found["rounds"]) == (2.0, 2.0, 2.0, 2)


def test_the_interval_says_what_it_is() -> None:
    few = ratios(row(OURS, [90, 100, 120]), row("b", [100] * 3), lambda one: one.saturated)
    assert few["interval"] == "range of the rounds"
    assert (few["low"], few["high"]) == (0.9, 1.2)
    many = ratios(row(OURS, [90, 100, 110] * 2), row("b", [100] * 6), lambda one: one.saturated)
    assert many["interval"].startswith("95%")
    assert 0.85 < many["low"] < many["value"] < many["high"] < 1.15


def test_a_ratio_of_what_failed_is_unknown() -> None:
    found = ratios(row(OURS, [1.0], p99_ms=math.inf), row("b", [1.0]), lambda r: r.points[1].p99_ms)
    assert found["value"] is None
    assert found["interval"] == "none"
    assert ratios(row(OURS, [1.0]), row("b", []), lambda one: one.saturated)["value"] is None


def test_the_summary_compares_with_the_best_of_each_track() -> None:
    rows = [
        row(OURS, [150.0] * 3),
        row("mlkit asgi", [500.0] * 3),  # is no peer
        row("FastAPI", [100.0] * 3),
        row("FastAPI, processes", [120.0] * 3),
        row("Mosec", [200.0] * 3, p99_ms=20.0),
        row("Mosec (oob)", [50.0] * 3, track="oob"),
        row("Ray Serve graph (oob)", [10.0] * 3, track="oob"),
    ]
    found = summary({r.name: r for r in rows}, OURS, 50.0)
    assert {name: (r["over"], r["value"]) for name, r in found.items()} == {
        "saturated_over_fastapi": ("FastAPI, processes", 1.25),
        "saturated_over_best_peer": ("Mosec", 0.75),
        "cpu_over_best_peer": ("FastAPI", 1.0),
        "capacity_over_best_peer": ("FastAPI", 1.0),
        "p99_at_80pct_over_best_peer": ("Mosec", 2.0),
        "oob_over_best_peer": ("Mosec (oob)", 3.0),
        "blog_graph": ("Ray Serve graph (oob)", 15.0),
    }


def test_without_mlkit_or_without_peers_there_is_no_ratio() -> None:
    assert summary({"Mosec": row("Mosec", [1.0])}, OURS, 50.0) == {}
    assert summary({OURS: row(OURS, [1.0])}, OURS, 50.0) == {}


def test_rows_are_plain_json_without_infinities() -> None:
    text = json.dumps(row("Mosec", [10.0, 20.0]).to_dict(50.0), allow_nan=False)
    assert json.loads(text)["means"]["saturated"] == 15.0


# ---- turns -------------------------------------------------------------------------------------


class FakeBench:
    """Servers that answer what they are told to, and the order in which they are asked."""

    def __init__(self, broken: dict[str, int] | None = None, wrong: str = "") -> None:
        self.broken, self.wrong = broken or {}, wrong
        self.asked: list[str] = []
        self.best: set[float] = set()

    def _fail(self, server: Server) -> None:
        if self.broken.get(server.name, 0):
            self.broken[server.name] -= 1
            raise MlkitError("the server did not come up")

    def pilot(self, server: Server) -> tuple[list[frozenset[str]], float]:
        self.asked.append(server.name)
        self._fail(server)
        tags = [frozenset({"other"})] * 2 if server.name == self.wrong else TAGS
        return tags, {"a": 100.0, "b": 200.0}.get(server.name, 999.0)

    def round(self, server: Server, best: float, number: int) -> Round:
        self.asked.append(f"{server.name}{number}")
        self.best.add(best)
        self._fail(server)
        return measured(100.0)


A, B = Server("a", ()), Server("b", ())
MINE, OOB = Server(OURS, ()), Server("a (oob)", (), "oob")


def test_servers_are_measured_by_turns() -> None:
    bench = FakeBench()
    take_turns([A, B], bench, TAGS, rounds=2)
    assert bench.asked == ["a", "b", "a1", "b1", "a2", "b2"]


def test_rates_are_shares_of_the_best_peer_with_the_equal_model() -> None:
    bench = FakeBench()
    take_turns([MINE, OOB, A, B], bench, TAGS, rounds=1)
    assert bench.best == {200.0}


def test_a_peer_that_does_not_come_up_is_a_row_with_its_reason_and_nothing_else_is_lost() -> None:
    bench = FakeBench(broken={"a": 2})
    rows = take_turns([A, B], bench, TAGS, rounds=3)
    assert rows["a"].rounds == {}
    assert "did not come up" in rows["a"].problems[0]
    assert list(rows["b"].rounds) == [1, 2, 3]
    assert "a1" not in bench.asked


def test_a_peer_that_comes_up_the_second_time_takes_part() -> None:
    rows = take_turns([A], FakeBench(broken={"a": 1}), TAGS, rounds=1)
    assert len(rows["a"].problems) == len(rows["a"].rounds) == 1


def test_a_peer_with_other_tags_is_a_row_without_numbers() -> None:
    rows = take_turns([A, B], FakeBench(wrong="b"), TAGS, rounds=1)
    assert rows["b"].rounds == {}
    assert rows["b"].problems == ["its tags agree with the reference by 0.00%"]
    assert rows["b"].to_dict(50.0)["counts"] is False


def test_a_round_that_fails_is_missing_alone() -> None:
    class Once(FakeBench):
        def round(self, server: Server, best: float, number: int) -> Round:
            if number == 2:
                raise OSError("connection refused")
            return super().round(server, best, number)

    rows = take_turns([A], Once(), TAGS, rounds=3)
    assert list(rows["a"].rounds) == [1, 3]
    assert rows["a"].problems == ["round 2: connection refused"]


def test_rows_are_kept_after_each_server() -> None:
    kept: list[int] = []
    take_turns([A, B], FakeBench(), TAGS, rounds=2, keep=lambda rows: kept.append(len(rows)))
    assert kept == [2] * 6


# ---- how servers are asked ---------------------------------------------------------------------


def test_names_are_unique_and_a_quick_run_has_known_ones() -> None:
    names = [server.name for server in SERVERS]
    assert len(names) == len(set(names))
    assert [server.name for server in chosen(None, quick=True)] == list(QUICK)
    assert chosen(None, quick=False) == list(SERVERS)
    with pytest.raises(InputError, match="Mosek"):
        chosen(["Mosek"], quick=False)


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.name)
def test_every_server_is_sent_the_whole_image(server: Server) -> None:
    asked = request(server, 8000, b"\xff\xd8image")
    assert asked.url == f"http://127.0.0.1:8000{server.path}"
    sent = b"/9hpbWFnZQ==" if server.body == "open_inference" else b"\xff\xd8image"
    assert sent in asked.body


def test_tags_are_found_in_either_kind_of_answer() -> None:
    answer = json.dumps({"tags": ["hat", "red"], "labels": []})
    raw, inference = Server("a", ()), Server("b", (), body="open_inference")
    wrapped = json.dumps({"outputs": [{"name": "tags", "data": [answer]}]})
    assert tags_of(raw, answer.encode()) == tags_of(inference, wrapped.encode()) == {"hat", "red"}
    with pytest.raises(LookupError):
        tags_of(raw, b'{"detail": "no"}')


# ---- the independent check ---------------------------------------------------------------------


def test_rates_are_read_from_both_tools() -> None:
    assert rate_in("Requests/sec:    812.31\nTransfer/sec: 1MB") == 812.31
    assert rate_in("  Requests/sec:\t97.5\n  [200]\t500 responses") == 97.5


@pytest.mark.parametrize(
    "printed",
    ["", "Requests/sec: 9\n  Non-2xx or 3xx responses: 3", "Requests/sec: 9\n [401]\t7 responses"],
)
def test_a_rate_of_bad_answers_is_none(printed: str) -> None:
    with pytest.raises(ValueError):
        rate_in(printed)


@pytest.mark.parametrize(("theirs", "agrees"), [(100.0, True), (92.0, True), (88.0, False)])
def test_generators_agree_within_a_tenth(theirs: float, agrees: bool) -> None:
    assert agree([100.0], [theirs])["agrees"] is agrees
