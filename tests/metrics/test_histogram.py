from mlkit.metrics import Histogram


def test_durations_recorded_one_by_one_are_those_recorded_together() -> None:
    durations = [0.0, 1e-6, 0.0123, 2.5, 7200.0]
    one_by_one = Histogram()
    for duration in durations:
        one_by_one.record(duration)
    assert one_by_one.encode() == Histogram.of(durations).encode()
