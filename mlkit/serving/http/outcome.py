"""Outcomes of a request."""

from __future__ import annotations

import asyncio
from enum import Enum, auto

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from mlkit.errors import MlkitError, StepError

__all__ = ["CLIENT_CLOSED_REQUEST", "Outcome", "cause_of", "outcome_of"]

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


def cause_of(error: BaseException) -> BaseException:
    """Return the exception of the step, or the error itself."""
    return error.__cause__ if isinstance(error, StepError) and error.__cause__ else error


def outcome_of(error: BaseException | None) -> tuple[Outcome, int]:
    """Return the outcome and HTTP status for an error, or for a result if it is None."""
    if error is None:
        return Outcome.ANSWERED, 200
    if isinstance(error, (ClientDisconnect, asyncio.CancelledError)):
        return Outcome.LEFT, CLIENT_CLOSED_REQUEST
    cause = cause_of(error)
    if isinstance(cause, HTTPException):  # the author's own choice: a 503 of theirs is no overload
        status = cause.status_code
        return _outcome(status), status
    status = error.status if isinstance(error, MlkitError) else 500
    return _OF_STATUS.get(status, _outcome(status)), status


def _outcome(status: int) -> Outcome:
    if status < 400:
        return Outcome.ANSWERED
    return Outcome.REFUSED if status < 500 else Outcome.FAILED
