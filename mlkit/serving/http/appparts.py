"""The parts of a user's FastAPI application: its functions and options, each with a description."""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any, TypeAlias, get_origin

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Host, Mount, Router

from mlkit.errors import DeployError

__all__ = ["LIFESPAN", "Application", "is_builtin", "parts_of"]

Application: TypeAlias = FastAPI | Callable[[], FastAPI]
"""An application, or a factory function that returns one."""

LIFESPAN = "the lifespan"
"""Description of an application's lifespan among its parts."""


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
    state = application.state
    yield f"the state{within}", {name: state[name] for name in state}
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
        elif not is_builtin(endpoint):
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


def is_builtin(endpoint: Any) -> bool:
    """Whether an endpoint is one of FastAPI's own, for the documentation."""
    return getattr(endpoint, "__module__", "").startswith("fastapi.applications")


def _calls(dependant: Any) -> Iterator[Any]:
    for inner in dependant.dependencies:
        if inner.call is not None:
            yield inner.call
        yield from _calls(inner)
