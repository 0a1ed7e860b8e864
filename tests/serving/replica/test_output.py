"""Lines as they are recorded from what a step prints."""

import io

import pytest

from mlkit.serving.replica.output import MAX_LINE, _Tee


@pytest.fixture
def tee():
    """Returns a stream, and the texts that were recorded from it."""
    records: list[dict] = []
    return _Tee(io.StringIO(), "out", records.append), records


def texts(records) -> list[str]:
    return [record["text"] for record in records]


def test_a_line_is_recorded_when_it_is_complete(tee) -> None:
    stream, records = tee
    stream.write("a ")
    assert texts(records) == []
    stream.write("b\nc\n")
    assert texts(records) == ["a b", "c"]


def test_a_progress_bar_is_its_last_state(tee) -> None:
    stream, records = tee
    for percent in range(1000):
        stream.write(f"\r{percent / 10}%")
    assert len(stream._partial.text) < 10
    stream.write("\rdone\n")
    assert texts(records) == ["done"]


def test_a_line_that_ends_as_on_windows_is_kept(tee) -> None:
    stream, records = tee
    stream.write("hello\r\n")
    stream.write("world\r")
    stream.write("\n")
    assert texts(records) == ["hello", "world"]


def test_a_line_that_never_ends_is_bounded(tee) -> None:
    stream, records = tee
    for _ in range(10):
        stream.write("x" * MAX_LINE)
    assert sum(map(len, texts(records))) + len(stream._partial.text) == 10 * MAX_LINE
    assert len(stream._partial.text) <= MAX_LINE
