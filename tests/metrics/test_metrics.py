"""Counts that add up: what several processes counted is what one would have."""

import contextlib
import math
import random
import re
import time
import weakref
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from mlkit.errors import InputError
from mlkit.metrics import Gatherer, Histogram, History, Recorder, Rolling, Span, Trace
from mlkit.metrics.histogram import EDGES_S, bucket_counts
from mlkit.metrics.peek import Peek, sample
from mlkit.metrics.pools import observe_pool
from mlkit.metrics.prometheus import exposition
from mlkit.metrics.recent import Recent
from mlkit.metrics.recorder import MAX_PENDING, SAMPLED, SLOWEST, merged
from mlkit.metrics.trace import as_header


class Clock:
    """Seconds since the epoch, as a test sets them."""

    def __init__(self):
        self.at = 1000.0

    def __call__(self):
        return self.at


def trace(total_s=0.02, status=200, spans=(), id="a"):
    return Trace(id, 1000.0, total_s, status, 0.001, total_s - 0.001, tuple(spans))


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def recorder(clock):
    return lambda stage="tag", **options: Recorder(stage, now=clock, **options)


def test_percentiles_of_parts_are_those_of_the_whole_to_one_per_cent():
    rng = random.Random(0)
    values = [rng.lognormvariate(-4, 1) for _ in range(20_000)]
    whole = Histogram()
    for part in (values[:7000], values[7000:]):
        whole.add(Histogram(Histogram.of(part).encode()))
    exact = sorted(values)
    for percent in (50, 95, 99):
        expected = exact[math.ceil(len(exact) * percent / 100) - 1]
        assert whole.percentile_s(percent) == pytest.approx(expected, rel=0.011)
    assert whole.count == 20_000


def test_a_histogram_of_nothing_has_no_percentiles():
    assert math.isnan(Histogram().percentile_s(99))
    assert all(math.isnan(value) for value in Histogram().percentiles_s(50, 99))


def test_buckets_are_exact_at_their_edges():
    counts = bucket_counts([EDGES_S[3], EDGES_S[3] + 1e-9, 1e6])
    assert (counts[3], counts[4], counts[-1]) == (1, 1, 1)


def test_phases_along_the_longest_way_add_up_to_the_total():
    spans = [
        Span("decode", 0.001, 0.002, 0.004),
        Span("words", 0.001, 0.001, 0.002),
        Span("classify", 0.004, 0.007, 0.012, batch=8),
        Span("combine", 0.012, 0.012, 0.0125),
    ]
    one = Trace("a", 0.0, 0.014, 200, 0.001, 0.0126, tuple(spans))
    phases = one.phases_s
    assert sum(phases.values()) == pytest.approx(0.014)
    assert phases["queue"] == pytest.approx(0.001)
    assert phases["batch"] == pytest.approx(0.003)
    assert phases["compute"] == pytest.approx(0.002 + 0.005 + 0.0005)


def test_what_a_hop_took_beside_the_steps_behind_it_is_transfer():
    spans = [
        Span("models", 0.0, 0.0, 0.010, stage="models", hop=True),
        Span("classify", 0.002, 0.003, 0.007, batch=2, stage="models", within="models"),
    ]
    phases = Trace("a", 0.0, 0.010, 200, 0.0, 0.010, tuple(spans)).phases_s
    assert phases["transfer"] == pytest.approx(0.005)
    assert phases["compute"] == pytest.approx(0.004)
    assert phases["batch"] == pytest.approx(0.001)


def test_the_header_has_total_phases_and_steps():
    header = as_header({"queue": 0.0, "compute": 0.002}, 0.003, [Span("decode", 0, 0.001, 0.003)])
    assert header == (
        "total;dur=3.000, compute;dur=2.000, decode-wait;dur=1.000, decode-run;dur=2.000"
    )


def test_a_trace_survives_being_packed():
    decode = Span("decode", 0.001, 0.002, 0.004, 4, "models", False, "seg")
    write = Span("write", 0.004, 0.004, 0.009, first_item_s=0.005)
    one = trace(spans=[decode, write])
    assert Trace.unpack(one.pack()) == one


