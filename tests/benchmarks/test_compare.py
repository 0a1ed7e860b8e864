from __future__ import annotations

import json

import pytest

from benchmarks.compare import comparison
from mlkit.errors import LoadError
from tools.demo.offline import Block


def test_ratios_have_intervals_and_raw_blocks_are_kept() -> None:
    fast = [Block(200 + i, 1.0, 1.0) for i in range(5)]
    slow = [Block(20 + i, 1.0, 2.0) for i in range(5)]
    found = comparison("offline", fast, "eager", slow)
    rate, cpu = found["rate_ratio"], found["cpu_ratio"]
    assert rate["value"] == pytest.approx(202 / 22)
    assert rate["low"] < rate["value"] < rate["high"]
    assert cpu["value"] < 0.1
    assert found["rates"]["eager"] == [20, 21, 22, 23, 24]
    json.dumps(found, allow_nan=False)


def test_what_drifts_alike_in_both_leaves_the_ratio_sure() -> None:
    drift = [100, 80, 60, 90, 70]
    a, b = ([Block(n * d, 1.0, 1.0) for d in drift] for n in (3, 1))
    rate = comparison("a", a, "b", b)["rate_ratio"]
    assert (rate["low"], rate["high"]) == (pytest.approx(3), pytest.approx(3))


def test_too_few_blocks_are_no_comparison() -> None:
    with pytest.raises(LoadError):
        comparison("a", [Block(1, 1.0, 1.0)] * 4, "b", [Block(1, 1.0, 1.0)] * 4)
