"""A user's own FastAPI application: its serialization, and a copy to extend."""

from __future__ import annotations

import _thread
import copy
import inspect
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from fastapi import FastAPI, datastructures
from fastapi.routing import iter_route_contexts
from starlette.datastructures import State
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from mlkit.define.shippable import unpicklable
from mlkit.define.shipping import Pickler, dumps, fingerprint, loads
from mlkit.errors import DeployError
from mlkit.pipelines import Pipeline
from mlkit.serving.http.appparts import Application, is_builtin, parts_of
from mlkit.serving.http.dependency import CalledDirectly, Dependency, Reference

__all__ = [
    "application_of",
    "check_paths",
    "declares",
    "derived",
    "pack_application",
]


def declares(routes: Sequence[BaseRoute], *paths: str) -> bool:
    """Whether some of the routes have one of the paths, or are below it."""
    declared = [route.path or "" for route in iter_route_contexts(routes)]
    return any(each == path or each.startswith(f"{path}/") for each in declared for path in paths)


class _Pickler(Pickler):
    """Pickles an application; locks are replaced by new ones."""

    def reducer_override(self, obj: Any) -> Any:
        """Reduce state, locks, pipelines and unset options of an application."""
        if type(obj) is State:  # its __getattr__ breaks pickling
            return State, ({name: obj[name] for name in obj},)
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
        raise CalledDirectly(pipeline.name)


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
        except CalledDirectly as inner:
            injectable = name.startswith(("the route ", "a dependency ", "the override "))
            return CalledDirectly(inner.name, name, injectable=injectable)
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
        if not is_builtin(getattr(route, "endpoint", None))
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