def test_the_times_of_items_merge_over_processes(recorder, clock):
    history, gathered = History(), Gatherer()
    for front in (recorder(), recorder()):
        front.request(trace(), 0, 0, [0.1, 0.12, 0.2])
        front.request(trace(), 0, 0, [0.3])
        front.request(trace(), 0, 0)
        delta = front.take()
        history.add([delta])
        gathered.push({**delta})
    (app,) = history.whole(60)
    assert (app.first_items.count, app.between_items.count) == (4, 4)
    assert app.first_items.percentiles_s(50, 99) == pytest.approx((0.1, 0.3), rel=0.011)
    assert app.between_items.percentiles_s(50, 99) == pytest.approx((0.02, 0.08), rel=0.011)
    (row,) = history.to_frame().to_dict("records")
    assert row["first_items_p95_ms"] == pytest.approx(300, rel=0.011)
    assert row["between_items_p99_ms"] == pytest.approx(80, rel=0.011)
    text = exposition(gathered, "tag", clock.at).decode()
    assert 'mlkit_first_item_seconds_count{pipeline="tag"} 4.0' in text
    assert 'mlkit_between_items_seconds_bucket{le="0.02",pipeline="tag"} 2.0' in text


def test_an_app_that_does_not_stream_has_no_columns_for_items(recorder, clock):
    history, gathered = History(), Gatherer()
    front = recorder()
    front.request(trace(), 0, 0)
    delta = front.take()
    history.add([delta])
    gathered.push(delta)
    assert not [name for name in history.to_frame().columns if "item" in name]
    assert b"item_seconds" not in exposition(gathered, "tag", clock.at)


def test_merged_deltas_keep_the_times_of_items(recorder):
    front = recorder()
    front.request(trace(), 0, 0, [0.1, 0.2])
    earlier = front.take()
    front.request(trace(), 0, 0)
    later = front.take()
    front.request(trace(), 0, 0, [0.1])
    both = merged(merged(earlier, later), front.take())
    history = History()
    history.add([both])
    (app,) = history.whole(60)
    assert (app.first_items.count, app.between_items.count) == (2, 1)


def test_deltas_of_several_processes_merge_by_time_step_and_stage(recorder, clock):
    history = History()
    for stage, front in (("tag", True), ("models", False)):
        one = recorder(stage, front=front)
        spans = [Span("decode", 0, 0.001, 0.003), Span("look", 0.003, 0.004, 0.009, batch=2)]
        one.request(trace(), 100, 10)
        one.steps(spans, failed="look")
        clock.at += 0.25
        history.add([one.take()])
    (app,) = history.whole(60)
    assert app.requests == 1, "what comes to a stage is no request of the app's"
    assert app.bytes == (200, 20)
    steps = {one.of: one for one in history.whole(60, by="step")}
    assert steps["decode"].requests == 2
    assert steps["look"].errors == 2
    assert steps["look"].mean_batch == pytest.approx(2)
    assert {one.of for one in history.whole(60, by="stage")} == {"tag", "models"}
    frame = history.to_frame(by="step", every_s=0.5)
    assert frame[["cpu", "rss_mb", "in_flight", "received"]].isna().all(axis=None)
    assert history.to_frame()[["cpu", "rss_mb", "in_flight"]].notna().all(axis=None)
    assert list(frame["step"]) == ["decode", "look"]
    assert frame["p50_ms"].iloc[0] == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize("by", ["app", "stage", "step"])
def test_queued_requests_are_those_of_the_last_reading_of_each_process(recorder, clock, by):
    history = History()
    processes = [recorder(gauges=lambda: {"queued": {"look": 2}}) for _ in range(2)]
    for _ in range(4):
        clock.at += 0.5
        for process in processes:
            process.request(trace(), 0, 0)
            process.steps([Span("look", 0.003, 0.004, 0.009)])
            history.add([process.take()])
    assert [sample.queued for sample in history.whole(60, by=by)] == [4]


