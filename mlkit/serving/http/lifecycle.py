"""Lifecycle of a request.

    admission -> deadline -> body -> arguments -> run -> encode -> record

`Served.answer` implements all of it, for the pipeline's own route. `Served.call` is for routes of
the user's application, which read the body and write the response themselves. `outcome.py` lists
how a request can end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cached_property, partial
from time import perf_counter
from typing import Any, TypeAlias

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Send

from mlkit.define.border import port
from mlkit.define.exact import MEDIA_TYPE as EXACT
from mlkit.define.fresh import fresh, is_shared
from mlkit.define.graph import Graph
from mlkit.errors import Cancelled, DeadlineExceeded, InputError, Overloaded
from mlkit.execute import Executor
from mlkit.execute.execution import Execution
from mlkit.execute.inputs import signature_of
from mlkit.execute.items import Items
from mlkit.execute.local import not_streaming
from mlkit.execute.priority import Priority, places
from mlkit.serving.http import problem
from mlkit.serving.http.adaptive import AdaptiveLimit
from mlkit.serving.http.observer import HOPS, LAST, Headers, Observer
from mlkit.serving.http.outcome import Outcome, cause_of, outcome_of
from mlkit.serving.http.pace import resumed
from mlkit.serving.http.payload import Payloads, from_route
from mlkit.serving.http.results import Results
from mlkit.serving.http.stream import FRAMES, MEDIA_TYPES, ItemEvents
from mlkit.serving.http.terms import TERMS, Terms
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
        watch: called with each request that was run without an error.
        ongoing: number of requests in flight.
        last: the last request that was run without an error; a new version is tried on it.
    """

    executor: Executor
    limits: Limits = field(default_factory=Limits)
    failures: problem.Failures = field(default_factory=problem.Failures)
    observer: Observer = field(default_factory=lambda: Observer(None))
    watch: Callable[[Execution], None] | None = field(default=None, init=False)
    ongoing: int = field(default=0, init=False)
    last: Execution | None = field(default=None, init=False)

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
        begun: Terms | None = None,
    ) -> None:
        """Respond to a request to the pipeline's own route; it is in flight until that is sent.

        Args:
            request: the request.
            send: sends the response.
            payloads: reads the request.
            results: encodes the result.
            respond: the user's exception handlers.
            begun: its terms, if its time has begun to count; by default it does now.
        """
        terms, admitted = begun or self._terms(), False
        headers: Headers = dict(request.scope["headers"])
        try:
            try:
                terms = begun or terms.asked(headers)
                admitted = self._admit(terms.priority)
                arguments = await _in_time(terms, payloads.read(request, headers))
            except Exception as error:
                response = await self._ended(error, None, terms, headers, respond)
            else:
                finish = partial(self._finish, terms, headers, arguments)
                accept = results.preferred(headers.get(b"accept", b"").decode("latin-1"))
                exact = accept in (EXACT, FRAMES) and payloads.is_exact(headers)
                streams = accept in MEDIA_TYPES or (exact and accept == FRAMES)
                if results.items is not None and streams:
                    items = self._items(terms, arguments)
                    handlers = None if exact else respond  # the notebook reads problems
                    response = self._streamed(
                        terms, headers, items, accept, results.items, handlers
                    )
                elif accept in MEDIA_TYPES:
                    response = results.events.response(accept, finish)
                elif exact:
                    response = await finish(results.exact)
                else:
                    encode = partial(results.response, accept=accept)
                    response = await finish(encode, respond=respond)
            await response(request.scope, request.receive, send)
        finally:
            self.ongoing -= admitted

    async def refuse(
        self, request: Request, send: Send, error: Exception, respond: Respond | None = None
    ) -> None:
        """Respond to a request with an error, and record it, without running the pipeline."""
        headers: Headers = dict(request.scope["headers"])
        response = await self._ended(error, None, self._terms(), headers, respond)
        await response(request.scope, request.receive, send)

    async def call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], headers: Headers) -> Any:
        """Run the pipeline for a route of the user's.

        Images are passed as bytes, an http(s) or data: URL, a PIL image or an array; text is never
        interpreted as a path.

        Args:
            args: positional arguments of the pipeline.
            kwargs: keyword arguments of the pipeline.
            headers: of the route's request; its terms are those of the call.

        Raises:
            InputError: the arguments are invalid, or a header is.
            Overloaded: too many requests are in flight.
            DeadlineExceeded: the request took longer than ``request_timeout_s``.
            StepError: a step raised.
        """
        terms, execution, admitted = self._terms(), None, False
        try:
            terms = terms.asked(headers)
            admitted = self._admit(terms.priority)
            arguments = await _in_time(terms, self._bind(args, kwargs))
            execution = await self._run(terms, arguments)
            output = _output(execution)
        except Exception as error:
            await self._ended(error, execution, terms, {})
            raise
        finally:
            self.ongoing -= admitted
        self.observer.answered(execution, terms.received_at, None, {})
        return output

    def _terms(self) -> Terms:
        """The terms of a request that is received now and asks for no others."""
        return Terms(perf_counter(), self.limits.request_timeout_s)

    def is_full(self, priority: Priority) -> bool:
        """Whether a request would be refused because too many are in flight."""
        limit = self.limits.max_ongoing_requests if self._adaptive is None else self._adaptive.now
        return self.ongoing >= places(limit, priority)

    @cached_property
    def _adaptive(self) -> AdaptiveLimit | None:
        # Streams last as long as their consumers take: a lower limit would not shorten them.
        if not self.limits.adaptive or self.graph.streams:
            return None
        return AdaptiveLimit(self.limits.max_ongoing_requests)

    def _admit(self, priority: Priority) -> bool:
        """Count a request as in flight.

        Raises:
            Overloaded: too many are.
        """
        if self.is_full(priority):
            raise Overloaded("too many requests in flight", fix="try again in a second")
        self.ongoing += 1
        return True

    async def stream(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], headers: Headers
    ) -> AsyncGenerator[Any, None]:
        """Iterate over the items of a pipeline that streams, as they are made, in a route.

        Args:
            args: positional arguments of the pipeline.
            kwargs: keyword arguments of the pipeline.
            headers: of the route's request; its terms are those of the stream.

        Raises:
            DefinitionError: it does not stream.
            InputError: the arguments are invalid, or a header is.
            Overloaded: too many requests are in flight.
            DeadlineExceeded: an item took longer than ``request_timeout_s``.
            StepError: a step raised.
        """
        if not self.graph.streams:
            raise not_streaming(self.graph)
        terms, execution, admitted = self._terms(), None, False
        try:
            terms = terms.asked(headers)
            admitted = self._admit(terms.priority)
            arguments = await _in_time(terms, self._bind(args, kwargs))
            async with aclosing(self._items(terms, arguments)) as items:
                execution = items.execution
                async for item in items:
                    yield item
        except Exception as error:
            await self._ended(error, execution, terms, {})
            raise
        finally:
            self.ongoing -= admitted
        self.observer.answered(execution, terms.received_at, None, {})

    def _items(self, terms: Terms, arguments: Mapping[str, Any]) -> Items:
        HOPS.set([])
        TERMS.set(terms)
        return Items(
            self.executor,
            {**self._defaults, **self._fresh_defaults(), **arguments},
            deadline=terms.deadline,
            idle_s=terms.timeout_s,
            priority=terms.priority,
        )

    def _streamed(
        self,
        terms: Terms,
        headers: Headers,
        items: Items,
        media_type: str,
        events: ItemEvents,
        respond: Respond | None,
    ) -> Response:
        headers, own = self.observer.identified(headers)

        async def ended(error: Exception | None, sent: int) -> Response:
            if error is not None:
                handler = None if sent else respond  # a response that has begun has its status
                return await self._ended(error, items.execution, terms, headers, handler, sent)
            response, received_at = Response(), terms.received_at
            self.observer.answered(items.execution, received_at, response, headers, sent=sent)
            return response

        return events.response(media_type, items, ended, own)

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

    async def _run(
        self,
        terms: Terms,
        arguments: Mapping[str, Any],
        on_node: Callable[[str, Any], None] | None = None,
    ) -> Execution:
        HOPS.set([])
        TERMS.set(terms)
        began = perf_counter()  # a client that sends its body slowly says nothing of the pipeline
        execution = await self.executor.run(
            {**self._defaults, **self._fresh_defaults(), **arguments},
            deadline=terms.deadline,
            on_node=on_node,
            priority=terms.priority,
        )
        LAST.set(execution)
        error = execution.error
        late = error is not None and isinstance(cause_of(error), DeadlineExceeded)
        # One that fails, often at once, says nothing of how long requests take.
        if self._adaptive is not None and (error is None or late):
            now = perf_counter()
            self._adaptive.add(now - began, self.ongoing, now, late=late)
        if error is None:
            self.last = execution
            if self.watch is not None:
                self.watch(execution)
        return execution

    @cached_property
    def _defaults(self) -> dict[str, Any]:
        return {p.name: p.default for p in self.graph.parameters if not p.required}

    @cached_property
    def _changeable(self) -> dict[str, Any]:
        return {name: value for name, value in self._defaults.items() if not is_shared(value)}

    def _fresh_defaults(self) -> dict[str, Any]:
        return {name: fresh(value) for name, value in self._changeable.items()}

    async def _finish(
        self,
        terms: Terms,
        headers: Headers,
        arguments: Mapping[str, Any],
        encode: Callable[[Any], Response],
        on_node: Callable[[str, Any], None] | None = None,
        respond: Respond | None = None,
    ) -> Response:
        execution = None
        try:
            execution = await self._run(terms, arguments, on_node)
            output = _output(execution)
            try:
                response = encode(output)
            except Exception as error:
                raise execution.of_output(error) from error
        except Exception as error:
            return await self._ended(error, execution, terms, headers, respond)
        self.observer.answered(execution, terms.received_at, response, headers)
        return response

    async def _ended(
        self,
        error: Exception,
        execution: Execution | None,
        terms: Terms,
        headers: Headers,
        respond: Respond | None = None,
        sent: int = 0,
    ) -> Response:
        """Return the error response, and record the request unless its client disconnected."""
        if isinstance(
            cause_of(error), Cancelled
        ):  # one that its client cancels ends with a CancelledError
            error = Overloaded("the app was deployed again or shut down", fix="try again")
        response = problem.of_error(error, self.graph.name, self.failures)
        if outcome_of(error)[0] is not Outcome.LEFT:
            if respond is not None:
                response = await respond(error) or response
            self.observer.answered(execution, terms.received_at, response, headers, sent=sent)
        return response


Ready: TypeAlias = Callable[[], Served | None]
"""Returns a pipeline once it is ready, None before."""

Respond: TypeAlias = Callable[[Exception], Awaitable[Response | None]]
"""Returns the response of the user's exception handler for an error, None without one."""


async def _in_time(terms: Terms, reading: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    """Await the arguments of a request until its deadline."""
    try:
        awaited = reading.send(None)
    except StopIteration as done:  # without waiting, so without a timer, which takes 10 µs
        arguments: dict[str, Any] = done.value
        return arguments
    try:
        async with asyncio.timeout(terms.left_s) as timer:
            return await resumed(reading, awaited)
    except TimeoutError:
        if not timer.expired():  # raised by the reading itself
            raise
        raise DeadlineExceeded("the request exceeded its deadline while being read") from None


def _output(execution: Execution) -> Any:
    if execution.error is not None:
        raise execution.error
    return execution.output
