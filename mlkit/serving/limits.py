"""What one replica takes on."""

from __future__ import annotations

from dataclasses import dataclass

from mlkit.errors import DefinitionError

__all__ = ["Limits"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds within which a replica works.

    Attributes:
        max_body_bytes: of a request to a pipeline's own route; more is answered 413. Routes of an
            application of one's own have FastAPI's ``max_body_size``.
        max_ongoing_requests: to one pipeline, admitted and not answered, those whose bodies are
            still being read among them; more are answered 503.
        request_timeout_s: from its admission on, after which a request is answered 504.

    Raises:
        DefinitionError: one of them is not positive.
    """

    max_body_bytes: int = 20 * 2**20
    max_ongoing_requests: int = 256
    request_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, (int, float)) or value <= 0:
                raise DefinitionError(f"{name} is a positive number", got=repr(value))
