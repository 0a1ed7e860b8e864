"""Resources of steps, built once per process: a model, a table, a connection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from os import PathLike, fspath
from typing import Any, Generic, TypeVar, cast, overload

from mlkit.errors import DefinitionError, entry_point

__all__ = ["Resource", "resource"]

T = TypeVar("T")
_UNSET: Any = object()


class Resource(Generic[T]):
    """A value that is built once per process and passed to steps by keyword; see `resource`."""

    def __init__(
        self, load: Callable[[], T] | None, value: T, files: Sequence[str | PathLike[str]]
    ) -> None:
        self.load = load
        self.value = value
        self.files = tuple(fspath(file) for file in files)
        self._lock = threading.Lock()
        self._built: Any = _UNSET if load is not None else value

    @property
    def name(self) -> str:
        """Name in graphs and messages: that of its loader, or of the type of its value."""
        if self.load is None:
            return type(self.value).__name__
        return getattr(self.load, "__name__", repr(self.load))

    @property
    def built(self) -> bool:
        """Whether it has been built in this process."""
        return self._built is not _UNSET

    def get(self) -> T:
        """Return the value, built on the first call; thread-safe."""
        with self._lock:
            if self._built is _UNSET:
                self._built = cast("Callable[[], T]", self.load)()
            return cast(T, self._built)

    def __repr__(self) -> str:
        return f"resource({self.name})" if self.load else f"resource(value=<{self.name}>)"

    def __reduce__(self) -> tuple[Any, ...]:
        # The built value is not shipped: each process builds its own.
        return (Resource, (self.load, None if self.load else self.value, self.files))


@overload
def resource(load: Callable[[], T], *, files: Sequence[str | PathLike[str]] = ()) -> T: ...
@overload
def resource(*, value: T) -> T: ...
@entry_point
def resource(
    load: Callable[[], T] | None = None,
    *,
    value: T = _UNSET,
    files: Sequence[str | PathLike[str]] = (),
) -> T:
    """Declare a keyword of a step as built once per process.

    ``def classify(image: Image, *, model: Net = resource(load_net))`` calls ``load_net()`` once in
    each process that runs the step; ``resource(value=clf)`` ships an existing object. A test passes
    its own: ``classify.fn(image, model=fake)``.

    Args:
        load: takes no arguments and returns the value.
        value: the value itself, instead of a loader.
        files: files that ``load`` reads. Their contents are part of the resource's digest, so that
            a redeployment loads a retrained model.

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
    paths = [files] if isinstance(files, (str, PathLike)) else files
    return cast(T, Resource(load, value, paths))
