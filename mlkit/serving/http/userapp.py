"""A user's own FastAPI application: how it travels, and the pipelines that its routes call."""

from __future__ import annotations

import _thread
import copy
import inspect
import secrets
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from fastapi import FastAPI
from starlette.datastructures import State
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, Host, Mount
from starlette.types import ASGIApp

from mlkit.define.code import captured
from mlkit.define.shipping import Pickler, dumps, fingerprint, loads
from mlkit.errors import DeployError, InputError, Overloaded
from mlkit.pipelines import Pipeline
from mlkit.serving.http.lifecycle import Ready, Served

__all__ = [
    "Application",
    "Dependency",
    "application_of",
    "derived",
    "pack_application",
    "served",
]

Application: TypeAlias = FastAPI | Callable[[], FastAPI]
"""An application, or a function that makes one."""

SCOPE_KEY = "mlkit.pipelines"
"""Where the ASGI scope has what gives each pipeline that is served once it is ready, by name."""


class Dependency:
    """What FastAPI gives a route that asks for a pipeline; see `served`."""

    def __init__(self, name: str, pipeline: Pipeline[..., Any] | None = None) -> None:
        self.name = name
        self.pipeline = pipeline

    async def __call__(self, connection: HTTPConnection) -> Served:
        """The pipeline as this request finds it.

        Raises:
            DeployError: it is not served here.
            Overloaded: it is not ready yet.
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
        return pipeline

    def __reduce__(self) -> tuple[Any, ...]:
        return Dependency, (self.name,)  # the pipeline goes its own way

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dependency) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


def served(pipeline: Pipeline[..., Any] | Reference) -> Dependency:
    """A FastAPI dependency that gives a route the served pipeline.

    ::

        @shop.post("/products/{sku}/tags")
        async def tags(sku: str, image: UploadFile, tag=Depends(served(tag))) -> ProductTags:
            return await tag(image=await image.read(), title=sku)

        app = deploy(tag, fastapi=shop)
    """
    if isinstance(pipeline, Reference):
        return Dependency(pipeline.name)
    if not isinstance(pipeline, Pipeline):
        raise InputError(
            "served takes a pipeline", got=type(pipeline).__name__, fix="Depends(served(tag))"
        )
    return Dependency(pipeline.name, pipeline)


class Reference:
    """A pipeline's name in its place, where code that makes an application names it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: it runs in the server's executor, as its routes ask for.

        Raises:
            DeployError: always.
        """
        raise _called_directly(self.name)


def _called_directly(name: str) -> DeployError:
    return DeployError(
        f"the pipeline {name!r} is called directly",
        where="fastapi=",
        fix=f"have the route ask for it: {name}=Depends(served({name})), and await {name}(...)",
    )


class _Pickler(Pickler):
    """Pickles an application; locks are made anew."""

    def reducer_override(self, obj: Any) -> Any:
        """As the base does, with what an application holds beside functions."""
        if type(obj) is State:  # it takes every question for one about its contents
            return State, (dict(obj._state),)
        if isinstance(obj, _thread.LockType):  # it guards what is in a process
            return threading.Lock, ()
        if isinstance(obj, _thread.RLock):
            return threading.RLock, ()
        if isinstance(obj, Pipeline):
            return self.reduce_pipeline(obj)
        return super().reducer_override(obj)

    def reduce_pipeline(self, pipeline: Pipeline[..., Any]) -> Any:
        """Refuse; routes hold what asks for a pipeline, not the pipeline.

        Raises:
            DeployError: always.
        """
        raise _called_directly(pipeline.name)


def _maker_pickler(found: dict[str, Pipeline[..., Any]]) -> type[_Pickler]:
    """One for functions that make applications, which name the pipelines that routes ask for."""

    class MakerPickler(_Pickler):
        def reduce_pipeline(self, pipeline: Pipeline[..., Any]) -> Any:
            found[pipeline.name] = pipeline
            return Reference, (pipeline.name,)

    return MakerPickler


def pack_application(
    application: Application,
) -> tuple[bytes, str, dict[str, Pipeline[..., Any]]]:
    """An application pickled, its digest, and the pipelines that its routes ask for.

    Raises:
        DeployError: it is none, or something of it cannot be sent; names it.
    """
    if not isinstance(application, FastAPI) and not inspect.isfunction(application):
        raise DeployError(
            "fastapi= is a FastAPI application, or a function that makes one",
            got=type(application).__name__,
        )
    parts = list(_parts(application))
    pipelines = {
        one.pipeline.name: one.pipeline
        for _, part in parts
        for one in _dependencies(part)
        if one.pipeline is not None
    }
    makes = not isinstance(application, FastAPI)
    pickler = _maker_pickler(pipelines) if makes else _Pickler
    try:
        data = dumps(application, pickler)
    except Exception as error:
        raise _at_fault(parts, error, pickler) from error
    shape = [name for name, _ in parts]
    return data, fingerprint([shape, [part for _, part in parts]]), pipelines


def application_of(data: bytes | None) -> FastAPI | None:
    """The application that was pickled; made, where that was the function that makes it."""
    if data is None:
        return None
    application = loads(data)
    if inspect.isfunction(application):
        application = application()
    if not isinstance(application, FastAPI):
        raise DeployError(
            "the function given as fastapi= did not make a FastAPI application",
            got=type(application).__name__,
        )
    return application


def _parts(application: Application) -> Iterator[tuple[str, Any]]:
    """The functions of an application, each with a name for messages."""
    if not isinstance(application, FastAPI):
        yield f"the function {application.__name__}", application
        return
    yield from _routes(application.routes)
    for handled, handler in application.exception_handlers.items():
        yield f"the exception handler of {getattr(handled, '__name__', handled)}", handler
    for middleware in application.user_middleware:
        name = getattr(middleware.cls, "__name__", "?")
        kept = middleware.kwargs.get("dispatch", middleware.cls)
        yield f"the middleware {getattr(kept, '__name__', name)}", kept
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
        if router is not None and context is not None:  # include_router, as FastAPI keeps it
            for dependency in context.dependencies:
                yield f"a dependency of the router {context.prefix}", dependency.dependency
            yield from _routes(router.routes, prefix + context.prefix)
            continue
        methods = ",".join(sorted(getattr(route, "methods", None) or ()))
        endpoint = getattr(route, "endpoint", None)
        if endpoint is None:
            # What answers here is not to be seen: it counts as changed at each deployment.
            yield f"what answers at {path}", secrets.token_hex(8)
        elif not _is_builtin(endpoint):
            yield f"the route {methods} {path}".replace("  ", " "), endpoint
            dependant = getattr(route, "dependant", None)
            for called in _calls(dependant) if dependant else ():
                yield f"a dependency of the route {path}", called


def _is_builtin(endpoint: Any) -> bool:
    """Whether it is one of FastAPI's own: the documentation."""
    return getattr(endpoint, "__module__", "").startswith("fastapi.applications")


