import math

import pytest

from mlkit.load import closed
from mlkit.load.records import FailureSample
from mlkit.media.preview import shorten
from mlkit.views.load import amount, per_second, seconds


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.451, "0.45 ms"),
        (0.996, "1.0 ms"),
        (2.34, "2.3 ms"),
        (9.96, "10 ms"),
        (48.4, "48 ms"),
        (999.4, "999 ms"),
        (1243, "1.24 s"),
        (12345, "12.3 s"),
        (math.inf, "never"),
        (math.nan, "–"),
    ],
)
def test_durations_have_the_digits_they_are_good_for(value, text):
    assert amount(value) == text


def test_rates_and_lengths():
    assert [per_second(r) for r in (0, 3.21, 48.7, 1240.2)] == ["0/s", "3.2/s", "49/s", "1,240/s"]
    assert [seconds(s) for s in (20, 2.5)] == ["20 s", "2.5 s"]
    assert shorten("a\nlong line", 6) == "a lon…"


def test_the_repr_is_one_line_with_the_figures(make_result):
    result = make_result([10.0] * 99 + [500.0] * 2, errors={0: "reset"})
    assert repr(result) == (
        "<LoadResult constant(rate=10.1) for 10 s: 101 requests, 1 failed, 9.8/s, "
        "p50 10 ms, p99 500 ms>"
    )


def test_void_and_interrupted_are_never_left_out(make_result):
    result = make_result([10.0] * 50, late_ms=9, interrupted=True)
    assert "; interrupted; VOID: requests left late" in repr(result)
    card = result._repr_html_()
    assert "Void: do not believe these figures." in card
    assert ", interrupted" in card


def test_the_card_shows_percentiles_samples_and_what_is_not_proven(make_result):
    card = make_result([10.0] * 200)._repr_html_()
    for words in ("p99.9", "10 ms", "200 samples", "too few requests", "none failed"):
        assert words in card


@pytest.mark.parametrize(
    ("latency", "count", "words"),
    [
        (10.0, 500, "met, with 99% confidence"),
        (200.0, 500, "SLO p99 under 100 ms (dashed): missed, with 99% confidence."),
        (10.0, 100, "undecided"),
    ],
)
def test_the_card_says_what_became_of_the_slo(make_result, latency, count, words):
    assert words in make_result([latency] * count, slo_ms=100)._repr_html_()


def test_the_card_quotes_failures_and_escapes_what_a_server_said(make_result):
    evil = FailureSample("http 500", 3, "<script>alert(1)</script>")
    card = make_result([5.0] * 9, errors={3: "http 500"}, failures=(evil,))._repr_html_()
    assert "1 × http 500" in card
    assert "&lt;script&gt;" in card
    assert "<script" not in card


def test_the_card_of_a_closed_loop_warns_of_its_latencies(make_result):
    card = make_result([5.0] * 9, arrivals=closed(concurrency=2))._repr_html_()
    assert "closed loop: stalls hardly show" in card
    assert "target rate" not in card


@pytest.mark.parametrize("fields", [{}, {"slo_ms": 50}])
def test_the_card_of_nothing_and_of_failures_only(make_result, fields):
    assert "No requests were measured." in make_result([], **fields)._repr_html_()
    failed = make_result([1.0] * 3, errors=dict.fromkeys(range(3), "refused"), **fields)
    assert "never" in failed._repr_html_()
