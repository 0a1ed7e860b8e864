"""What a request to a pipeline goes through, whichever way it comes.

    admission -> deadline -> body -> arguments -> run -> encode -> record

`Served.answer` is all of it, for the pipeline's own route; `Served.__call__` is what is left of it
for a route of the user's, which reads the body and writes the answer itself. A replica of a stage
(`mlkit.serving.replica.stage`) is admitted to by Serve, and given up by the front at the deadline;
it runs, encodes and records. How a request may end, `outcome.py` says.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from time import perf_counter
from typing import Any, TypeAlias

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Send

from mlkit.define.border import port
from mlkit.define.graph import Graph
from mlkit.errors import DeadlineExceeded, InputError, Overloaded
from mlkit.execute import Executor
from mlkit.execute.execution import Execution
from mlkit.execute.inputs import signature_of
from mlkit.serving.http import problem
from mlkit.serving.http.observe import HOPS, Headers, Observer
from mlkit.serving.http.outcome import Outcome, outcome_of
from mlkit.serving.http.payload import Payloads, from_route
from mlkit.serving.http.results import Results
from mlkit.serving.http.stream import MEDIA_TYPES
from mlkit.serving.limits import Limits

__all__ = ["Ready", "Served"]


@dataclass
class Served:
    """A pipeline that is ready to be asked: its executor, and what became of its requests.

    Attributes:
        ongoing: requests that were admitted and are not answered.
    """

    executor: Executor
    limits: Limits = field(default_factory=Limits)
    failures: problem.Failures = field(default_factory=problem.Failures)
    observer: Observer = field(default_factory=lambda: Observer(None))
    ongoing: int = field(default=0, init=False)

    @property
    def graph(self) -> Graph:
        """Return what is served."""
        return self.executor.program.graph

    async def answer(
        self, request: Request, send: Send, payloads: Payloads, results: Results
    ) -> None:
        """Answer a request to the pipeline's own route; its place is kept until that is sent."""
        came, admitted = perf_counter(), self._admit()
        headers: Headers = dict(request.scope["headers"])
        try:
            try:
                if not admitted:
                    raise _full()
                arguments = await self._in_time(came, payloads.read(request, headers))
            except Exception as error:
                response = self._ended(error, None, came, headers)
            else:
                finish = partial(self._finish, came, headers, arguments)
                accept = headers.get(b"accept", b"").decode("latin-1")
                if accept in MEDIA_TYPES:
                    response = results.events.response(accept, finish)
                else:
                    response = await finish(partial(results.response, accept=accept))
            await response(request.scope, request.receive, send)
        finally:
            self.ongoing -= admitted

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the pipeline for a route of the user's: ``await tag(image=data, title=sku)``.

        Pictures are given as bytes, an http(s) or data: URL, a PIL image or an array, as the
        pipeline takes them; text is never taken for a path.

        Raises:
            InputError: the arguments do not fit.
            Overloaded: too many requests are going on.
            DeadlineExceeded: it took longer than ``request_timeout_s``.
            StepError: a step raised.
        """
        came, execution, admitted = perf_counter(), None, self._admit()
        try:
            if not admitted:
                raise _full()
            arguments = await self._in_time(came, self._bind(args, kwargs))
            execution = await self._run(came, arguments)
            output = _output(execution)
        except Exception as error:
            self._ended(error, execution, came, {})
            raise
        finally:
            self.ongoing -= admitted
        self.observer.answered(execution, came, None, {})
        return output

    def _admit(self) -> bool:
        """Whether there is a place for a request; who gets one gives it back."""
        admitted = self.ongoing < self.limits.max_ongoing_requests
        self.ongoing += admitted
        return admitted

    async def _in_time(
        self, came: float, reading: Coroutine[Any, Any, dict[str, Any]]
    ) -> dict[str, Any]:
        """The arguments of a request, read before its time is up.

        Raises:
            DeadlineExceeded: it was not; any other `TimeoutError` is one that reading raised.
        """
        try:
            awaited = reading.send(None)
        except StopIteration as done:  # all of it was there: no timer, which takes 10 µs
            arguments: dict[str, Any] = done.value
            return arguments
        try:
            async with asyncio.timeout(came + self.limits.request_timeout_s - perf_counter()) as t:
                return await _resumed(reading, awaited)
        except TimeoutError:
            if not t.expired():
                raise
            raise DeadlineExceeded("the request exceeded its deadline while it was read") from None

    async def _bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments as a route gives them, to what the pipeline takes.

        Raises:
            InputError: they do not fit.
        """
        ports = {p.name: port(p.type) for p in self.graph.parameters}
        try:
            bound = signature_of(self.graph).bind(*args, **kwargs).arguments
            return {name: await from_route(ports[name], v) for name, v in bound.items()}
        except InputError:
            raise
        except (TypeError, ValueError) as error:  # of the signature, pydantic or numpy
            raise InputError(f"{error}", where=f"pipeline {self.graph.name!r}") from error

    def _run(
        self,
        came: float,
        arguments: Mapping[str, Any],
        on_node: Callable[[str, Any], None] | None = None,
    ) -> Coroutine[Any, Any, Execution]:
        """Run it in what is left of its time."""
        HOPS.set([])
        return self.executor.run(
            {**self._defaults, **arguments},
            deadline=came + self.limits.request_timeout_s,
            on_node=on_node,
        )

    @cached_property
    def _defaults(self) -> dict[str, Any]:
        return {p.name: p.default for p in self.graph.parameters if not p.required}

    async def _finish(
        self,
        came: float,
        headers: Headers,
        arguments: Mapping[str, Any],
        encode: Callable[[Any], Response],
        on_node: Callable[[str, Any], None] | None = None,
    ) -> Response:
        """Run it, encode its result, and record it."""
        execution = None
        try:
            execution = await self._run(came, arguments, on_node)
            response = encode(_output(execution))
        except Exception as error:
            return self._ended(error, execution, came, headers)
        self.observer.answered(execution, came, response, headers)
        return response

    def _ended(
        self,
        error: Exception,
        execution: Execution | None,
        came: float,
        headers: Headers,
    ) -> Response:
        """The answer in place of a result; recorded, unless nobody is there to read it."""
        response = problem.of_error(error, self.graph.name, self.failures)
        if outcome_of(error)[0] is not Outcome.LEFT:
            self.observer.answered(execution, came, response, headers)
        return response


Ready: TypeAlias = Callable[[], Served | None]
"""Gives a pipeline once it is ready, None before."""


@types.coroutine
def _resumed(
    coroutine: Coroutine[Any, Any, dict[str, Any]], awaited: Any
) -> Generator[Any, Any, dict[str, Any]]:
    """Await the rest of a coroutine that has begun, and waits for something."""
    try:
        while True:
            try:
                sent = yield awaited
            except BaseException as error:
                awaited = coroutine.throw(error)
            else:
                awaited = coroutine.send(sent)
    except StopIteration as done:
        arguments: dict[str, Any] = done.value
        return arguments


def _full() -> Overloaded:
    return Overloaded("too many requests are going on", fix="try again in a second")


def _output(execution: Execution) -> Any:
    if execution.error is not None:
        raise execution.error
    return execution.output