def _calls(dependant: Any) -> Iterator[Any]:
    for inner in dependant.dependencies:
        if inner.call is not None:
            yield inner.call
        yield from _calls(inner)


def _dependencies(value: Any) -> Iterator[Dependency]:
    """Dependencies on pipelines in a function: its own, and those it uses."""
    if isinstance(value, Dependency):
        yield value
    elif inspect.isfunction(value):
        inner = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        for one in [getattr(default, "dependency", default) for default in inner]:
            if isinstance(one, Dependency):
                yield one


def _at_fault(
    parts: list[tuple[str, Any]], error: Exception, pickler: type[_Pickler]
) -> DeployError:
    """Say which part, and what in it, cannot be sent."""
    for name, part in parts:
        try:
            dumps(part, pickler)
        except DeployError as inner:
            inner.where = f"fastapi=, {name}"
            return inner
        except Exception as inner:
            what = _variable(part, pickler)
            return DeployError(
                f"{name} cannot be sent to another process"
                + (f", because of {what!r}" if what else ""),
                where="fastapi=",
                got=str(inner),
                fix="make it in the lifespan, or in a dependency; or pass a function that makes "
                "the application: deploy(..., fastapi=make_app)",
            )
    return DeployError(
        "the application cannot be sent to another process",
        where="fastapi=",
        got=str(error),
        fix="pass a function that makes it: deploy(..., fastapi=make_app)",
    )


def _variable(part: Any, pickler: type[_Pickler]) -> str | None:
    """The variable that a function cannot be sent because of, through the functions it calls."""
    used = captured(part) if inspect.isfunction(part) else {}
    for name, value in used.items():
        try:
            dumps(value, pickler)
        except Exception:
            return _variable(value, pickler) or name
    return None


def derived(application: FastAPI) -> FastAPI:
    """A copy to add routes to: with the routes and state of the one it is of, which stays as it is.

    Its documentation is left out; what the copy documents is more.
    """
    made = copy.copy(application)
    made.router = copy.copy(application.router)
    made.router.routes = [
        route
        for route in application.router.routes
        if not _is_builtin(getattr(route, "endpoint", None))
    ]
    stack = application.router.middleware_stack
    made.router.middleware_stack = _rebound(stack, application.router.app, made.router.app)
    made.exception_handlers = dict(application.exception_handlers)
    made.user_middleware = list(application.user_middleware)
    made.middleware_stack = None
    made.openapi_schema = None
    return made


def _rebound(stack: Any, old: ASGIApp, new: ASGIApp) -> Any:
    """A copy of a stack of ASGI middleware that ends in another application.

    A router has one where it, or its application, was given ``max_body_size`` or ``middleware``.
    """
    if stack == old:
        return new
    layer = copy.copy(stack)
    layer.app = _rebound(stack.app, old, new)
    return layer