def test_rejections_are_no_errors(recorder, clock):
    one = recorder()
    for status in (200, 422, 500, 503, 429, 504):
        one.request(trace(status=status), 0, 0)
    clock.at += 1
    history = History()
    history.add([one.take()])
    (sample,) = history.samples()
    assert (sample.requests, sample.errors, sample.rejected) == (6, 2, 2)


def test_history_is_bounded_and_empty_history_is_an_empty_frame(recorder, clock):
    history, one = History(keep_s=10), recorder()
    assert history.samples() == []
    assert list(history.to_frame(by="stage"))[:3] == ["time", "stage", "rate"]
    for _ in range(100):
        clock.at += 1
        history.add([one.take()])
    assert len(history.deltas) <= 11


@pytest.mark.parametrize("bad", [{"by": "node"}, {"every_s": 0.1}])
def test_what_cannot_be_asked_is_told(recorder, clock, bad):
    history = History()
    history.add([recorder().take()])
    with pytest.raises(InputError):
        history.samples(**bad)


class FlakyGatherer:
    """A gatherer that cannot be reached, or whose reply is lost, for the first few pushes."""

    def __init__(self, failures, arrives=False):
        self.gatherer = Gatherer()
        self.failures = failures
        self.arrives = arrives

    def push(self, delta):
        if self.failures and self.arrives:
            self.gatherer.push({**delta})
        if self.failures:
            self.failures -= 1
            raise OSError("unreachable")
        return self.gatherer.push(delta)


def flush(recorder):
    with contextlib.suppress(OSError):
        recorder.flush()


@pytest.mark.parametrize("arrives", [False, True])
@pytest.mark.parametrize("failures", [1, 5, 20, MAX_PENDING + 15])
def test_counts_survive_failed_pushes(recorder, clock, failures, arrives):
    flaky = FlakyGatherer(failures, arrives)
    one = recorder(push=flaky.push, every_s=1000)
    for i in range(failures + 1):
        clock.at += 0.5
        one.request(trace(0.001 * (i + 1), id=str(i)), 10, 1)
        one.steps([Span("look", 0, 0.001, 0.003, batch=2)], failed="look" if i % 2 else None)
        one.steps([Span(f"late_{i // 15}", 0, 0.001, 0.002)])
        flush(one)
    one.close()
    count, gatherer = failures + 1, flaky.gatherer
    assert gatherer.totals.status["200"] == count
    assert gatherer.totals.bytes == [10 * count, count]
    assert sum(gatherer.totals.held.counts) == count
    assert gatherer.totals.held.sum_s == pytest.approx(0.001 * count * (count + 1) / 2)
    assert gatherer.totals.errors["tag", "look"] == count // 2
    assert gatherer.totals.sizes["tag", "look"] == {2: count}
    history = History()
    history.add(gatherer.since(0)[1])
    (whole,) = history.whole(1000)
    assert (whole.requests, whole.held.count, whole.waited.count) == (count, count, 2 * count)
    assert [found[0] for found in gatherer.traces(slowest=2)] == [str(failures), str(failures - 1)]
    assert sum(delta["span_s"] for delta in history.deltas) == pytest.approx(0.5 * count)


def test_what_waits_to_be_pushed_is_bounded(recorder):
    one = recorder(push=FlakyGatherer(10_000).push, every_s=1000)
    for i in range(100):
        for _ in range(50):
            one.request(trace(id=str(i)), 0, 0)
        one.peeked("look", str(i), {}, 1)
        flush(one)
    one.close()
    assert len(one._pending) == MAX_PENDING
    last = one._pending[-1]
    assert len(last["traces"]) == SLOWEST + SAMPLED
    assert [peek["id"] for peek in last["peeks"]] == [str(MAX_PENDING - 1)]


