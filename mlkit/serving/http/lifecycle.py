"""Lifecycle of a request.

    admission -> deadline -> body -> arguments -> run -> encode -> record

`Served.answer` implements all of it, for the pipeline's own route. `Served.__call__` is for routes
of the user's application, which read the body and write the response themselves. `outcome.py` lists
how a request can end.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from time import perf_counter
from typing import Any, TypeAlias

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Send

from mlkit.define.border import port
from mlkit.define.exact import MEDIA_TYPE as EXACT
from mlkit.define.graph import Graph
from mlkit.errors import DeadlineExceeded, InputError, Overloaded
from mlkit.execute import Executor
from mlkit.execute.execution import Execution
from mlkit.execute.inputs import signature_of
from mlkit.serving.http import problem
from mlkit.serving.http.observer import HOPS, Headers, Observer
from mlkit.serving.http.outcome import Outcome, outcome_of
from mlkit.serving.http.payload import Payloads, from_route
from mlkit.serving.http.results import Results
from mlkit.serving.http.stream import MEDIA_TYPES
from mlkit.serving.limits import Limits

__all__ = ["Ready", "Respond", "Served"]


@dataclass
class Served:
    """A pipeline that is ready to serve.

    Attributes:
        executor: runs the pipeline.
        limits: limits on its requests.
        failures: records unexpected errors.
        observer: records metrics.
        ongoing: number of requests in flight.
    """

    executor: Executor
    limits: Limits = field(default_factory=Limits)
    failures: problem.Failures = field(default_factory=problem.Failures)
    observer: Observer = field(default_factory=lambda: Observer(None))
    ongoing: int = field(default=0, init=False)

    @property
    def graph(self) -> Graph:
        """The graph of the pipeline."""
        return self.executor.program.graph

    async def answer(
        self,
        request: Request,
        send: Send,
        payloads: Payloads,
        results: Results,
        respond: Respond | None = None,
    ) -> None:
        """Respond to a request to the pipeline's own route; it is in flight until that is sent.

        Args:
            request: the request.
            send: sends the response.
            payloads: reads the request.
            results: encodes the result.
            respond: the user's exception handlers.
        """
        received_at, admitted = perf_counter(), self._admit()
        headers: Headers = dict(request.scope["headers"])
        try:
            try:
                if not admitted:
                    raise _overloaded()
                arguments = await self._in_time(received_at, payloads.read(request, headers))
            except Exception as error:
                response = await self._ended(error, None, received_at, headers, respond)
            else:
                finish = partial(self._finish, received_at, headers, arguments)
                accept = headers.get(b"accept", b"").decode("latin-1")
                if accept in MEDIA_TYPES:
                    response = results.events.response(accept, finish)
                elif accept == EXACT and payloads.is_exact(headers):
                    response = await finish(results.exact)
                else:
                    encode = partial(results.response, accept=accept)
                    response = await finish(encode, respond=respond)
            await response(request.scope, request.receive, send)
        finally:
            self.ongoing -= admitted

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the pipeline for a route of the user's.

        Images are passed as bytes, an http(s) or data: URL, a PIL image or an array; text is never
        interpreted as a path.

        Raises:
            InputError: the arguments are invalid.
            Overloaded: too many requests are in flight.
            DeadlineExceeded: the request took longer than ``request_timeout_s``.
            StepError: a step raised.
        """
        received_at, execution, admitted = perf_counter(), None, self._admit()
        try:
            if not admitted:
                raise _overloaded()
            arguments = await self._in_time(received_at, self._bind(args, kwargs))
            execution = await self._run(received_at, arguments)
            output = _output(execution)
        except Exception as error:
            await self._ended(error, execution, received_at, {})
            raise
        finally:
            self.ongoing -= admitted
        self.observer.answered(execution, received_at, None, {})
        return output

    def _admit(self) -> bool:
        """Count a request as in flight, if the limit allows it."""
        admitted = self.ongoing < self.limits.max_ongoing_requests
        self.ongoing += admitted
        return admitted

    async def _in_time(
        self, received_at: float, reading: Coroutine[Any, Any, dict[str, Any]]
    ) -> dict[str, Any]:
        """Await the arguments of a request until its deadline."""
        try:
            awaited = reading.send(None)
        except StopIteration as done:  # without waiting, so without a timer, which takes 10 µs
            arguments: dict[str, Any] = done.value
            return arguments
        try:
            remaining_s = received_at + self.limits.request_timeout_s - perf_counter()
            async with asyncio.timeout(remaining_s) as timer:
                return await _resumed(reading, awaited)
        except TimeoutError:
            if not timer.expired():  # raised by the reading itself
                raise
            raise DeadlineExceeded("the request exceeded its deadline while being read") from None

    async def _bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Convert the arguments that a route passes."""
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
        received_at: float,
        arguments: Mapping[str, Any],
        on_node: Callable[[str, Any], None] | None = None,
    ) -> Coroutine[Any, Any, Execution]:
        HOPS.set([])
        return self.executor.run(
            {**self._defaults, **arguments},
            deadline=received_at + self.limits.request_timeout_s,
            on_node=on_node,
        )

    @cached_property
    def _defaults(self) -> dict[str, Any]:
        return {p.name: p.default for p in self.graph.parameters if not p.required}

    async def _finish(
        self,
        received_at: float,
        headers: Headers,
        arguments: Mapping[str, Any],
        encode: Callable[[Any], Response],
        on_node: Callable[[str, Any], None] | None = None,
        respond: Respond | None = None,
    ) -> Response:
        execution = None
        try:
            execution = await self._run(received_at, arguments, on_node)
            response = encode(_output(execution))
        except Exception as error:
            return await self._ended(error, execution, received_at, headers, respond)
        self.observer.answered(execution, received_at, response, headers)
        return response

    async def _ended(
        self,
        error: Exception,
        execution: Execution | None,
        received_at: float,
        headers: Headers,
        respond: Respond | None = None,
    ) -> Response:
        """Return the error response, and record the request unless its client disconnected."""
        response = problem.of_error(error, self.graph.name, self.failures)
        if outcome_of(error)[0] is not Outcome.LEFT:
            if respond is not None:
                response = await respond(error) or response
            self.observer.answered(execution, received_at, response, headers)
        return response


Ready: TypeAlias = Callable[[], Served | None]
"""Returns a pipeline once it is ready, None before."""

Respond: TypeAlias = Callable[[Exception], Awaitable[Response | None]]
"""Returns the response of the user's exception handler for an error, None without one."""


@types.coroutine
def _resumed(
    coroutine: Coroutine[Any, Any, dict[str, Any]], awaited: Any
) -> Generator[Any, Any, dict[str, Any]]:
    """Continue a coroutine that has begun and yielded ``awaited``."""
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


def _overloaded() -> Overloaded:
    return Overloaded("too many requests in flight", fix="try again in a second")


def _output(execution: Execution) -> Any:
    if execution.error is not None:
        raise execution.error
    return execution.output
