"""Damaged tables: read or refused, whatever their offsets, lengths and metadata say."""

from __future__ import annotations

import io
import random
from collections import Counter

import pandas as pd

from mlkit.define.tables import frame_to_arrow, read_table
from mlkit.errors import InputError

FRAME = pd.DataFrame(
    {
        "text": ["abc", None, "ghi"] * 5,
        "number": range(15),
        "day": pd.date_range("2020-01-01", periods=15),
        "kind": pd.Categorical(["x", "y", "x"] * 5),
        "sizes": [[1, 2], [], [3]] * 5,
    }
)


def parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    return buffer.getvalue()


def damaged(data: bytes, draw: random.Random) -> bytes:
    """The file with some numbers replaced by others, after the magic of its format."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 3)):
        width = draw.choice([1, 1, 4, 8])
        at = draw.randrange(4, len(changed) - width)
        number = draw.choice([0, 2**31 - 1, 2**40, draw.getrandbits(64)])
        changed[at : at + width] = (number % 256**width).to_bytes(width, "little")
    return bytes(changed)


def test_damaged_tables_are_read_or_refused() -> None:
    draw = random.Random(1)
    files = [frame_to_arrow(FRAME), frame_to_arrow(FRAME[["text", "sizes"]]), parquet(FRAME)]
    outcomes: Counter[str] = Counter()
    for number in range(150):
        try:
            read_table(damaged(files[number % len(files)], draw))
            outcomes["read"] += 1
        except InputError:
            outcomes["refused"] += 1
    assert min(outcomes["read"], outcomes["refused"]) > 0
