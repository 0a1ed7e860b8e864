"""Terms of a request: its deadline and its priority."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from math import isfinite
from time import perf_counter, time
from typing import Any, NamedTuple

from mlkit.errors import InputError
from mlkit.execute.priority import Priority
from mlkit.serving.http.observer import number_of
from mlkit.serving.http.payload import Invalid
from mlkit.serving.retries import RECEIVED

__all__ = ["PARAMETERS", "PRIORITY", "TERMS", "TIMEOUT", "Terms"]

TIMEOUT = "X-Request-Timeout-Seconds"
PRIORITY = "X-Priority"

_RECEIVED = RECEIVED.lower().encode()
_TIMEOUT, _PRIORITY = TIMEOUT.lower().encode(), PRIORITY.lower().encode()
_PRIORITIES = [priority.name.lower() for priority in Priority]

PARAMETERS: list[dict[str, Any]] = [
    {
        "name": TIMEOUT,
        "in": "header",
        "description": "seconds after which the client no longer needs the result; the server's "
        "own limit applies as well",
        "schema": {"type": "number", "exclusiveMinimum": 0},
    },
    {
        "name": PRIORITY,
        "in": "header",
        "description": "`bulk` requests give way to `interactive` ones",
        "schema": {"type": "string", "enum": _PRIORITIES, "default": "interactive"},
    },
]
"""The headers, as parameters of OpenAPI."""


class Terms(NamedTuple):
    """Terms of a request.

    Attributes:
        received_at: when it was received, on the clock of `time.perf_counter`.
        timeout_s: time for it in seconds.
        priority: its class in the queues.
        spent_s: how much of its time it had used before: in the front end, or at a replica that
            died.
    """

    received_at: float
    timeout_s: float
    priority: Priority = Priority.INTERACTIVE
    spent_s: float = 0.0

    @property
    def deadline(self) -> float:
        """Deadline on the clock of `time.perf_counter`."""
        return self.received_at + self.timeout_s - self.spent_s

    @property
    def left_s(self) -> float:
        """Seconds to the deadline; negative past it. Clocks of other processes differ from this."""
        return self.deadline - perf_counter()

    def asked(self, headers: Mapping[bytes, bytes]) -> Terms:
        """Return the terms that the headers of a request ask for; they never extend the timeout.

        Args:
            headers: by lower-case name.

        Raises:
            Invalid: a value is not a positive number of seconds, or no priority.
        """
        timeout, priority = headers.get(_TIMEOUT), headers.get(_PRIORITY)
        received = headers.get(_RECEIVED)
        if timeout is None and priority is None and received is None:
            return self
        return Terms(
            self.received_at,
            self.timeout_s if timeout is None else min(_seconds(timeout), self.timeout_s),
            self.priority if priority is None else _priority(priority),
            0.0 if received is None else _since(received),
        )


TERMS: ContextVar[Terms | None] = ContextVar("mlkit-terms", default=None)
"""The terms of the current request, for its calls to stages."""


def _since(received: bytes) -> float:
    """Seconds since the front end received a request; it is on this machine, with one clock."""
    at_us = number_of(received)
    return 0.0 if at_us is None else max(0.0, time() - at_us / 1e6)


def _seconds(value: bytes) -> float:
    text = value.decode("latin-1").strip()
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not (isfinite(seconds) and seconds > 0):
        raise _invalid(TIMEOUT, "a positive number of seconds")
    return seconds


def _priority(value: bytes) -> Priority:
    text = value.decode("latin-1").strip()
    try:
        return Priority.named(text.lower())
    except InputError:
        raise _invalid(PRIORITY, " or ".join(_PRIORITIES)) from None


def _invalid(name: str, expected: str) -> Invalid:
    message = f"{name} must be {expected}"
    error = {"loc": ["header", name.lower()], "msg": message, "type": "value_error"}
    return Invalid(message, [error])
