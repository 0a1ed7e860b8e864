"""Recorded timestamps become schedules."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlkit.errors import LoadError
from mlkit.load import constant, replay

START = pd.Timestamp("2026-03-01T09:30:00")
GAPS_S = [0.0, 0.25, 1.0, 4.0]
STAMPS = pd.Series([START + pd.Timedelta(seconds=gap) for gap in GAPS_S])


@pytest.mark.parametrize(
    "source",
    [
        GAPS_S,
        np.array(GAPS_S) + 1.75e9,
        pd.Series(GAPS_S, index=[7, 3, 3, 1]),
        STAMPS,
        STAMPS.dt.tz_localize("Europe/Berlin"),
        STAMPS.to_numpy(),
        STAMPS - START,
        [stamp.to_pydatetime() for stamp in STAMPS],
        [stamp.isoformat() for stamp in STAMPS],
        [stamp.isoformat() + "+02:00" for stamp in STAMPS],
        pd.DataFrame({"at": STAMPS}),
        STAMPS.iloc[[2, 0, 3, 1]],
    ],
    ids=lambda source: type(source).__name__,
)
def test_timestamps_of_every_kind_are_seconds_from_the_first(source):
    assert replay(source).times(100) == pytest.approx(GAPS_S, abs=1e-6)


@pytest.mark.parametrize(("unit", "per_second"), [("ms", 1e3), ("us", 1e6), ("ns", 1e9)])
def test_numbers_have_a_unit_and_large_ones_lose_nothing(unit, per_second):
    since_1970 = np.array([1_750_000_000 * int(per_second) + int(g * per_second) for g in GAPS_S])
    assert replay(since_1970, unit=unit).times(100) == pytest.approx(GAPS_S, abs=1e-12)


def test_files_are_read(tmp_path):
    table = pd.DataFrame({"user": list("abcd"), "at": STAMPS})
    table.to_csv(tmp_path / "log.csv", index=False)
    assert replay(tmp_path / "log.csv", column="at").times(9) == pytest.approx(GAPS_S)
    pytest.importorskip("pyarrow")
    table.to_parquet(tmp_path / "log.parquet")
    assert replay(str(tmp_path / "log.parquet"), column="at").times(9) == pytest.approx(GAPS_S)


def test_a_replay_can_be_faster_and_followed():
    fast = replay(GAPS_S, speed=4)
    assert fast.times(100) == pytest.approx([gap / 4 for gap in GAPS_S])
    both = fast + constant(rate=1)
    assert both.times(10)[4] == pytest.approx(fast.length_s)


@settings(deadline=None)
@given(stamps=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30), speed=st.floats(0.1, 100))
def test_all_times_are_sent_within_the_length(stamps, speed):
    schedule = replay(stamps, speed=speed)
    assert len(schedule.times(schedule.length_s)) == len(stamps) == len(schedule)
    assert schedule.opening_rate == pytest.approx(len(stamps) / schedule.length_s)


def test_a_long_replay_has_a_short_repr():
    assert repr(replay(np.arange(100_000))) == "replay(<100,000 times in 100000 s>)"


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ([], {}, "no timestamp"),
        ([1.0, None, float("inf")], {}, "2 of 3 timestamps are missing"),
        ([START, pd.NaT], {}, "1 of 2 timestamps are missing"),
        (["yesterday", "today"], {}, "not timestamps"),
        ([True, False], {}, "not timestamps"),
        ([1, 2], {"speed": 0}, "invalid speed"),
        ([1, 2], {"unit": "min"}, "unknown unit"),
        (pd.DataFrame({"a": [1], "b": [2]}), {}, "which column"),
        (pd.DataFrame({"a": [1]}), {"column": "b"}, "no such column"),
        ("missing.csv", {}, "no such file"),
    ],
)
def test_what_cannot_be_replayed_is_told(source, options, words):
    with pytest.raises(LoadError, match=words):
        replay(source, **options)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "log.txt").touch()
    with pytest.raises(LoadError, match="kind of file"):
        replay(tmp_path / "log.txt")


def test_the_times_of_a_run_are_sent_again(make_result):
    result = make_result([5.0] * 40, duration_s=20.0)
    again = result.schedule()
    assert np.array_equal(again.times(again.length_s), result.columns["intended"])
    assert again.length_s == 20
