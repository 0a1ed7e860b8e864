"""Whether two values are the same."""

import numpy as np
import pytest

from mlkit.define.equality import same

PADDED = np.dtype([("small", "i1"), ("large", "f8")], align=True)


@pytest.mark.parametrize("dtype", [np.dtype(np.longdouble), np.dtype(np.clongdouble), PADDED])
def test_padding_of_an_array_is_no_part_of_it(dtype: np.dtype) -> None:
    zeros = np.zeros(1, dtype)
    data = bytearray(zeros.tobytes())
    size = 10 if dtype.kind in "fc" else 1  # of the first number, before its padding
    data[size] = 7
    assert same(zeros, np.frombuffer(data, dtype))


@pytest.mark.parametrize("dtype", ["f4", "f8", "g", "G", "c16"])
def test_arrays_differ_by_the_sign_of_zero_and_not_by_nan(dtype: str) -> None:
    assert same(np.array([np.nan, 1.5], dtype), np.array([np.nan, 1.5], dtype))
    assert not same(np.array([0.0], dtype), -np.array([0.0], dtype))
    assert not same(np.array([1.5], dtype), np.array([2.5], dtype))