def test_gauges_that_raise_lose_no_counts(recorder):
    def gauges():
        raise RuntimeError("dictionary changed size during iteration")

    one = recorder(gauges=gauges)
    one.request(trace(), 0, 0)
    with pytest.raises(RuntimeError):
        one.take()
    one.gauges = dict
    assert one.take()["status"] == {"200": 1}


def test_the_slowest_of_many_requests_are_kept_whenever_they_come(recorder):
    random.seed(0)
    gatherer, one = Gatherer(), recorder()
    for i in range(5000):
        one.request(trace(total_s=0.001 * (i + 1), id=str(i)), 0, 0)
    delta = one.take()
    positions = [int(packed[0]) for packed in delta["traces"]]
    assert len(positions) <= SLOWEST + SAMPLED
    assert len(set(positions)) == len(positions)
    sampled = [position for position in positions if position < 5000 - SLOWEST]
    assert np.mean(sampled) == pytest.approx(2450, abs=400), "a uniform sample"
    gatherer.push(delta)
    slowest = [packed[0] for packed in gatherer.traces(slowest=SLOWEST)]
    assert slowest == [str(i) for i in range(4999, 4999 - SLOWEST, -1)]


def test_a_slow_request_is_found_minutes_later(recorder, clock):
    gatherer, one = Gatherer(keep_s=600), recorder()
    one.request(trace(total_s=9.0, id="slow"), 0, 0)
    for _ in range(60):
        for _ in range(300):
            one.request(trace(), 0, 0)
        gatherer.push(one.take())
        clock.at += 5
    assert gatherer.traces(slowest=1)[0][0] == "slow"
    assert gatherer.traces(id="slow")
    clock.at += 660
    one.request(trace(), 0, 0)
    gatherer.push(one.take())
    assert gatherer.traces(slowest=1)[0][0] == "a"


def test_processes_that_are_gone_are_forgotten_without_a_scrape(clock):
    gatherer = Gatherer(keep_s=10)
    for _ in range(100):
        clock.at += 1
        gatherer.push(Recorder("tag", now=clock).take())
    assert len(gatherer._latest) == 11
    assert len(gatherer.latest(clock.at)) == 3


def test_a_gatherer_tells_what_is_new_and_keeps_totals_of_what_went(recorder, clock):
    gatherer, one = Gatherer(keep_s=5), recorder()
    for i in range(20):
        clock.at += 1
        one.request(trace(total_s=0.001 * (i + 1), id=str(i)), 0, 0)
        gatherer.push(one.take())
    last, deltas = gatherer.since(18)
    assert (last, len(deltas)) == (20, 2)
    assert len(gatherer.since(0)[1]) <= 6
    assert gatherer.totals.status["200"] == 20
    assert [found[0] for found in gatherer.traces(slowest=2)] == ["19", "18"]
    assert gatherer.traces(id="3")[0][0] == "3"


def test_prometheus_can_read_it(recorder, clock):
    from prometheus_client.parser import text_string_to_metric_families

    gatherer, one = Gatherer(), recorder(gauges=lambda: {"in_flight": 3, "queued": {"look": 2}})
    for total in (0.004, 0.02, 0.02):
        one.request(trace(total_s=total), 10, 5)
    one.steps([Span("look", 0, 0.001, 0.003, batch=2)])
    gatherer.push(one.take())
    text = exposition(gatherer, "tag", clock.at).decode()
    found = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    at = ("pipeline", "tag")
    assert found["mlkit_requests_total", at, ("status", "200")] == 3
    assert found["mlkit_request_duration_seconds_bucket", ("le", "0.005"), at] == 1
    assert found["mlkit_request_duration_seconds_bucket", ("le", "0.02"), at] == 3
    assert found["mlkit_request_duration_seconds_count", at] == 3
    assert found["mlkit_received_bytes_total", at] == 30
    assert sum(value for key, value in found.items() if key[0] == "mlkit_queued_requests") == 2


