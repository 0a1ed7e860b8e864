"""Exceptions of mlkit.

::

    MlkitError
    ├── DefinitionError         invalid definition of a step, resource or pipeline
    │   ├── PlaceholderError    a pipeline's body used a step's result while it was traced
    │   └── ResultError         a result has no form outside of its process
    ├── InputError              invalid input of a request; raise it in your own steps         (422)
    │   ├── PayloadTooLarge     more bytes, pixels or frames than the limit                    (413)
    │   ├── UnsupportedMedia    unsupported content type                                       (415)
    │   └── FetchError          a URL in the input could not be fetched                        (424)
    ├── StepError               a step raised; has the step, the cause and computed values     (500)
    ├── Cancelled               a request or run was cancelled                                 (499)
    ├── DeadlineExceeded        a request exceeded its deadline                                (504)
    ├── Overloaded              the queue is full; retry later                                 (503)
    ├── DeployError             a deployment failed; the previous version keeps serving
    │   ├── SessionError        the session process could not be started, or has ended
    │   │   └── SessionTimeout  the session process did not answer in time
    │   └── DeployConflict      the app was changed by another handle in the meantime
    ├── ExportError             a pipeline cannot be exported, or an export cannot be verified
    ├── RequestError            an app responded with an error
    │   └── RemoteStepError     a step of the app raised; a `StepError` as well
    ├── LoadError               a load test could not run, or its result is void
    ├── BudgetError             a performance budget is exceeded or undecided
    └── MissingExtra            an optional dependency is not installed

The message has up to three lines: what happened and where, what was expected and got, and how to
fix it. These parts are also attributes (``what``, ``where``, ``expected``, ``got``, ``fix``), and
``__cause__`` is the underlying exception, if any.

Tracebacks show the user's frames only; with ``MLKIT_FULL_TRACEBACK=1`` in the environment, all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from difflib import get_close_matches
from functools import wraps
from importlib.util import find_spec
from types import TracebackType
from typing import Any, TypeVar, cast

__all__ = [
    "BudgetError",
    "Cancelled",
    "DeadlineExceeded",
    "DefinitionError",
    "DeployConflict",
    "DeployError",
    "ExportError",
    "FetchError",
    "InputError",
    "LoadError",
    "MissingExtra",
    "MlkitError",
    "Overloaded",
    "PayloadTooLarge",
    "PlaceholderError",
    "RemoteStepError",
    "RequestError",
    "ResultError",
    "SessionError",
    "SessionTimeout",
    "StepError",
    "UnsupportedMedia",
    "did_you_mean",
    "entry_point",
    "printable",
    "require_extra",
]

F = TypeVar("F", bound=Callable[..., Any])

_LIBRARIES = {
    *(
        "anyio",
        "asyncio",
        "concurrent",
        "contextlib",
        "fastapi",
        "functools",
        "httpcore2",
        "httpx2",
    ),
    *("inspect", "mlkit", "pydantic", "ray", "starlette", "threading", "typing", "uvicorn"),
}
"""Top-level packages whose frames `entry_point` hides."""


_COLOURS = re.compile(r"\x1b\[[0-9;:]*m")
_UNPRINTABLE = re.compile(
    # Control characters, line separators, and what reverses the order of the text around it.
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)


def printable(text: str) -> str:
    """Return a text without what a terminal would act on; line feeds and tabs remain.

    Texts of clients get into errors and logs. Escape sequences for colours are left out, other
    control characters are shown as in Python's literals.
    """
    if not _UNPRINTABLE.search(text):
        return text
    return _UNPRINTABLE.sub(lambda match: repr(match[0])[1:-1], _COLOURS.sub("", text))


class MlkitError(Exception):
    """Base class of mlkit's exceptions.

    Args:
        what: what happened, in one sentence.
        where: name of the step, pipeline, file or field.
        expected: a valid value.
        got: the actual value.
        fix: how to fix it.
    """

    status: int = 500
    """HTTP status of a served pipeline's response if a request ends in this error."""

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
        return printable("\n".join(lines))

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException's own pickling loses keyword-only arguments.
        # A run holds every value of a request, and is not sent to other processes.
        state = {k: None if k == "run" else v for k, v in self.__dict__.items()}
        return (_rebuild, (type(self), self.args, state))


def _rebuild(cls: type[MlkitError], args: tuple[Any, ...], state: dict[str, Any]) -> MlkitError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class DefinitionError(MlkitError, TypeError):
    """Invalid definition of a step, resource or pipeline."""


class PlaceholderError(DefinitionError):
    """A pipeline's body used a step's result as a value while it was traced."""


class ResultError(DefinitionError):
    """A result, whose type leaves open what it is, has no form outside of its process.

    It names types only, no values: the response of a served pipeline shows it.
    """


