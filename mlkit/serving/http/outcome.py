"""Outcomes of a request."""

from __future__ import annotations

import asyncio
from enum import Enum, auto

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from mlkit.errors import MlkitError

__all__ = ["CLIENT_CLOSED_REQUEST", "Outcome", "outcome_of"]

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that disconnected."""


class Outcome(Enum):
    """How a request ended; only `FAILED` is an error of the pipeline."""

    ANSWERED = auto()
    REFUSED = auto()
    """Invalid request or input (4xx)."""
    OVERLOADED = auto()
    """Rejected: too many requests in flight (503 with ``Retry-After``)."""
    LATE = auto()
    """Deadline exceeded (504)."""
    LEFT = auto()
    """The client disconnected (499); neither counted nor recorded."""
    FAILED = auto()
    """Unexpected error (500), recorded with an id."""


_OF_STATUS = {
    CLIENT_CLOSED_REQUEST: Outcome.LEFT,
    503: Outcome.OVERLOADED,
    504: Outcome.LATE,
}


def outcome_of(error: BaseException | None) -> tuple[Outcome, int]:
    """Return the outcome and HTTP status for an error, or for a result if it is None."""
    if error is None:
        return Outcome.ANSWERED, 200
    if isinstance(error, (ClientDisconnect, asyncio.CancelledError)):
        return Outcome.LEFT, CLIENT_CLOSED_REQUEST
    if isinstance(error, MlkitError):
        status = error.status
    else:
        status = error.status_code if isinstance(error, HTTPException) else 500
    return _OF_STATUS.get(status, Outcome.REFUSED if status < 500 else Outcome.FAILED), status
