"""Error responses: problem documents (RFC 9457), ``application/problem+json``."""

from __future__ import annotations

import json
import secrets
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from http.client import responses
from math import ceil
from typing import Any

from fastapi.encoders import jsonable_encoder
from fastapi.utils import is_body_allowed_for_status_code
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Message, Send

from mlkit.errors import (
    DefinitionError,
    MlkitError,
    Overloaded,
    ResultError,
    StepError,
    printable,
)
from mlkit.serving.http.outcome import Outcome, cause_of, outcome_of

__all__ = [
    "MEDIA_TYPE",
    "SCHEMA",
    "Failure",
    "Failures",
    "answer",
    "converted",
    "errors_of",
    "of_error",
    "of_http_exception",
]

MEDIA_TYPE = "application/problem+json"

SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "An error, after RFC 9457.",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string", "description": "reason phrase of the status"},
        "status": {"type": "integer"},
        "detail": {
            "description": "what failed, and how to fix it; text, unless an `HTTPException` has "
            "another value",
        },
        "step": {"type": "string", "description": "the step that failed"},
        "pipeline": {"type": "string"},
        "failure_id": {"type": "string", "description": "id of the traceback in the server's log"},
        "errors": {
            "type": "array",
            "description": "validation errors by field",
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
    """A request that failed because a step, or mlkit itself, raised an unexpected error.

    Attributes:
        id: the ``failure_id`` of the response.
        time: time of the failure in UTC, in ISO 8601.
        step: name of the node that failed, if any.
        error: the exception in one line.
        traceback: formatted traceback, from the step's own frames on.
    """

    id: str
    time: str
    step: str | None
    error: str
    traceback: str

    def __str__(self) -> str:
        return printable(f"{self.time} {self.step or '-'} [{self.id}]\n{self.traceback}")


@dataclass
class Failures:
    """The most recent failures of this process; each is also passed to ``keep``."""

    keep: Callable[[dict[str, Any]], None] = lambda failure: None
    last: deque[Failure] = field(default_factory=lambda: deque(maxlen=100))

    def record(self, error: BaseException) -> Failure:
        """Record an error with its traceback, which never goes into a response.

        An `MlkitError` that is reported twice, by a pipeline and by the route that called it, is
        recorded once.
        """
        attributes: dict[str, Any] = vars(error) if isinstance(error, MlkitError) else {}
        failure: Failure | None = attributes.get("_failure")
        if failure is not None:
            return failure
        cause = cause_of(error)
        failure = Failure(
            id=secrets.token_hex(6),
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
            step=error.step if isinstance(error, StepError) else None,
            error=f"{type(cause).__name__}: {cause}",
            traceback="".join(traceback.format_exception(cause)),
        )
        attributes["_failure"] = failure
        self.last.append(failure)
        self.keep(asdict(failure))
        return failure


def answer(
    status: int, detail: Any, *, headers: Mapping[str, str] | None = None, **more: Any
) -> Response:
    """Return an error response; ``more`` are extension members, without those that are None."""
    document = {
        "type": "about:blank",
        "title": responses.get(status, "Error"),
        "status": status,
        "detail": detail,
        **{name: value for name, value in more.items() if value is not None},
    }
    return Response(json.dumps(document), status, headers, MEDIA_TYPE)


def of_http_exception(error: HTTPException, **more: Any) -> Response:
    """Return the response for an `HTTPException`: its status, detail and headers.

    A detail that is not text is kept as JSON, as FastAPI does.
    """
    if not is_body_allowed_for_status_code(error.status_code):
        return Response(status_code=error.status_code, headers=error.headers)
    detail = jsonable_encoder(error.detail)
    return answer(error.status_code, detail, headers=error.headers, **more)


def of_error(error: BaseException, pipeline: str, failures: Failures) -> Response:
    """Return the response for an error; unexpected errors are recorded."""
    outcome, status = outcome_of(error)
    step = error.step if isinstance(error, StepError) else None
    cause = cause_of(error)
    failure = failures.record(error) if outcome is Outcome.FAILED else None
    failure_id = failure.id if failure is not None else None
    more: dict[str, Any] = {"step": step, "pipeline": pipeline, "failure_id": failure_id}
    if isinstance(cause, HTTPException):
        return of_http_exception(cause, **more)
    if failure is not None:
        of_pipeline = (
            "the pipeline failed" if isinstance(error, MlkitError) else "the request failed"
        )
        where = f"step {step!r} failed" if step else of_pipeline
        # The message is left out as well: it may contain passwords, addresses and paths. That of a
        # mistake in the code itself has only names, and is for whoever wrote it.
        mistake = isinstance(error, DefinitionError) or isinstance(cause, ResultError)
        return answer(status, str(error) if mistake else f"{where}: {type(cause).__name__}", **more)
    headers = None
    if outcome is Outcome.OVERLOADED:
        wait_s = cause.retry_after_s if isinstance(cause, Overloaded) else 1.0
        headers = {"Retry-After": f"{ceil(wait_s)}"}
    errors = getattr(error, "errors", None)
    return answer(status, str(cause), headers=headers, errors=errors, **more)


def converted(send: Send, convert: Callable[[int, str], tuple[int, bytes]]) -> Send:
    """Send problem documents as errors of another protocol, in JSON.

    Args:
        send: sends the response.
        convert: returns status and body for a problem's status and text, which has the id of the
            failure.
    """
    begun: list[Message] = []

    async def send_converted(message: Message) -> None:
        if message["type"] == "http.response.start" and _is_problem(message):
            begun.append(message)
            return
        if begun and message["type"] == "http.response.body":
            start = begun.pop()
            document = json.loads(message["body"])
            text, id = str(document["detail"]), document.get("failure_id")
            status, body = convert(start["status"], f"{text} (failure {id})" if id else text)
            kept = [h for h in start["headers"] if h[0] not in (b"content-type", b"content-length")]
            headers = [
                *kept,
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
            ]
            await send({**start, "status": status, "headers": headers})
            message = {**message, "body": body}
        await send(message)

    return send_converted


def _is_problem(message: Message) -> bool:
    return (b"content-type", MEDIA_TYPE.encode()) in message["headers"]


def errors_of(details: Sequence[Any], where: str) -> list[dict[str, Any]]:
    """Pydantic's error details, without inputs and context; ``where`` is the root of ``loc``."""
    return [
        {"loc": [where, *detail["loc"]], "msg": detail["msg"], "type": detail["type"]}
        for detail in details
    ]
