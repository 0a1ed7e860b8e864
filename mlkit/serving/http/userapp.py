"""A user's own FastAPI application: its serialization, and its dependencies on pipelines."""

from __future__ import annotations

import _thread
import asyncio
import copy
import inspect
import secrets
import threading
from collections.abc import Callable, Coroutine, Generator, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias, TypeVar

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.datastructures import State
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, Host, Mount
from starlette.types import ASGIApp, Scope

from mlkit.define.code import captured
from mlkit.define.shipping import Pickler, dumps, fingerprint, loads
from mlkit.errors import (
    DefinitionError,
    DeployError,
    MlkitError,
    Overloaded,
    entry_point,
)
from mlkit.pipelines import Pipeline, require_pipeline
from mlkit.serving.http.lifecycle import Ready, Served

__all__ = [
    "Application",
    "Dependency",
    "NotAwaited",
    "RoutePipeline",
    "application_of",
    "derived",
    "mounted",
    "pack_application",
    "served",
    "unawaited",
]

Application: TypeAlias = FastAPI | Callable[[], FastAPI]
"""An application, or a factory function that returns one."""

SCOPE_KEY = "mlkit.pipelines"
"""Key of the ASGI scope for the served pipelines (`Ready`), by name."""

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
        return RoutePipeline(pipeline, asyncio.get_running_loop(), calls)

    def __reduce__(self) -> tuple[Any, ...]:
        return Dependency, (self.name,)  # pipelines are bundled separately

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dependency) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


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
    """

    served: Served
    loop: asyncio.AbstractEventLoop
    calls: set[_Call]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the pipeline; see `Served.__call__`.

        Returns:
            the result in a thread, as in a plain ``def`` route; on an event loop, where it would
            block all requests, a coroutine.
        """
        coroutine = self.served(*args, **kwargs)
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()
        if running is not self.loop:  # `asyncio.run` in a plain route
            return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self.loop))
        return _Call(coroutine, self.served.graph.name, self.calls)


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

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raise `DeployError`: routes call a pipeline through `served`."""
        raise _called_directly(self.name)


def _called_directly(name: str) -> DeployError:
    return DeployError(
        f"the pipeline {name!r} is called directly",
        where="fastapi=",
        fix=f"inject it into the route: {name}=Depends(served({name})), and await {name}(...)",
    )


class _Pickler(Pickler):
    """Pickles an application; locks are replaced by new ones."""

    def reducer_override(self, obj: Any) -> Any:
        """Reduce state, locks and pipelines of an application."""
        if type(obj) is State:  # its __getattr__ breaks pickling
            return State, (dict(obj._state),)
        if isinstance(obj, _thread.LockType):
            return threading.Lock, ()
        if isinstance(obj, _thread.RLock):
            return threading.RLock, ()
        if isinstance(obj, Pipeline):
            return self.reduce_pipeline(obj)
        return super().reducer_override(obj)

    def reduce_pipeline(self, pipeline: Pipeline[..., Any]) -> Any:
        """Raise `DeployError`: routes must depend on a pipeline, not contain it."""
        raise _called_directly(pipeline.name)


def _factory_pickler(pipelines: dict[str, Pipeline[..., Any]]) -> type[_Pickler]:
    """A pickler for factory functions, which collects the pipelines that they refer to."""

    class FactoryPickler(_Pickler):
        def reduce_pipeline(self, pipeline: Pipeline[..., Any]) -> Any:
            pipelines[pipeline.name] = pipeline
            return Reference, (pipeline.name,)

    return FactoryPickler


def pack_application(
    application: Application, pipeline: Pipeline[..., Any] | None = None
) -> tuple[bytes, str, dict[str, Pipeline[..., Any]]]:
    """Pickle an application; return the data, its digest, and the pipelines of its routes.

    Args:
        application: the application, or its factory.
        pipeline: the pipeline that is served in it.

    Raises:
        DeployError: it is not an application, a part of it cannot be pickled, or two pipelines have
            the same name.
    """
    if not isinstance(application, FastAPI) and not inspect.isfunction(application):
        raise DeployError(
            "fastapi= must be a FastAPI application, or a function that returns one",
            got=type(application).__name__,
        )
    parts = list(_parts(application))
    pipelines: dict[str, Pipeline[..., Any]] = {}
    for _, part in parts:
        for dependency in _dependencies(part):
            if dependency.pipeline is not None:
                _add(dependency.pipeline, pipelines)
    if pipeline is not None and pipeline.name in pipelines:
        _add(pipeline, pipelines)
    pickler = _Pickler if isinstance(application, FastAPI) else _factory_pickler(pipelines)
    try:
        data = dumps(application, pickler)
    except Exception as error:
        raise _pickling_error(parts, error, pickler) from error
    names, functions = [name for name, _ in parts], [part for _, part in parts]
    return data, fingerprint([names, functions]), pipelines


def _add(pipeline: Pipeline[..., Any], pipelines: dict[str, Pipeline[..., Any]]) -> None:
    """Add a pipeline by its name; one that was defined again replaces the former.

    Raises:
        DeployError: another one has the same name.
    """
    name = pipeline.name
    if _origin(pipelines.setdefault(name, pipeline)) != _origin(pipeline):
        raise DeployError(
            f"two of its pipelines are named {name!r}",
            where="fastapi=",
            fix=f"call one in a pipeline with another name: @pipeline def {name}_v2(...): "
            f"return {name}(...)",
        )
    pipelines[name] = pipeline


def _origin(pipeline: Pipeline[..., Any]) -> Any:
    replaced = {
        name: (step.fn.__module__, step.fn.__qualname__)
        for name, step in pipeline.replacements.items()
    }
    return pipeline.fn.__module__, pipeline.fn.__qualname__, replaced


def application_of(data: bytes | None) -> FastAPI | None:
    """Unpickle an application, or call the pickled factory."""
    if data is None:
        return None
    application = loads(data)
    if inspect.isfunction(application):
        application = application()
    if not isinstance(application, FastAPI):
        raise DeployError(
            "the function passed as fastapi= did not return a FastAPI application",
            got=type(application).__name__,
        )
    return application


def _parts(application: Application) -> Iterator[tuple[str, Any]]:
    """The functions of an application, each with a description."""
    if not isinstance(application, FastAPI):
        yield f"the function {application.__name__}", application
        return
    yield from _routes(application.routes)
    for handled, handler in application.exception_handlers.items():
        yield f"the exception handler of {getattr(handled, '__name__', handled)}", handler
    for middleware in application.user_middleware:
        name = getattr(middleware.cls, "__name__", "?")
        function = middleware.kwargs.get("dispatch", middleware.cls)
        yield f"the middleware {getattr(function, '__name__', name)}", function
    yield "the lifespan", application.router.lifespan_context


def _routes(routes: list[BaseRoute], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for route in routes:
        path = prefix + getattr(route, "path", "")
        if isinstance(route, (Mount, Host)):
            if route.routes:
                yield from _routes(route.routes, path)
            else:
                yield f"the application mounted at {path}", route.app
            continue
        router, context = (getattr(route, n, None) for n in ("original_router", "include_context"))
        if router is not None and context is not None:  # added by include_router
            for dependency in context.dependencies:
                yield f"a dependency of the router {context.prefix}", dependency.dependency
            yield from _routes(router.routes, prefix + context.prefix)
            continue
        methods = ",".join(sorted(getattr(route, "methods", None) or ()))
        endpoint = getattr(route, "endpoint", None)
        if endpoint is None:
            # Without access to the code, count it as changed with each deployment.
            yield f"the route {path}", secrets.token_hex(8)
        elif not _is_builtin(endpoint):
            yield f"the route {methods} {path}".replace("  ", " "), endpoint
            dependant = getattr(route, "dependant", None)
            for called in _calls(dependant) if dependant else ():
                yield f"a dependency of the route {path}", called


def _is_builtin(endpoint: Any) -> bool:
    """Whether an endpoint is one of FastAPI's own, for the documentation."""
    return getattr(endpoint, "__module__", "").startswith("fastapi.applications")


