import pytest

from benchmarks.generator import limit


@pytest.mark.parametrize(
    ("void", "expected"), [((0, 0, 1), 20), ((0, 1, 0), 10), ((1, 0, 0), None), ((0, 0, 0), 30)]
)
def test_the_limit_is_the_last_rate_before_the_first_void_test(void, expected) -> None:
    rows = [
        {"rate": rate, "void": ["late"] * v} for rate, v in zip((10, 20, 30), void, strict=True)
    ]
    assert limit(rows) == expected
