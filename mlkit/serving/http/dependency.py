"""The dependency by which routes of a user's application call pipelines: `served`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Scope

from mlkit.errors import DefinitionError, DeployError, MlkitError, Overloaded, entry_point
from mlkit.pipelines import Pipeline, require_pipeline
from mlkit.serving.http.lifecycle import Ready, Served
from mlkit.serving.http.observer import Headers

__all__ = [
    "FAULT_KEY",
    "SCOPE_KEY",
    "CalledDirectly",
    "Dependency",
    "NotAwaited",
    "Reference",
    "served",
    "unawaited",
]


SCOPE_KEY = "mlkit.pipelines"
"""Key of the ASGI scope for the served pipelines (`Ready`), by name."""


FAULT_KEY = "mlkit.fault"
"""Key of the ASGI scope for what responds to the error of a pipeline in any application."""


CALLS_KEY = "mlkit.calls"
"""Key of the ASGI scope for the calls (`_Call`) that the request's route has not awaited."""


class Dependency:
    """A FastAPI dependency on a pipeline; see `served`."""

    def __init__(self, name: str, pipeline: Pipeline[..., Any] | None = None) -> None:
        self.name = name
        self.pipeline = pipeline

    async def __call__(self, connection: HTTPConnection) -> RoutePipeline:
        """Return the pipeline for one request.

        Raises:
            DeployError: the pipeline is not served by this application.
            Overloaded: the pipeline is not ready yet.
        """
        _handle_errors(connection.scope)
        ready: Ready | None = connection.scope.get(SCOPE_KEY, {}).get(self.name)
        if ready is None:
            raise DeployError(
                f"the pipeline {self.name!r} is not served here",
                fix="deploy(pipeline, fastapi=app), or asgi(pipeline, fastapi=app) in a test",
            )
        pipeline = ready()
        if pipeline is None:
            raise Overloaded(f"the pipeline {self.name!r} is not ready yet")
        calls = connection.scope.setdefault(CALLS_KEY, set())
        headers = dict(connection.scope["headers"])
        return RoutePipeline(pipeline, asyncio.get_running_loop(), calls, headers)

    def __reduce__(self) -> tuple[Any, ...]:
        return Dependency, (self.name,)  # pipelines are bundled separately

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dependency) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


def _handle_errors(scope: Scope) -> None:
    """Have the application of the route respond to errors of pipelines.

    It may be mounted anywhere in the served one, also within routers and middleware.
    """
    handlers, _ = scope.get("starlette.exception_handlers", ({}, {}))  # of the innermost one
    handlers.setdefault(MlkitError, _respond)


async def _respond(connection: HTTPConnection, error: Exception) -> Response | None:
    respond = connection.scope.get(FAULT_KEY)
    if respond is None:  # the application is run by itself now
        raise error
    response: Response | None = await respond(connection, error)
    return response


@entry_point
def served(pipeline: Pipeline[..., Any] | Reference) -> Dependency:
    """Return a FastAPI dependency that passes the served pipeline to a route.

    ::

        @shop.post("/products/{sku}/tags")
        async def tags(sku: str, image: UploadFile, tag=Depends(served(tag))) -> ProductTags:
            return await tag(image=await image.read(), title=sku)

        app = deploy(tag, fastapi=shop)

    In a plain ``def`` route, which runs in a thread, ``tag(...)`` returns the result itself.
    """
    if isinstance(pipeline, Reference):
        return Dependency(pipeline.name)
    require_pipeline(pipeline, "served(...)")
    return Dependency(pipeline.name, pipeline)


