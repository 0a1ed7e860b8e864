"""Every error mlkit raises on purpose, in one tree.

::

    MlkitError
    ├── DefinitionError         a step, resource or pipeline is written in a way that cannot work
    │   └── PlaceholderError    a step's result was used as a value while its pipeline was traced
    ├── InputError              this request's input is at fault; raise it in your own steps   (422)
    │   ├── PayloadTooLarge     more bytes, pixels or frames than the limit                    (413)
    │   ├── UnsupportedMedia    a kind of content that is not handled                          (415)
    │   └── FetchError          the URL that was given could not be fetched                    (424)
    ├── StepError               a step raised; has the step, its cause, the values so far  (500)
    ├── Cancelled               it was given up before it was done
    ├── DeadlineExceeded        the request's time ran out                                     (504)
    ├── Overloaded              the queue is full; try again later                             (503)
    ├── DeployError             a pipeline could not be deployed; what served before still does
    │   ├── SessionError        the process that holds Ray could not be started, or is gone
    │   │   └── SessionTimeout  it is there, as far as is known, and did not answer in time
    │   └── DeployConflict      the app was changed by somebody else in the meantime
    ├── RequestError            an app answered a request with an error
    ├── LoadError               a load test could not be run, or its result is void
    └── MissingExtra            an optional dependency is not installed

Each says, in three short lines, what happened and where, what was expected and what was got, and
what to do about it. The parts are attributes (``what``, ``where``, ``expected``, ``got``, ``fix``)
as well, and ``__cause__`` keeps the exception underneath.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

__all__ = [
    "Cancelled",
    "DeadlineExceeded",
    "DefinitionError",
    "DeployConflict",
    "DeployError",
    "FetchError",
    "InputError",
    "LoadError",
    "MissingExtra",
    "MlkitError",
    "Overloaded",
    "PayloadTooLarge",
    "PlaceholderError",
    "RequestError",
    "SessionError",
    "SessionTimeout",
    "StepError",
    "UnsupportedMedia",
    "require_extra",
]


class MlkitError(Exception):
    """Base of all errors that mlkit raises on purpose.

    Args:
        what: one sentence, what happened.
        where: the step, pipeline, file or field concerned, by name.
        expected: what would have been right.
        got: what was found instead.
        fix: what the reader can do now.
    """

    status: int = 500
    """The HTTP status that a served pipeline answers with when a request ends in this error."""

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        expected: str | None = None,
        got: str | None = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.expected = expected
        self.got = got
        self.fix = fix

    def __str__(self) -> str:
        lines = [self.what if self.where is None else f"{self.where}: {self.what}"]
        contrast = [
            f"{label} {text}"
            for label, text in (("expected", self.expected), ("got", self.got))
            if text is not None
        ]
        if contrast:
            lines.append("  " + ", ".join(contrast))
        if self.fix is not None:
            lines.append("  → " + self.fix)
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only arguments do not survive BaseException's own pickling.
        # A run holds every value of a request: it stays in the process that made it.
        state = {k: None if k == "run" else v for k, v in self.__dict__.items()}
        return (_rebuild, (type(self), self.args, state))


def _rebuild(cls: type[MlkitError], args: tuple[Any, ...], state: dict[str, Any]) -> MlkitError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class DefinitionError(MlkitError, TypeError):
    """A step, resource or pipeline is written in a way that cannot work."""


class PlaceholderError(DefinitionError):
    """A step's result was used as a value while its pipeline was being traced."""


class InputError(MlkitError, ValueError):
    """This request's input is at fault. Raise it in a step to answer 422 with your words."""

    status = 422


class PayloadTooLarge(InputError):
    """More bytes, pixels or frames than the limit allows."""

    status = 413


class UnsupportedMedia(InputError):
    """A kind of content that is not handled."""

    status = 415


class FetchError(InputError):
    """The URL that was given could not be fetched."""

    status = 424


class StepError(MlkitError):
    """A step raised. ``__cause__`` is what it raised.

    Attributes:
        step: name of the node that failed.
        pipeline: name of its pipeline.
        run: the `mlkit.execute.Run` with the values that were there before the failure, or None.
    """

    def __init__(
        self, what: str, *, step: str, pipeline: str, run: Any = None, **parts: Any
    ) -> None:
        super().__init__(what, where=f"step {step!r} of pipeline {pipeline!r}", **parts)
        self.step = step
        self.pipeline = pipeline
        self.run = run

    @property
    def status(self) -> int:  # type: ignore[override]
        """The cause's own status where the step raised an `InputError`, else 500."""
        return self.__cause__.status if isinstance(self.__cause__, MlkitError) else 500


class Cancelled(MlkitError):
    """A request or a run was given up before it was done: by its caller, or by an interrupt."""

    status = 499


class DeadlineExceeded(MlkitError, TimeoutError):
    """The request's time ran out before its pipeline was done."""

    status = 504


class Overloaded(MlkitError):
    """The queue is full. ``retry_after_s`` says when to try again, in seconds."""

    status = 503

    def __init__(self, what: str, *, retry_after_s: float = 1.0, **parts: Any) -> None:
        super().__init__(what, **parts)
        self.retry_after_s = retry_after_s


class DeployError(MlkitError):
    """A pipeline could not be deployed. What was served before still is."""


class DeployConflict(DeployError):
    """The app was changed by another handle since this one last looked."""


class SessionError(DeployError):
    """The process that holds Ray could not be started, or is gone."""


class SessionTimeout(SessionError):
    """The session process did not answer in time; that does not mean that it is gone."""


class RequestError(MlkitError):
    """An app answered a request with an error.

    Attributes:
        http_status: the HTTP status; None where no answer came.
        step: the step that failed, where the answer names one.
        failure_id: id under which ``app.failures`` keeps the traceback, where there is one.
        problem: the answer's problem document (RFC 9457) as a dict.
    """

    def __init__(
        self,
        what: str,
        *,
        http_status: int | None = None,
        problem: dict[str, Any] | None = None,
        **parts: Any,
    ) -> None:
        super().__init__(what, **parts)
        self.http_status = http_status
        self.problem = problem or {}
        self.step = self.problem.get("step")
        self.failure_id = self.problem.get("failure_id")


class LoadError(MlkitError):
    """A load test could not be run, or its result is void."""


class MissingExtra(MlkitError, ImportError):
    """An optional dependency is not installed."""


def require_extra(extra: str, *modules: str) -> None:
    """Check that the optional dependencies of a package are installed; imports none of them.

    Args:
        extra: the extra of mlkit that brings them.
        modules: names under which they are imported.

    Raises:
        MissingExtra: one is not installed; the error names the extra.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise MissingExtra(
            f"not installed: {', '.join(missing)}", fix=f'pip install "mlkit[{extra}]"'
        )