def _calls(dependant: Any) -> Iterator[Any]:
    for inner in dependant.dependencies:
        if inner.call is not None:
            yield inner.call
        yield from _calls(inner)


def _dependencies(value: Any) -> Iterator[Dependency]:
    """Dependencies on pipelines in the defaults of a function."""
    if isinstance(value, Dependency):
        yield value
    elif inspect.isfunction(value):
        defaults = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        for default in defaults:
            dependency = getattr(default, "dependency", default)
            if isinstance(dependency, Dependency):
                yield dependency


def _pickling_error(
    parts: list[tuple[str, Any]], error: Exception, pickler: type[_Pickler]
) -> DeployError:
    """The error that names the part, and the variable in it, that cannot be pickled."""
    for name, part in parts:
        try:
            dumps(part, pickler)
        except DeployError as inner:
            inner.where = f"fastapi=, {name}"
            return inner
        except Exception as inner:
            variable = _variable(part, pickler)
            return DeployError(
                f"{name} cannot be pickled" + (f", because of {variable!r}" if variable else ""),
                where="fastapi=",
                got=str(inner),
                fix="create it in the lifespan or in a dependency, or pass a factory function: "
                "deploy(..., fastapi=make_app)",
            )
    return DeployError(
        "the application cannot be pickled",
        where="fastapi=",
        got=str(error),
        fix="pass a factory function: deploy(..., fastapi=make_app)",
    )