def test_buckets_have_a_request_as_exemplar_in_openmetrics(recorder, clock):
    from prometheus_client.openmetrics.parser import text_string_to_metric_families as parsed

    gatherer, one = Gatherer(), recorder()
    traced = replace(trace(total_s=0.02, id="r2"), trace_id="a" * 32)
    for each in (trace(total_s=0.004, id="r1"), trace(total_s=0.019, id="r0"), traced):
        one.request(each, 10, 5)
    gatherer.push(one.take())
    text = exposition(gatherer, "tag", clock.at, openmetrics=True).decode()
    exemplars = {
        sample.labels["le"]: sample.exemplar
        for family in parsed(text)
        for sample in family.samples
        if sample.exemplar is not None
    }
    assert exemplars.keys() == {"0.005", "0.02"}
    assert exemplars["0.005"].labels == {"request_id": "r1"}
    assert exemplars["0.02"].labels == {"request_id": "r2", "trace_id": "a" * 32}
    assert exemplars["0.02"].value == 0.02
    assert float(exemplars["0.02"].timestamp) == pytest.approx(1000.02)
    assert "request_id" not in exposition(gatherer, "tag", clock.at).decode()


class Pool:
    def report(self, most: int) -> dict[str, Any]:
        names = ("hits", "loads", "evictions", "failed", "resident", "bytes", "budget_bytes")
        models = [["shoes:v1", 4, "pinned"], ["hats:v2", 2, "resident"]][:most]
        return {name: number for number, name in enumerate(names, 1)} | {"models": models}


def test_pools_of_models_are_counted_while_they_exist(recorder, clock, monkeypatch) -> None:
    # Not those of other tests.
    monkeypatch.setattr("mlkit.metrics.pools._pools", weakref.WeakValueDictionary())
    assert b"mlkit_pool" not in exposed(recorder(), clock)
    pools = [Pool(), Pool()]
    for pool in pools:
        observe_pool(pool)
    text = exposed(recorder(), clock).decode()
    assert re.search(r"^mlkit_pool_hits_total\{.*\} 2\.0$", text, re.MULTILINE)
    assert re.search(r"^mlkit_pool_budget_bytes\{.*\} 14\.0$", text, re.MULTILINE)
    del pool, pools
    assert b"mlkit_pool" not in exposed(recorder(), clock)


def exposed(one: Recorder, clock) -> bytes:
    gatherer = Gatherer()
    gatherer.push(one.take())
    return exposition(gatherer, "tag", clock.at)


def test_a_delta_that_comes_twice_counts_once(recorder, clock):
    gatherer, one = Gatherer(), recorder()
    one.request(trace(), 0, 0)
    delta = one.take()
    gatherer.push(dict(delta))
    gatherer.push(dict(delta))
    assert gatherer.totals.status["200"] == 1


def test_a_reader_goes_on_when_what_gathers_was_started_anew(recorder, clock):
    gatherer = Gatherer()
    gatherer.push(recorder().take())
    assert len(gatherer.since(500)[1]) == 1


def test_a_step_is_looked_into_only_while_somebody_asks() -> None:
    gatherer = Gatherer()
    recorder = Recorder("shop", gatherer.push, every_s=60)
    recorder.flush()
    assert not recorder.peeking
    assert gatherer.peek("look", until=time.time() + 30) == []
    recorder.flush()
    assert recorder.peeking == {"look"}
    recorder.peeked("look", "first", {"x": 1}, [1, 2])
    recorder.peeked("look", "second", {"x": 2}, [3])  # one in each half second
    recorder.flush()
    (one,) = gatherer.peek("look", until=time.time() + 30)
    assert one["id"] == "first"
    assert one["inputs"] == [["x", "1", []]]
    assert one["output"] == ["[1, 2]", []]
    gatherer.peek("look", until=time.time() - 1)
    recorder.flush()
    assert not recorder.peeking
    recorder.close()
    assert "peeks" not in gatherer.since(0)[1][0]


