"""Resources of steps, built once per process: a model, a table, a connection."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import _AsyncGeneratorContextManager, _GeneratorContextManager
from os import PathLike, fspath
from typing import Any, Generic, TypeVar, cast, overload

from mlkit.define.lifetime import opened
from mlkit.define.loop import background_loop
from mlkit.define.turn import Turn
from mlkit.errors import DefinitionError, entry_point

__all__ = ["Resource", "resource", "turns_of"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
_UNSET: Any = object()


class Resource(Generic[T]):
    """A value that is built once per process and passed to steps by keyword; see `resource`.

    What a loader opened on an event loop is for calls on that loop, and built once for each.

    Attributes:
        load: the loader, or None.
        value: the value itself, if there is no loader.
        files: paths of the files that the loader reads.
        turn: held by the call that uses it; None if calls use it at the same time.
    """

    def __init__(
        self,
        load: Callable[[], Any] | None,
        value: Any,
        files: Sequence[str | PathLike[str]],
        exclusive: bool = False,
    ) -> None:
        self.load = load
        self.value = value
        self.files = tuple(fspath(file) for file in files)
        self.turn = Turn() if exclusive else None
        self._lock = threading.Lock()
        # By event loop; None for what is not bound to one.
        self._built: dict[asyncio.AbstractEventLoop | None, T] = {}
        self._finalizers: dict[asyncio.AbstractEventLoop | None, weakref.finalize[..., Any]] = {}

    @property
    def name(self) -> str:
        """Name in graphs and messages: that of its loader, or of the type of its value."""
        if self.load is None:
            return type(self.value).__name__
        return getattr(self.load, "__name__", repr(self.load))

    @property
    def built(self) -> bool:
        """Whether it has been built in this process."""
        return self.load is None or bool(self._built)

    def get(self, loop: asyncio.AbstractEventLoop | None = None) -> T:
        """Return the value, built on the first call; thread-safe.

        Args:
            loop: event loop of the calls that use it, which runs in another thread; mlkit's
                background loop by default.
        """
        if self.load is None:
            return cast(T, self.value)
        with self._lock:
            for key in (None, loop or background_loop()):
                if key in self._built:
                    return self._built[key]
            return self._open(self.load, loop or background_loop())

    def _open(self, load: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> T:
        try:
            new = opened(load, loop)
        except BaseException as error:
            error.add_note(f"Raised by the loader of resource {self.name!r}.")
            raise
        key = loop if new.on_loop else None
        self._built[key] = cast(T, new.value)
        if new.close is not None:
            # It is closed at the latest when the step is redefined, or the process exits.
            self._finalizers[key] = weakref.finalize(self, _close, self.name, new.close)
        return self._built[key]

    def close(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Run the teardown of the loader; the next `get` builds the value again.

        Errors are logged: there is no call that they could be raised to.

        Args:
            loop: close only what was opened on this event loop.
        """
        with self._lock:
            keys = list(self._built) if loop is None else [loop]
            for key in keys:
                self._built.pop(key, None)
            finalizers = [self._finalizers.pop(key, None) for key in keys]
        for finalizer in finalizers:
            if finalizer is not None:
                finalizer()

    def __repr__(self) -> str:
        return f"resource({self.name})" if self.load else f"resource(value=<{self.name}>)"

    def __reduce__(self) -> tuple[Any, ...]:
        # The built value is not shipped: each process builds its own.
        value = None if self.load else self.value
        return (Resource, (self.load, value, self.files, self.turn is not None))


def _close(name: str, close: Callable[[], object]) -> None:
    try:
        close()
    except Exception:
        logger.exception("the teardown of resource %r failed", name)


def turns_of(resources: Mapping[str, Resource[Any]]) -> tuple[Turn, ...]:
    """The turns that a call with these resources takes, in the order in which all calls do."""
    turns = {id(r.turn): r.turn for r in resources.values() if r.turn is not None}
    return tuple(turns[key] for key in sorted(turns))


@overload
def resource(
    load: Callable[[], _GeneratorContextManager[T] | _AsyncGeneratorContextManager[T]],
    *,
    files: Sequence[str | PathLike[str]] = (),
    exclusive: bool = False,
) -> T: ...
@overload
def resource(
    load: Callable[[], Awaitable[T] | Iterator[T] | AsyncIterator[T]],
    *,
    files: Sequence[str | PathLike[str]] = (),
    exclusive: bool = False,
) -> T: ...
@overload
def resource(
    load: Callable[[], T],
    *,
    files: Sequence[str | PathLike[str]] = (),
    exclusive: bool = False,
) -> T: ...
@overload
def resource(*, value: T, exclusive: bool = False) -> T: ...
@entry_point
def resource(
    load: Callable[[], Any] | None = None,
    *,
    value: Any = _UNSET,
    files: Sequence[str | PathLike[str]] = (),
    exclusive: bool = False,
) -> Any:
    """Declare a keyword of a step as built once per process.

    ``def classify(image: Image, *, model: Net = resource(load_net))`` calls ``load_net()`` once in
    each process that runs the step; ``resource(value=clf)`` ships an existing object. A test passes
    its own: ``classify.fn(image, model=fake)``.

    A loader may be ``async``, and a generator: what follows its ``yield`` closes the value, when a
    replica stops or no version of the app uses it any more, and in this process when the step is
    redefined or at exit. Asynchronous loaders run on the event loop of the async steps.

    Args:
        load: takes no arguments and returns or yields the value; also a function under
            ``contextmanager`` or ``asynccontextmanager``.
        value: the value itself, instead of a loader.
        files: files that ``load`` reads. Their contents are part of the resource's digest, so that
            a redeployment loads a retrained model.
        exclusive: whether it is used by one call at a time in each process, as for a model or a
            connection that is not thread-safe. Calls that wait for their turn hold a worker.

    Raises:
        DefinitionError: not exactly one of ``load`` and ``value``, ``load`` is not callable, or
            ``files`` with a value.
    """
    if (load is None) == (value is _UNSET):
        raise DefinitionError(
            "a resource is either a loader or a value",
            where="resource",
            fix="write resource(load_model) or resource(value=model)",
        )
    if load is None and files:
        raise DefinitionError("files= requires a loader", where="resource")
    if load is not None and not callable(load):
        raise DefinitionError(
            "a loader is a callable without arguments",
            where="resource",
            got=f"{type(load).__name__}",
            fix="write resource(value=...) for an existing object",
        )
    if load is not None:
        _check_loader(load)
    paths = [files] if isinstance(files, (str, PathLike)) else files
    return Resource(load, value, paths, exclusive)


def _check_loader(load: Callable[[], Any]) -> None:
    try:
        parameters = inspect.signature(load).parameters.values()
    except (TypeError, ValueError):  # a function in C
        return
    name = getattr(load, "__name__", repr(load))
    for parameter in parameters:
        if isinstance(parameter.default, Resource):
            raise DefinitionError(
                "a loader takes no resources",
                where="resource",
                got=f"the parameter {parameter.name!r} of {name}",
                fix=f"call {parameter.default.name}() in {name}, or build both in one loader",
            )
        variable = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if parameter.default is parameter.empty and not variable:
            raise DefinitionError(
                "a loader is a callable without arguments",
                where="resource",
                got=f"the parameter {parameter.name!r} of {name}",
                fix=f"write resource(lambda: {name}(...)), or give it a default",
            )
