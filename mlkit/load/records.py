"""Records of a load test: requests, failures, and the generator's resource use."""

from __future__ import annotations

import contextlib
import math
import re
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["ClientCost", "FailureSample", "RequestRecord", "parse_server_timing"]

_METRIC = re.compile(r'([!#$%&\'*+\-.^_`|~\w]+)((?:\s*;\s*\w+\s*=\s*(?:"[^"]*"|[^;,\s]+))*)')
_PARAMETER = re.compile(r';\s*(\w+)\s*=\s*(?:"([^"]*)"|([^;,\s]+))')


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestRecord:
    """One request. Times are seconds on one monotonic clock, 0 being the start of the run.

    Attributes:
        intended: when it was scheduled; latency counts from here.
        sent: when the generator wrote it to an open connection, or began to open one.
        first_byte: when its response began to arrive; NaN without one.
        finished: when its response was complete, or it was abandoned.
        status: HTTP status; 0 without a response.
        bytes: size of the response's body.
        payload: index of its payload.
        error: None for a success, else e.g. ``"http 503"``, ``"redirect"``, ``"empty"``,
            ``"unexpected"``, ``"timeout"``, ``"refused"``, ``"reset"``, ``"closed"``,
            ``"protocol"``, ``"unsent"``, ``"stopped"``, or ``"problem"`` for a stream that did not
            come to its end.
        server_timing: the response's ``Server-Timing`` header, or ``""``.
        items: number of items of a stream that arrived.
    """

    intended: float
    sent: float
    first_byte: float
    finished: float
    status: int
    bytes: int
    payload: int
    error: str | None
    server_timing: str
    items: int = 0

    @property
    def latency_ms(self) -> float:
        """From the scheduled time to the last byte, in ms; infinite for a failed request."""
        return math.inf if self.error is not None else (self.finished - self.intended) * 1e3

    @property
    def lateness_ms(self) -> float:
        """How late the generator sent it, in ms."""
        return (self.sent - self.intended) * 1e3

    @property
    def phases(self) -> dict[str, float]:
        """Durations in ms by phase, from ``Server-Timing``."""
        return parse_server_timing(self.server_timing)


class ClientCost(NamedTuple):
    """Resource use of the generator's process.

    ``cpu_s`` seconds of CPU time in a window of ``window_s`` seconds; connections opened; maximum
    of requests in flight; requests not sent because too many were in flight; a resource of the
    machine that ran out, or None; whether it had real-time scheduling (``realtime``).
    """

    cpu_s: float
    window_s: float
    connections: int
    most_in_flight: int
    unsent: int = 0
    short_of: str | None = None
    realtime: bool = False

    @property
    def cores(self) -> float:
        """Mean number of cores used."""
        return self.cpu_s / self.window_s if self.window_s > 0 else 0.0


class FailureSample(NamedTuple):
    """One of the first failures of its kind, with the message of the server or the system."""

    error: str
    payload: int
    detail: str


def parse_server_timing(text: str) -> dict[str, float]:
    """Parse a ``Server-Timing`` header (W3C Server Timing, section 3) to durations in ms by name.

    Metrics without a duration are skipped; repeated ones are summed.

    >>> parse_server_timing('queue;dur=1.5, compute;desc="two, really";dur=4')
    {'queue': 1.5, 'compute': 4.0}
    """
    phases: dict[str, float] = {}
    for name, parameters in _METRIC.findall(text):
        values = {key: quoted or bare for key, quoted, bare in _PARAMETER.findall(parameters)}
        with contextlib.suppress(KeyError, ValueError):
            phases[name] = phases.get(name, 0.0) + float(values["dur"])
    return phases