class InputError(MlkitError, ValueError):
    """Invalid input of a request. Raise it in a step to respond with 422 and your message."""

    status = 422


class PayloadTooLarge(InputError):
    """More bytes, pixels or frames than the limit allows."""

    status = 413


class UnsupportedMedia(InputError):
    """Unsupported content type."""

    status = 415


class FetchError(InputError):
    """A URL in the input could not be fetched."""

    status = 424


class StepError(MlkitError):
    """A step raised ``__cause__``.

    Attributes:
        step: name of the node that failed.
        pipeline: name of its pipeline.
        run: the `mlkit.execute.Run` with the values computed before the failure, or None.
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
        """The cause's status if it is an `MlkitError`, else 500."""
        return self.__cause__.status if isinstance(self.__cause__, MlkitError) else 500


class Cancelled(MlkitError):
    """A request or run was cancelled, by its caller or by an interrupt."""

    status = 499


class DeadlineExceeded(MlkitError, TimeoutError):
    """A request exceeded its deadline."""

    status = 504


class Overloaded(MlkitError):
    """The queue is full; retry after ``retry_after_s`` seconds."""

    status = 503

    def __init__(self, what: str, *, retry_after_s: float = 1.0, **parts: Any) -> None:
        super().__init__(what, **parts)
        self.retry_after_s = retry_after_s


class DeployError(MlkitError):
    """A deployment failed; the previous version keeps serving."""


class DeployConflict(DeployError):
    """The app was changed by another handle since this one last looked."""


class SessionError(DeployError):
    """The session process could not be started, or has ended."""


class SessionTimeout(SessionError):
    """The session process did not answer in time; it may still be running."""


class ExportError(MlkitError):
    """A pipeline cannot be exported, or an export cannot be verified; all problems are listed."""


class RequestError(MlkitError):
    """An app responded to a request with an error.

    Attributes:
        http_status: the HTTP status; None without a response.
        step: the step that failed, or None.
        failure_id: id of the traceback in ``app.failures``, or None.
        problem: the response's problem document (RFC 9457) as a dict.
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


class RemoteStepError(RequestError, StepError):
    """A step of an app raised: a `StepError`, as from the pipeline in this process.

    The exception itself and the values so far remain in the app: ``__cause__`` and ``run`` are
    None. See ``app.failures``.
    """

    step: str

    def __init__(
        self, what: str, *, http_status: int, problem: dict[str, Any], **parts: Any
    ) -> None:
        MlkitError.__init__(self, what, **parts)
        self.http_status = http_status
        self.problem = problem
        self.step = problem["step"]
        self.failure_id = problem.get("failure_id")
        self.pipeline = problem.get("pipeline", "")
        self.run = None


class LoadError(MlkitError):
    """A load test could not run, or its result is void."""


class BudgetError(MlkitError, AssertionError):
    """A performance budget is exceeded or undecided; tests report it as a failure."""


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


def did_you_mean(name: str, names: Any) -> str | None:
    """Suggest the name that is closest to a misspelt one, as the ``fix`` of an error; or None."""
    close = get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else None


def entry_point(fn: F) -> F:
    """Hide the library's frames in tracebacks of what a public function raises.

    Of an `MlkitError`, only the user's frames remain; of another exception, all frames from the
    user's first one on. One without any frame of the user's, which is a bug, keeps all of them. The
    same holds for the causes. ``MLKIT_FULL_TRACEBACK=1`` in the environment keeps everything.
    """

    @wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return fn(*args, **kwargs)
        except Exception as error:
            # What is raised again gets no entry for this frame, so that it disappears as well.
            if not os.environ.get("MLKIT_FULL_TRACEBACK"):
                _hide_library_frames(error)
            raise

    return cast("F", call)


def _hide_library_frames(error: BaseException) -> None:
    deliberate = isinstance(error, MlkitError)
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    for link in chain:
        frames = []
        traceback = link.__traceback__
        while traceback is not None:
            frames.append(traceback)
            traceback = traceback.tb_next
        own = [i for i, entry in enumerate(frames) if not _is_library(entry)]
        if isinstance(link, MlkitError):
            kept = [frames[i] for i in own]
        elif own or deliberate:
            kept = frames[own[0] :] if own else []
        else:
            kept = frames
        link.__traceback__ = _joined(kept)


def _is_library(traceback: TracebackType) -> bool:
    module = str(traceback.tb_frame.f_globals.get("__name__"))
    return module.partition(".")[0] in _LIBRARIES


def _joined(frames: list[TracebackType]) -> TracebackType | None:
    joined: TracebackType | None = None
    for entry in reversed(frames):
        joined = TracebackType(joined, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return joined
