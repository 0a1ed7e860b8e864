import pytest

from benchmarks.tail import queued


def test_whoever_finds_a_free_server_takes_its_time_and_others_wait_their_turn() -> None:
    took = queued([0.0, 0.1, 0.2, 5.0], service_s=1.0, servers=2)
    assert took.tolist() == pytest.approx([1.0, 1.0, 1.8, 1.0])


def test_one_server_is_a_line() -> None:
    assert queued([0.0, 0.0, 0.0], service_s=2.0, servers=1).tolist() == [2.0, 4.0, 6.0]
