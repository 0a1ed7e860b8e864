"""Errors as answers: problem documents (RFC 9457), ``application/problem+json``."""

from __future__ import annotations

import json
import secrets
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from math import ceil
from typing import Any

from starlette.responses import Response

from mlkit.errors import MlkitError, Overloaded, StepError
from mlkit.serving.http.outcome import Outcome, outcome_of

__all__ = ["MEDIA_TYPE", "SCHEMA", "Failure", "Failures", "answer", "of_error"]

MEDIA_TYPE = "application/problem+json"

SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "What went wrong, after RFC 9457.",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string", "description": "the status in words"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "what happened, and what to do"},
        "step": {"type": "string", "description": "the step that failed"},
        "pipeline": {"type": "string"},
        "failure_id": {"type": "string", "description": "names the traceback kept by the server"},
        "errors": {
            "type": "array",
            "description": "what does not validate, field by field",
            "items": {
                "type": "object",
                "properties": {
                    "loc": {"type": "array", "items": {}},
                    "msg": {"type": "string"},
                    "type": {"type": "string"},
                },
            },
        },
    },
}


@dataclass(frozen=True)
class Failure:
    """One request that failed through the fault of a step.

    Attributes:
        id: as in the answer's ``failure_id``.
        time: when, in UTC.
        step: the node that failed; None where it was none.
        error: the exception in one line.
        traceback: as Python prints it, from the step's own frames on.
    """

    id: str
    time: str
    step: str | None
    error: str
    traceback: str

    def __str__(self) -> str:
        return f"{self.time} {self.step or '-'} [{self.id}]\n{self.traceback}"


@dataclass
class Failures:
    """The last failures of this process, each also given to ``keep``."""

    keep: Callable[[dict[str, Any]], None] = lambda failure: None
    last: deque[Failure] = field(default_factory=lambda: deque(maxlen=100))

    def record(self, error: BaseException) -> Failure:
        """Keep what happened; the traceback stays here and never goes into an answer.

        An error of mlkit's is made anew for each request: one that comes twice, from a pipeline and
        through the route that called it, is one failure.
        """
        kept: dict[str, Any] = vars(error) if isinstance(error, MlkitError) else {}
        failure: Failure | None = kept.get("_failure")
        if failure is not None:
            return failure
        cause = _cause(error)
        failure = Failure(
            id=secrets.token_hex(6),
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
            step=error.step if isinstance(error, StepError) else None,
            error=f"{type(cause).__name__}: {cause}",
            traceback="".join(traceback.format_exception(cause)),
        )
        kept["_failure"] = failure
        self.last.append(failure)
        self.keep(asdict(failure))
        return failure


def answer(
    status: int, detail: str, *, headers: dict[str, str] | None = None, **more: Any
) -> Response:
    """A response that says what went wrong."""
    document = {
        "type": "about:blank",
        "title": _title(status),
        "status": status,
        "detail": detail,
        **{name: value for name, value in more.items() if value is not None},
    }
    return Response(json.dumps(document), status, headers, MEDIA_TYPE)


def _title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def of_error(error: BaseException, pipeline: str, failures: Failures) -> Response:
    """The answer to a request that ended in an error; faults are recorded, with their traceback."""
    outcome, status = outcome_of(error)
    step = error.step if isinstance(error, StepError) else None
    cause = _cause(error)
    if outcome is Outcome.FAILED:
        failure = failures.record(error)
        where = f"step {step!r} failed" if step else "the pipeline failed"
        return answer(
            status,
            # Its words stay here as well: they may hold passwords, addresses and paths.
            f"{where}: {type(cause).__name__}",
            step=step,
            pipeline=pipeline,
            failure_id=failure.id,
        )
    headers = None
    if outcome is Outcome.OVERLOADED:
        wait_s = cause.retry_after_s if isinstance(cause, Overloaded) else 1.0
        headers = {"Retry-After": f"{ceil(wait_s)}"}
    return answer(
        status,
        str(cause),
        headers=headers,
        step=step,
        pipeline=pipeline,
        errors=getattr(error, "errors", None),
    )


def _cause(error: BaseException) -> BaseException:
    """What a step raised, or the error itself."""
    return error.__cause__ if isinstance(error, StepError) and error.__cause__ else error


def errors_of(details: Sequence[Any], where: str) -> list[dict[str, Any]]:
    """Pydantic's error details, less what cannot or should not be sent back."""
    return [
        {"loc": [where, *detail["loc"]], "msg": detail["msg"], "type": detail["type"]}
        for detail in details
    ]
