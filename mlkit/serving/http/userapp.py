"""A user's own FastAPI application: its parts, its serialization, and a copy to extend."""

from __future__ import annotations

import _thread
import copy
import inspect
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from typing import Any, TypeAlias, get_origin

from fastapi import FastAPI, datastructures
from fastapi.routing import iter_route_contexts
from starlette.applications import Starlette
from starlette.datastructures import State
from starlette.routing import BaseRoute, Host, Mount, Router
from starlette.types import ASGIApp

from mlkit.define.shippable import unpicklable
from mlkit.define.shipping import Pickler, dumps, fingerprint, loads
from mlkit.errors import DeployError
from mlkit.pipelines import Pipeline
from mlkit.serving.http.dependency import Dependency, Reference, called_directly

__all__ = [
    "LIFESPAN",
    "Application",
    "application_of",
    "check_paths",
    "declares",
    "derived",
    "pack_application",
    "parts_of",
]

Application: TypeAlias = FastAPI | Callable[[], FastAPI]
"""An application, or a factory function that returns one."""


LIFESPAN = "the lifespan"
"""Description of an application's lifespan among its parts."""


def declares(routes: Sequence[BaseRoute], *paths: str) -> bool:
    """Whether some of the routes have one of the paths, or are below it."""
    declared = [route.path or "" for route in iter_route_contexts(routes)]
    return any(each == path or each.startswith(f"{path}/") for each in declared for path in paths)


class _Pickler(Pickler):
    """Pickles an application; locks are replaced by new ones."""

    def reducer_override(self, obj: Any) -> Any:
        """Reduce state, locks, pipelines and unset options of an application."""
        if type(obj) is State:  # its __getattr__ breaks pickling
            return State, (dict(obj._state),)
        if isinstance(obj, _thread.LockType):
            return threading.Lock, ()
        if isinstance(obj, _thread.RLock):
            return threading.RLock, ()
        if isinstance(obj, Pipeline):
            return self.reduce_pipeline(obj)
        if obj is getattr(datastructures, "_Unset", self):  # compared by identity
            return getattr, (datastructures, "_Unset")
        return super().reducer_override(obj)

    def reduce_pipeline(self, pipeline: Pipeline[..., Any]) -> Any:
        """Raise `DeployError`: routes must depend on a pipeline, not contain it."""
        raise called_directly(pipeline.name)


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
        DeployError: it is not an application, a part of it cannot be pickled, two pipelines have
            the same name, or it declares the path of one itself.
    """
    parts = list(parts_of(application))
    pipelines: dict[str, Pipeline[..., Any]] = {}
    for _, part in parts:
        for dependency in _dependencies(part):
            if dependency.pipeline is not None:
                _add(dependency.pipeline, pipelines)
    if pipeline is not None and pipeline.name in pipelines:
        _add(pipeline, pipelines)
    if isinstance(application, FastAPI):
        check_paths(application, {*pipelines, *([pipeline.name] if pipeline is not None else [])})
    pickler = _Pickler if isinstance(application, FastAPI) else _factory_pickler(pipelines)
    try:
        data = dumps(application, pickler)
    except Exception as error:
        within = "the lifespan or in a dependency, or pass a factory function: "
        within += "deploy(..., fastapi=make_app)"
        if not isinstance(application, FastAPI):
            within = f"{application.__name__}()"
        raise _pickling_error(parts, error, pickler, f"create it in {within}") from error
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


def check_paths(application: FastAPI, names: Iterable[str]) -> None:
    """Check that an application leaves the paths of pipelines to them.

    Args:
        application: the application.
        names: names of the pipelines.

    Raises:
        DeployError: it does not.
    """
    posts = {
        route.path
        for route in iter_route_contexts(application.routes)
        if "POST" in (route.methods or ())
    }
    for name in names:
        if f"/{name}" in posts:
            raise DeployError(
                f"it has a route POST /{name}, where the pipeline {name!r} is served",
                where="fastapi=",
                fix="rename the route or the pipeline",
            )


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


def parts_of(application: Application) -> Iterator[tuple[str, Any]]:
    """Yield the functions of an application, and its options, each with a description.

    Raises:
        DeployError: it is not an application.
    """
    if inspect.isfunction(application):
        yield f"the function {application.__name__}", application
        return
    if not isinstance(application, FastAPI):
        raise DeployError(
            "fastapi= must be a FastAPI application, or a function that returns one",
            got=type(application).__name__,
        )
    yield from _configured(application)
    yield from _routes(application.webhooks.routes, "webhook ")
    for replaced, override in application.dependency_overrides.items():
        yield f"the override of {getattr(replaced, '__name__', replaced)}", override
    router = application.router
    for lifespan in (*router.on_startup, *router.on_shutdown, *_lifespans(router.lifespan_context)):
        yield LIFESPAN, lifespan


def _lifespans(context: Any) -> Iterator[Any]:
    """The lifespans that FastAPI has merged: of an application, and of the routers in it."""
    if getattr(context, "__module__", "") != "fastapi.routing":
        yield context
    elif inspect.isfunction(context):
        for merged in inspect.getclosurevars(inspect.unwrap(context)).nonlocals.values():
            yield from _lifespans(merged)


def _configured(application: Starlette, path: str = "") -> Iterator[tuple[str, Any]]:
    within = f" of the application mounted at {path}" if path else ""
    yield f"the options{within}", [_options(application), _options(application.router)]
    yield f"the state{within}", application.state._state
    yield from _routes(application.routes, path)
    for handled, handler in application.exception_handlers.items():
        yield f"the exception handler of {getattr(handled, '__name__', handled)}{within}", handler
    for middleware in application.user_middleware:
        name = getattr(middleware.cls, "__name__", "?")
        function = middleware.kwargs.get("dispatch", middleware.cls)
        described = f"the middleware {getattr(function, '__name__', name)}{within}"
        yield described, function
        yield described, [middleware.args, middleware.kwargs]


def _routes(routes: Sequence[BaseRoute], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for route in routes:
        path = prefix + getattr(route, "path", "")
        if isinstance(route, (Mount, Host)):
            yield from _mounted(route.app, path)
            continue
        router, context = (getattr(route, n, None) for n in ("original_router", "include_context"))
        if router is not None and context is not None:  # added by include_router
            for dependency in context.dependencies:
                yield f"a dependency of the router {context.prefix}", dependency.dependency
            options = [_options(context), _options(router)]
            yield f"the options of the router {context.prefix}", options
            yield from _routes(router.routes, prefix + context.prefix)
            continue
        methods = ",".join(sorted(getattr(route, "methods", None) or ()))
        endpoint = getattr(route, "endpoint", None)
        if endpoint is None:
            # Without access to the code, count it as changed with each deployment.
            yield f"the route {path}", secrets.token_hex(8)
        elif not _is_builtin(endpoint):
            yield f"the route {methods} {path}".replace("  ", " "), endpoint
            yield f"the options of the route {path}", _options(route)
            dependant = getattr(route, "dependant", None)
            for called in _calls(dependant) if dependant else ():
                yield f"a dependency of the route {path}", called


def _mounted(app: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The parts of a mounted application or router, possibly within middleware."""
    while not hasattr(app, "routes") and hasattr(app, "app"):  # a convention of ASGI middleware
        yield f"the middleware of the application mounted at {path}", type(app)
        yield f"the middleware of the application mounted at {path}", _options(app)
        app = app.app
    if isinstance(app, Starlette):
        yield from _configured(app, path)
    elif isinstance(app, Router):
        yield from _routes(app.routes, path)
    else:
        yield f"the application mounted at {path}", app


