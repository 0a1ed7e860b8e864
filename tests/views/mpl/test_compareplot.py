"""Several results side by side, as a table and as a plot."""

import pytest

from mlkit.errors import InputError
from mlkit.load import closed, compare


@pytest.mark.parametrize("names", [("fused", "per step"), ("one",), ("a", "b" * 60, "c", "d")])
def test_no_words_overlap_or_leave_the_picture(names, load_result, words_of, overlapping) -> None:
    kinds = [
        {"arrivals": closed(concurrency=16), "count": 3000},
        {"typical_ms": 80.0, "failed": 0.1},
        {"typical_ms": 2500.0},
        {"typical_ms": 0.4},
    ]
    both = compare({name: load_result(**kind) for name, kind in zip(names, kinds, strict=False)})
    figure = both.plot()
    assert overlapping(figure) == []
    width, _ = figure.get_size_inches() * figure.dpi
    for words, box in words_of(figure):
        assert box.x0 >= 0, words
        assert box.x1 <= width, words


@pytest.mark.parametrize("typical_ms", [0.4, 9.0, 40.0, 700.0, 30_000.0])
@pytest.mark.parametrize("name", ["a", "plain Serve, @serve.batch"])
def test_no_words_lie_on_a_range_of_latencies(name, typical_ms, load_result, words_of) -> None:
    both = {"fused": load_result(typical_ms=30.0), name: load_result(typical_ms=typical_ms)}
    figure = compare(both).plot()
    said = [box for words, box in words_of(figure) if " to " in words]  # this lays it out as well
    axes = figure.axes[1]
    ends = [max(line.get_xdata()) for line in axes.lines]
    right = max(axes.transData.transform((end, 0))[0] for end in ends) + 4
    assert len(said) == 2
    assert all(box.x0 > right for box in said)


def test_the_table_has_a_row_for_each(load_result) -> None:
    good, bad = load_result(), load_result(failed=0.5)
    frame = compare({"good": good, "bad": bad}).to_frame()
    assert list(frame.index) == ["good", "bad"]
    assert frame.loc["good", "p99_ms"] == good.summary()["p99_ms"]
    assert frame.loc["bad", "errors"] == sum(bad.errors.values()) > 0
    assert "good" in repr(compare({"good": good}))
    assert "<table" in compare({"good": good})._repr_html_()


def test_what_answered_nothing_is_drawn_too(load_result) -> None:
    compare({"none": load_result(failed=1.1)}).plot()


@pytest.mark.parametrize("results", [{}, {"x": 3}])
def test_what_is_no_result_is_refused(results) -> None:
    with pytest.raises(InputError):
        compare(results)


def test_each_is_compared_with_the_first(load_result) -> None:
    before, after, same = load_result(), load_result(typical_ms=20.0), load_result(typical_ms=30.2)
    verdicts = compare({"before": before, "after": after, "same": same}).verdicts().verdict
    assert verdicts["after"].to_dict() == {
        "throughput": "undecided",  # both answered all that was sent
        "p50": "faster",
        "p95": "faster",
        "p99": "faster",
    }
    assert set(verdicts["same"]) == {"undecided"}
    (slower, *_) = (c for c in compare(after, before).contrasts if c.figure == "p50")
    assert slower.verdict == "slower"
    assert slower.ratio.low < 1.5 < slower.ratio.high
    assert str(slower).endswith(", slower")
    assert "slower" in repr(compare(after, before))


def test_a_void_run_is_neither_faster_nor_slower(load_result) -> None:
    verdicts = compare(load_result(), load_result(typical_ms=5.0, late_ms=50.0)).verdicts()
    assert set(verdicts.verdict) == {"undecided"}


def test_results_are_given_by_name_or_one_after_the_other(load_result) -> None:
    one = load_result()
    assert list(compare(one, one).results) == ["first", "second"]
    assert list(compare(one, one, one).results) == ["1", "2", "3"]
    with pytest.raises(InputError, match="either by name or"):
        compare({"one": one}, one)
