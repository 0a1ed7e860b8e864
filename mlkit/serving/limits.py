"""Limits of a replica."""

from __future__ import annotations

from dataclasses import dataclass

from mlkit.errors import DefinitionError

__all__ = ["Limits"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits on requests, per replica.

    Attributes:
        max_body_bytes: maximum body length in bytes, on a pipeline's own route (else status 413).
            For routes of the user's application, FastAPI's ``max_body_size`` applies.
        max_ongoing_requests: maximum number of requests in flight per pipeline, including those
            whose body is still being read (else status 503). Requests with the priority ``bulk``
            are admitted to three quarters of it.
        adaptive: whether fewer are admitted while they only wait for each other: the limit follows
            the latency of the pipeline, up to ``max_ongoing_requests``. For pipelines whose
            requests take about equally long, and that do not gain from large batches; those that
            stream have ``max_ongoing_requests``.
        request_timeout_s: deadline of a request in seconds after it is received (else status 504).
            Of a request that streams, the deadline of the first item, and the longest time between
            two items.

    Raises:
        DefinitionError: a limit is not positive.
    """

    max_body_bytes: int = 20 * 2**20
    max_ongoing_requests: int = 256
    request_timeout_s: float = 60.0
    adaptive: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.adaptive, bool):
            raise DefinitionError("adaptive must be True or False", got=repr(self.adaptive))
        for name, value in vars(self).items():
            if name != "adaptive" and (not isinstance(value, (int, float)) or value <= 0):
                raise DefinitionError(f"{name} must be a positive number", got=repr(value))
