"""Percentiles in HdrHistogram's text format."""

import numpy as np
import pytest

from mlkit.load import hdr
from mlkit.metrics.histogram import Histogram


def table(path):
    """Value and share of each line."""
    lines = [line.split() for line in path.read_text().splitlines()]
    rows = [line for line in lines if len(line) in (3, 4) and line[0][0].isdigit()]
    return np.array([[float(value), float(share)] for value, share, *_ in rows])


def test_the_percentiles_of_a_result_are_written_in_ms(make_result, tmp_path):
    result = make_result(np.linspace(1, 100, 1000), timeout_s=30.0)
    rows = table(result.save_hgrm(tmp_path / "result.hgrm"))
    assert rows[-1].tolist() == pytest.approx([100, 1], rel=1e-3)
    assert rows[:, 0] == pytest.approx(1 + 99 * rows[:, 1], rel=0.01, abs=0.1)


def test_failed_requests_count_as_the_time_out(make_result, tmp_path):
    result = make_result([10.0] * 9 + [1.0], errors={9: "http 500"}, timeout_s=30.0)
    rows = table(result.save_hgrm(tmp_path / "result.hgrm"))
    assert rows[-1][0] == pytest.approx(30_000, rel=1e-3)
    converted = hdr.of(Histogram.of([0.01] * 9), 1, 30.0)
    assert converted.get_total_count() == 10
    assert converted.get_max_value() == pytest.approx(30e6, rel=0.01)
