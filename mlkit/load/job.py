"""Wire format between a load test and its worker process."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["COLUMNS", "LENGTH", "pack"]

COLUMNS = {
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


def pack(job: dict[str, Any], times: bytes, bodies: Iterable[bytes]) -> Iterable[bytes]:
    """Encode a job for the worker: a JSON header, the schedule as doubles, the requests."""
    bodies = list(bodies)
    header = json.dumps({**job, "times": len(times), "sizes": [len(b) for b in bodies]}).encode()
    return [LENGTH.pack(len(header)) + header, times, *bodies]