def _options(configured: Any) -> dict[str, Any]:
    """What an application, a route or a middleware is configured with, besides functions."""
    return {
        name: option
        for name, option in sorted(getattr(configured, "__dict__", {}).items())
        if not (name.startswith("_") or name in _CACHES) and _is_plain(option)
    }


_CACHES = {"middleware_stack", "openapi_schema"}
"""Attributes of an application that are set when it is used."""


def _is_plain(option: Any) -> bool:
    """Whether it is data or a type, possibly in lists and dicts."""
    if isinstance(option, (list, tuple, set, frozenset)):
        return all(map(_is_plain, option))
    if isinstance(option, dict):
        return all(_is_plain(key) and _is_plain(item) for key, item in option.items())
    scalars = (bool, int, float, str, bytes, type, Enum)
    return option is None or isinstance(option, scalars) or get_origin(option) is not None


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
    parts: list[tuple[str, Any]], error: Exception, pickler: type[_Pickler], fix: str
) -> DeployError:
    """The error that names the part, and the variable in it, that cannot be pickled."""
    for name, part in parts:
        try:
            dumps(part, pickler)
        except DeployError as inner:
            inner.where = f"fastapi=, {name}"
            return inner
        except Exception as inner:
            variable, used, reason = unpicklable(part, pickler), "", str(inner)
            if variable is not None:
                user = "" if variable.user == getattr(part, "__name__", "") else variable.user
                used = f", because {user or 'it'} uses {variable.name!r}"
                fix, reason = variable.fix(fix), variable.reason
            return DeployError(
                f"{name} cannot be pickled{used}", where="fastapi=", got=reason, fix=fix
            )
    return DeployError(
        "the application cannot be pickled",
        where="fastapi=",
        got=str(error),
        fix="pass a factory function: deploy(..., fastapi=make_app)",
    )


def derived(application: FastAPI) -> FastAPI:
    """Return a copy of an application to add routes and exception handlers to.

    It lacks the routes of FastAPI's documentation.
    """
    extended = copy.copy(application)
    extended.router = copy.copy(application.router)
    extended.router.routes = [
        route
        for route in application.router.routes
        if not _is_builtin(getattr(route, "endpoint", None))
    ]
    stack = application.router.middleware_stack
    extended.router.middleware_stack = _rebound(stack, application.router.app, extended.router.app)
    extended.exception_handlers = dict(application.exception_handlers)
    extended.user_middleware = list(application.user_middleware)
    extended.middleware_stack = None
    extended.openapi_schema = None
    return extended


def _rebound(stack: Any, old: ASGIApp, new: ASGIApp) -> Any:
    """Copy a stack of ASGI middleware so that it ends in another application.

    A router has one if it, or its application, was given ``max_body_size`` or ``middleware``.
    """
    if stack == old:
        return new
    layer = copy.copy(stack)
    layer.app = _rebound(stack.app, old, new)
    return layer
