"""The six ways in which a request may end."""

from __future__ import annotations

import asyncio
from enum import Enum, auto

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from mlkit.errors import MlkitError

__all__ = ["CLIENT_CLOSED_REQUEST", "Outcome", "outcome_of"]

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that left; nobody reads it."""


class Outcome(Enum):
    """What became of a request; only `FAILED` is a fault of the pipeline's."""

    ANSWERED = auto()
    REFUSED = auto()
    """Its input is at fault (4xx)."""
    OVERLOADED = auto()
    """There was no room for it (503 with ``Retry-After``)."""
    LATE = auto()
    """It exceeded its deadline (504)."""
    LEFT = auto()
    """Its client gave it up (499): neither counted nor recorded."""
    FAILED = auto()
    """Recorded with an id (500)."""


_OF_STATUS = {
    CLIENT_CLOSED_REQUEST: Outcome.LEFT,
    503: Outcome.OVERLOADED,
    504: Outcome.LATE,
}


def outcome_of(error: BaseException | None) -> tuple[Outcome, int]:
    """Return the outcome that an error stands for, and its HTTP status; None is a result."""
    if error is None:
        return Outcome.ANSWERED, 200
    if isinstance(error, (ClientDisconnect, asyncio.CancelledError)):
        return Outcome.LEFT, CLIENT_CLOSED_REQUEST
    if isinstance(error, MlkitError):
        status = error.status
    else:
        status = error.status_code if isinstance(error, HTTPException) else 500
    return _OF_STATUS.get(status, Outcome.REFUSED if status < 500 else Outcome.FAILED), status
