"""Wire format between a load test and its worker process."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["COLUMNS", "LENGTH", "pack"]

COLUMNS = {
    "slot": "q",
    "intended": "d",
    "sent": "d",
    "first_byte": "d",
    "finished": "d",
    "status": "i",
    "size": "q",
    "items": "q",
}
"""The columns that follow ``done``, in this order, with their array type codes."""
LENGTH = struct.Struct("<Q")


def pack(
    job: dict[str, Any], times: bytes, order: bytes, bodies: Iterable[bytes]
) -> Iterable[bytes]:
    """Encode a job for the worker: a JSON header, then the raw bytes.

    Args:
        job: plain data.
        times: the schedule as doubles, in seconds.
        order: which of the requests is sent when, as unsigned 32-bit integers.
        bodies: the different requests.
    """
    bodies = list(bodies)
    sizes = {"times": len(times), "order": len(order), "sizes": [len(body) for body in bodies]}
    header = json.dumps(job | sizes).encode()
    return [LENGTH.pack(len(header)) + header, times, order, *bodies]
