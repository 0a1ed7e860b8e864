"""Decompression of bodies of one and of many members."""

import gzip
import zlib

import pytest

from mlkit.serving.http.decompression import decompressor

EMPTY = gzip.compress(b"")


def decompress(body: bytes) -> bytes:
    """Decompress a gzip body that arrives at once."""
    found = decompressor(b"gzip")
    assert found is not None
    data = found.decompress(body, 2**20)
    found.end()
    return data


def test_the_members_of_a_body_are_joined() -> None:
    assert decompress(gzip.compress(b"a") + EMPTY + gzip.compress(b"b")) == b"ab"


def test_a_body_may_have_thousands_of_members() -> None:
    assert decompress(EMPTY * 9_999 + gzip.compress(b"a")) == b"a"


def test_a_body_of_more_members_is_refused() -> None:
    with pytest.raises(zlib.error, match="more than 10,000 members"):
        decompress(EMPTY * 10_001)
