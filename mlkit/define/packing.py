"""Pickles with their large buffers beside them, to be mapped into memory instead of copied.

::

    MAGIC | header length, 4 bytes, big endian | header | pickle | padding | buffer | padding | ...

The header is JSON: offset and length of the pickle, and of each buffer. Python calls these buffers
out-of-band (PEP 574): the contents of numpy's arrays, of DataFrames and of what is made of them,
such as scikit-learn's estimators, and, by way of `mlkit.define.storage`, of torch's tensors.
"""

from __future__ import annotations

import json
import mmap
import pickle
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["MIN_BUFFER", "from_file", "join", "load"]

MIN_BUFFER = 64 * 2**10
"""Size in bytes from which a buffer lies beside the pickle."""

MAGIC = b"mlkit\x00\x02\n"
ALIGNMENT = 64  # of torch's and numpy's vectorized code

_LENGTH = struct.Struct(">I")


def join(pickled: bytes, buffers: Sequence[pickle.PickleBuffer]) -> bytes:
    """Return a pickle with its out-of-band buffers; the pickle itself if it has none."""
    if not buffers:
        return pickled
    raw = [buffer.raw() for buffer in buffers]
    sizes = [len(pickled), *(view.nbytes for view in raw)]
    # The offsets are relative to the end of the header, whose length depends on them.
    offsets, end = [], 0
    for size in sizes:
        offsets.append(end)
        end = _aligned(end + size)
    header = json.dumps([list(pair) for pair in zip(offsets, sizes, strict=True)]).encode()
    prefix = MAGIC + _LENGTH.pack(len(header)) + header
    contents: list[Any] = [prefix, pickled, *raw]
    return b"".join(part for content in contents for part in (content, _padding(len(content))))


def load(data: bytes | memoryview) -> Any:
    """Unpickle; objects refer to the buffers in ``data``, which they keep alive.

    Only for data from this user's own processes.
    """
    view = memoryview(data)
    if view[: len(MAGIC)] != MAGIC:
        return pickle.loads(view)
    header_start = len(MAGIC) + _LENGTH.size
    (length,) = _LENGTH.unpack(view[len(MAGIC) : header_start])
    parts = json.loads(bytes(view[header_start : header_start + length]))
    start = _aligned(header_start + length)
    pickled, *buffers = (view[start + at : start + at + size] for at, size in parts)
    return pickle.loads(pickled, buffers=buffers)


def from_file(path: str | Path) -> memoryview:
    """Map a file into memory.

    Its pages are shared by all processes that map it, and read when they are first used. Writing to
    them changes neither the file nor what other processes see.
    """
    with Path(path).open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))


def _padding(size: int) -> bytes:
    return bytes(_aligned(size) - size)


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