def test_a_picture_is_shown_with_its_box() -> None:
    @dataclass
    class Box:
        x0: int
        y0: int
        x1: int
        y1: int

    picture = np.zeros((100, 200, 3), np.uint8)
    found = sample({"picture": picture}, [Box(20, 10, 120, 60)])
    assert found["boxes"] == [[0.1, 0.1, 0.5, 0.5]]
    assert found["inputs"][0][2][0].startswith("data:image/jpeg")
    html = Peek("look", ({**found, "id": "abc", "at": 0.0},))._repr_html_()
    assert '<rect x="0.1" y="0.1"' in html
    assert "no request arrived in time" in str(Peek("look", ()))


def test_the_rolling_view_counts_what_the_history_counts() -> None:
    clock = [1000.0]
    recorders = [Recorder("shop", now=lambda: clock[0]) for _ in range(2)]
    history, rolling = History(), Rolling()
    draw = random.Random(1)
    for _ in range(240):
        clock[0] += 0.5
        for recorder in recorders:
            for _ in range(draw.randrange(9)):
                took = draw.lognormvariate(-3, 1)
                span = Span("look", 0.0, took / 4, took)
                recorder.request(Trace("a", clock[0], took, 200, 0, took, (span,), 1), 1, 1)
                recorder.steps([span])
            delta = recorder.take()
            history.add([delta])
            rolling.add([delta])
    (whole,) = history.whole(1e6)
    assert rolling.requests == whole.requests
    assert sum(p.requests for p in rolling.points(900)) <= whole.requests
    (now,) = rolling.now()
    (same,) = history.whole(10 - 1e-6)
    assert now.requests == same.requests
    assert now.held.percentiles_s(50, 95, 99) == same.held.percentiles_s(50, 95, 99)
    (step,) = rolling.now("step")
    (kept,) = history.whole(10 - 1e-6, by="step")
    assert (step.requests, step.waited_s) == (kept.requests, pytest.approx(kept.waited_s))
    # A minute, in some of its seconds: what is closed is what the history has.
    for point in rolling.points(60)[5::6]:
        inside = [s for s in history.samples(every_s=1.0, now=point.at - 1e-6) if s.at <= point.at]
        assert point.requests == inside[-1].requests


def test_what_comes_late_is_counted_in_its_own_interval() -> None:
    clock = [1000.2]
    early, late = (Recorder("shop", now=lambda: clock[0]) for _ in range(2))
    late.request(Trace("a", 1000.0, 0.1, 200, 0, 0.1, (), 1), 1, 1)
    held_back = late.take()
    rolling = Rolling()
    for _ in range(4):
        clock[0] += 0.5
        rolling.add([early.take()])
    rolling.add([held_back])
    for _ in range(12):
        clock[0] += 0.5
        rolling.add([early.take()])
    assert [p.requests for p in rolling.points(60)][:2] == [1, 0]


@pytest.mark.parametrize("per_s", [50, 20_000])
def test_the_recent_rate_is_exact_at_any_rate(per_s):
    recent = Recent()
    assert recent.read(100.0) == {"rate": 0}
    for i in range(4 * per_s):
        recent.add(100 + i / per_s, 0.001 * (i % 100 + 1))
    reading = recent.read(104.0)
    assert reading["rate"] == pytest.approx(per_s, rel=0.02)
    percentiles = [reading["p50_ms"], reading["p95_ms"], reading["p99_ms"]]
    assert percentiles == pytest.approx([50, 95, 99], rel=0.01)
    assert recent.read(107.0) == {"rate": 0}


def test_recent_calls_take_bounded_memory():
    recent = Recent()
    for i in range(100_000):
        recent.add(100 + i / 10_000, 1e-6 * (i + 1))
    assert len(recent._slots) <= 21
    assert sum(len(counts) for _, counts in recent._slots) < 1000


def test_recent_load_comes_with_cpu():
    recorder = Recorder("shop")
    assert recorder.recent()["rate"] == 0
    for took in range(1, 101):
        recorder.called(took / 1000, status=200)
    reading = recorder.recent()
    assert reading["rate"] == pytest.approx(50, rel=0.06)
    assert reading["p50_ms"] == pytest.approx(50, rel=0.01)
    assert reading["cpu"] >= 0