@dataclass(frozen=True, slots=True)
class RoutePipeline:
    """A served pipeline, as one request's route calls it.

    Attributes:
        served: the pipeline.
        loop: the event loop of the application.
        calls: has the calls on the loop that are not awaited yet.
        headers: of the request; its timeout and priority are those of the calls.
    """

    served: Served
    loop: asyncio.AbstractEventLoop
    calls: set[_Call]
    headers: Headers = field(repr=False)

    def stream(self, /, *args: Any, **kwargs: Any) -> RouteItems:
        """Iterate over the items of a pipeline that streams; see `Served.stream`."""
        return RouteItems(self.served.stream(args, kwargs, self.headers), self.loop)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the pipeline; see `Served.call`.

        Returns:
            the result in a thread, as in a plain ``def`` route; on an event loop, where it would
            block all requests, a coroutine.
        """
        coroutine = self.served.call(args, kwargs, self.headers)
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()
        if running is not self.loop:  # `asyncio.run` in a plain route
            return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self.loop))
        return _Call(coroutine, self.served.graph.name, self.calls)


_END = object()


class RouteItems:
    """Items for a route: ``async for`` on the event loop, ``for`` in a thread."""

    def __init__(self, items: AsyncGenerator[Any, None], loop: asyncio.AbstractEventLoop) -> None:
        self._items = items
        self._loop = loop

    def __aiter__(self) -> AsyncGenerator[Any, None]:
        return self._items

    async def aclose(self) -> None:
        """Cancel the request, unless it has ended."""
        await self._items.aclose()

    def __iter__(self) -> Iterator[Any]:
        def in_loop(coroutine: Coroutine[Any, Any, Any]) -> Any:
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

        async def following() -> Any:  # a future cannot hold StopAsyncIteration
            return await anext(self._items, _END)

        try:
            while (item := in_loop(following())) is not _END:
                yield item
        finally:
            in_loop(self._items.aclose())


class NotAwaited(DefinitionError, AttributeError):
    """An ``async def`` route uses a call of a pipeline as its result."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"the route calls the pipeline {name!r} without awaiting it",
            fix=f"write `await {name}(...)`, or make it a plain `def` route",
        )


class _Call(Coroutine[Any, Any, Any]):
    """A call on the event loop: a coroutine that cannot be taken for its result."""

    __slots__ = ("_coroutine", "_name", "_pending")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], name: str, pending: set[_Call]) -> None:
        self._coroutine = coroutine
        self._name = name
        self._pending = pending
        pending.add(self)

    def send(self, value: Any) -> Any:
        self._pending.discard(self)
        return self._coroutine.send(value)

    def throw(self, *exception: Any) -> Any:
        self._pending.discard(self)
        return self._coroutine.throw(*exception)

    def close(self) -> None:
        self._pending.discard(self)
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        self._pending.discard(self)
        return self._coroutine.__await__()

    def __repr__(self) -> str:
        return f"<call of the pipeline {self._name!r}: await it>"

    def _refuse(self, *args: Any) -> NoReturn:
        raise NotAwaited(self._name)

    __bool__ = __contains__ = __getattr__ = __getitem__ = __iter__ = __len__ = _refuse


def unawaited(scope: Scope, error: Exception) -> NotAwaited | None:
    """Return the cause of an error in a route, if it did not await a pipeline."""
    if isinstance(error, MlkitError) and not isinstance(error, NotAwaited):
        return None
    started = [task.get_coro() for task in asyncio.all_tasks()]
    calls: list[_Call] = [call for call in scope.get(CALLS_KEY, ()) if call not in started]
    for call in calls:
        call.close()  # Python need not warn of it as well
    if not calls:
        return None
    cause = NotAwaited(calls[0]._name)
    cause.__cause__ = error
    return cause


class Reference:
    """Replaces a pipeline in a pickled application factory."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Raise `DeployError`: routes call a pipeline through `served`."""
        raise CalledDirectly(self.name)


class CalledDirectly(DeployError):
    """An application calls a pipeline without its dependency.

    Args:
        name: of the pipeline.
        where: the part of the application that calls it.
        injectable: whether FastAPI injects dependencies into that part.
    """

    def __init__(self, name: str, where: str = "", *, injectable: bool = True) -> None:
        self.name = name
        inject = f"inject it into the route: {name}=Depends(served({name})), and await {name}(...)"
        super().__init__(
            f"the pipeline {name!r} is called directly",
            where=f"fastapi=, {where}" if where else "fastapi=",
            fix=inject
            if injectable
            else f"call it in a route, or in a dependency of one, and {inject}",
        )