def _variable(part: Any, pickler: type[_Pickler]) -> str | None:
    """The variable of a function, or of its callees, that cannot be pickled."""
    used = captured(part) if inspect.isfunction(part) else {}
    for name, value in used.items():
        try:
            dumps(value, pickler)
        except Exception:
            return _variable(value, pickler) or name
    return None


def derived(application: FastAPI) -> FastAPI:
    """Return a copy of an application to add routes to, without its documentation routes."""
    extended = _copied(application)
    extended.router.routes = [
        route
        for route in extended.router.routes
        if not _is_builtin(getattr(route, "endpoint", None))
    ]
    extended.openapi_schema = None
    return extended


AppT = TypeVar("AppT", bound=Starlette)


def _copied(application: AppT) -> AppT:
    """Copy an application, to add routes and exception handlers to it and those mounted in it."""
    copied = copy.copy(application)
    copied.router = copy.copy(application.router)
    copied.router.routes = [_copied_mount(route) for route in application.router.routes]
    stack = application.router.middleware_stack
    copied.router.middleware_stack = _rebound(stack, application.router.app, copied.router.app)
    copied.exception_handlers = dict(application.exception_handlers)
    copied.user_middleware = list(application.user_middleware)
    copied.middleware_stack = None
    return copied


def _copied_mount(route: BaseRoute) -> BaseRoute:
    if not isinstance(route, (Mount, Host)) or not isinstance(route.app, Starlette):
        return route
    mount = copy.copy(route)
    mount.app = _copied(route.app)
    return mount


def mounted(application: Starlette) -> Iterator[Starlette]:
    """Yield the applications that are mounted in an application, and in those."""
    for route in application.router.routes:
        if isinstance(route, (Mount, Host)) and isinstance(route.app, Starlette):
            yield route.app
            yield from mounted(route.app)


def _rebound(stack: Any, old: ASGIApp, new: ASGIApp) -> Any:
    """Copy a stack of ASGI middleware so that it ends in another application.

    A router has one if it, or its application, was given ``max_body_size`` or ``middleware``.
    """
    if stack == old:
        return new
    layer = copy.copy(stack)
    layer.app = _rebound(stack.app, old, new)
    return layer
