"""Steps: the typed functions that pipelines call."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import closing, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cached_property, update_wrapper
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, Unpack, overload

from mlkit.define.code import travels
from mlkit.define.conform import conform_to
from mlkit.define.functions import check_step_function, is_resource
from mlkit.define.loop import iterate_here, run_here
from mlkit.define.mutation import changed_parameters
from mlkit.define.options import BATCHING, BatchKeywords, StepKeywords, StepOptions
from mlkit.define.resource import Resource, turns_of
from mlkit.define.turn import Turn, in_turn
from mlkit.define.typing import item_type, iterated_type, refreshed, show, strip
from mlkit.errors import DefinitionError, did_you_mean, entry_point

__all__ = [
    "BatchedStep",
    "Step",
    "active_tracer",
    "batched_step",
    "not_awaited",
    "running_step",
    "step",
]

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")

DEFAULT_BATCH_SIZE = 8
"""Default maximum of items per call."""

running_step: ContextVar[str | None] = ContextVar("running_step", default=None)
"""Name of the step that is running in this context."""

active_tracer: ContextVar[Any] = ContextVar("active_tracer", default=None)
"""The `mlkit.define.tracing.Tracer` that records the calls of this context, or None."""


class Step(Generic[P, R]):
    """A typed function as a node of pipelines; still a function outside of them.

    Attributes:
        fn: the function itself.
        name: its name.
        is_async: whether it is a coroutine function or an async generator function.
        yields: whether it is a generator function or an async generator function.
        parameters: its inputs by name, as `inspect.Parameter`.
        resources: by keyword; built once per process.
        options: placement, resources, replicas and batching.
    """

    batched = False

    def __init__(self, fn: Callable[P, Any], **options: Unpack[BatchKeywords]) -> None:
        if isinstance(fn, Step):
            raise DefinitionError("this is already a step", where=f"step {fn.name!r}")
        check_step_function(fn)
        self.fn = fn
        self.name: str = fn.__name__
        self.options = self._checked(options)
        yields_async = inspect.isasyncgenfunction(fn)
        self.is_async = inspect.iscoroutinefunction(fn) or yields_async
        self.yields = inspect.isgeneratorfunction(fn) or yields_async
        signature = inspect.signature(fn)
        self.parameters = {
            name: p for name, p in signature.parameters.items() if not is_resource(p)
        }
        self.resources: dict[str, Resource[Any]] = {
            name: p.default for name, p in signature.parameters.items() if is_resource(p)
        }
        self._shipped_changes: frozenset[str] | None = None
        self._inputs = signature.replace(parameters=list(self.parameters.values()))
        self._signature = signature
        update_wrapper(self, fn)
        # `update_wrapper` copies annotations, which differ from the call of a batched step;
        # editors prefer `__signature__`.
        self.__signature__ = signature

    @property
    def hints(self) -> dict[str, Any]:
        """Types by parameter, and ``return``, without those that cannot be resolved."""
        try:
            if self.fn.__module__ != "__main__":
                return self._hints
            return {name: refreshed(type_) for name, type_ in self._hints.items()}
        except Exception:
            # Not cached: a later cell may define the missing names.
            return {k: v for k, v in self.fn.__annotations__.items() if not isinstance(v, str)}

    @cached_property
    def _hints(self) -> dict[str, Any]:
        return typing.get_type_hints(self.fn, include_extras=True)

    def __reduce__(self) -> str | tuple[Any, ...]:
        module = sys.modules.get(self.fn.__module__)
        if getattr(module, self.fn.__qualname__, None) is self and not travels(self.fn):
            return str(self.fn.__qualname__)  # by name, like a function of an installed module
        # Annotations as text cannot be resolved without the function's module, nor what it changes
        # without its source.
        changes = sorted(self.changes)
        return (_rebuild, (type(self), self.fn, self.options.to_dict(), self.hints, changes))

    @entry_point
    def with_options(self, **changes: Unpack[BatchKeywords]) -> Self:
        """Return a copy with other options.

        Raises:
            DefinitionError: unknown option, or invalid value.
        """
        self._checked(changes)
        changed = self.options.replace(**changes).to_dict()
        return typing.cast(Self, _rebuild(type(self), self.fn, changed, self.hints))

    def with_resources(self, resources: Mapping[str, Resource[Any]]) -> Self:
        """Return a copy with other resources, by keyword.

        A parameter with a default can get one too: calls no longer take it.
        """
        changed = object.__new__(type(self))  # not `copy.copy`: a step may pickle as its name
        changed.__dict__.update(self.__dict__)
        changed.resources = {**self.resources, **resources}
        changed.parameters = {n: p for n, p in self.parameters.items() if n not in resources}
        changed._inputs = self._inputs.replace(parameters=list(changed.parameters.values()))
        return changed

    def _checked(self, options: Mapping[str, Any]) -> StepOptions:
        batching = sorted(set(options) & set(BATCHING))
        if batching and not self.batched:
            raise DefinitionError(
                f"{', '.join(batching)} of a step that is not batched",
                where=f"step {self.name!r}",
                fix="make it a @batched_step, which takes lists",
            )
        try:
            return StepOptions.of(options)
        except DefinitionError as error:
            error.where = f"step {self.name!r}"
            raise

    def input_type(self, parameter: str) -> Any:
        """Type of an argument as a pipeline passes it, or `inspect.Parameter.empty`."""
        return self.hints.get(parameter, inspect.Parameter.empty)

    @property
    def return_type(self) -> Any:
        """Type of the result as a pipeline sees it, or `inspect.Parameter.empty`.

        The items of a step that streams are a list.
        """
        item = self.streamed_type
        if item is inspect.Parameter.empty:
            return self.hints.get("return", inspect.Parameter.empty)
        return types.GenericAlias(list, (item,))

    @property
    def changes(self) -> frozenset[str]:
        """Parameters whose values it changes in place, as its source shows.

        A call in a pipeline gets copies for them, so that no other reader of the value notices.
        """
        if self._shipped_changes is not None:
            return self._shipped_changes
        return changed_parameters(self.fn) & self.parameters.keys()

    @property
    def streams(self) -> bool:
        """Whether it makes its result item by item."""
        return self.yields or self.streamed_type is not inspect.Parameter.empty

    @property
    def streamed_type(self) -> Any:
        """Type of its items, if its result is annotated as an iterator; else empty."""
        return iterated_type(self.hints.get("return", inspect.Parameter.empty))

    @entry_point
    def check_resource(self, name: str, value: Any) -> None:
        """Check the value of a resource against the annotation of its keyword.

        Annotations other than a class are not checked.

        Raises:
            DefinitionError: it is not an instance of the class.
        """
        expected = self.hints.get(name)
        if not isinstance(expected, type) or _is_instance(value, expected):
            return
        raise DefinitionError(
            f"the resource {name!r} is of another type",
            where=f"step {self.name!r}",
            expected=show(expected),
            got=type(value).__name__,
        )

    @entry_point
    def bind(self, /, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Bind arguments by name, without the resources.

        Raises:
            DefinitionError: they do not match the signature.
        """
        passed = [name for name in kwargs if name in self.resources]
        if passed:
            raise DefinitionError(
                f"resources are not passed in a pipeline: {', '.join(passed)}",
                where=f"step {self.name!r}",
                fix=f"call {self.name}.fn(...) to pass your own, or change the step's default",
            )
        unknown = [name for name in kwargs if name not in self.parameters]
        if unknown:
            raise DefinitionError(
                f"it has no parameter {', '.join(map(repr, unknown))}",
                where=f"step {self.name!r}",
                expected=f"one of {', '.join(self.parameters)}" if self.parameters else "none",
                fix=did_you_mean(unknown[0], self.parameters),
            )
        try:
            return self._inputs.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise DefinitionError(
                f"{error}", where=f"step {self.name!r}", expected=f"{self.name}{self._inputs}"
            ) from None

    @entry_point
    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it and return its result; in a pipeline, add a node to the graph."""
        tracer = active_tracer.get()
        if tracer is not None:
            return typing.cast(R, tracer.call(self, args, kwargs))
        self._refuse_nesting()
        return typing.cast(R, self._call(*args, **kwargs))

    def _call(self, /, *args: Any, **kwargs: Any) -> Any:
        for name, resource in self.resources.items():
            if name not in kwargs:
                kwargs[name] = resource.get()
        turns = turns_of(self.resources)
        if self.streams:
            with inside(self.name):
                items = self.fn(*args, **kwargs)
            return self._iterate(iterate_here(items) if self.is_async else items, turns)
        with inside(self.name), in_turn(turns):
            result = self.fn(*args, **kwargs)
            if isinstance(result, types.CoroutineType) and not self.is_async:
                raise not_awaited(self.name, result)
            return self._conformed(run_here(result) if self.is_async else result)

    def _iterate(self, items: typing.Iterable[Any], turns: Sequence[Turn]) -> Iterator[Any]:
        """Yield items that are made in this step, rather than where they are used."""
        iterator, check = iter(items), conform_to(self.streamed_type)
        closes = closing(iterator) if isinstance(iterator, typing.Generator) else nullcontext()
        with in_turn(turns), closes:
            while True:
                with inside(self.name):
                    try:
                        item = next(iterator)
                    except StopIteration:
                        return
                yield item if check is None else check(item)

    def _conformed(self, result: Any) -> Any:
        """Return a result as its annotation has it; see `mlkit.define.conform`.

        Raises:
            DefinitionError: it does not match.
        """
        check = conform_to(self.return_type)
        return result if check is None else check(result)

    def _refuse_nesting(self) -> None:
        outer = running_step.get()
        if outer is not None:
            raise DefinitionError(
                f"step {self.name!r} is called inside step {outer!r}",
                where=f"step {outer!r}",
                fix=f"call {self.name}.fn(...) for the plain function, or make both steps of "
                "the pipeline",
            )

    def __repr__(self) -> str:
        return f"<{'batched ' if self.batched else ''}step {self.name}{self._signature}>"


class BatchedStep(Step[P, R]):
    """A step whose function takes sequences of items and returns one result per item.

    Calling it takes one item and returns one result; ``.batch([...])`` takes lists.
    """

    batched = True
    fn: Callable[..., Any]  # takes sequences, unlike the step itself

    def __init__(self, fn: Callable[..., Any], **options: Unpack[BatchKeywords]) -> None:
        super().__init__(fn, **options)
        if self.is_async:
            raise DefinitionError(
                "a batched step cannot be async",
                where=f"step {self.name!r}",
                fix="write an async @step: its calls run concurrently without a batch",
            )
        if self.yields:
            raise DefinitionError(
                "a batched step cannot stream",
                where=f"step {self.name!r}",
                fix="return one result per item, or yield the items of one request in a @step",
            )
        if not self.parameters:
            raise DefinitionError(
                "a batched step takes at least one sequence of items", where=f"step {self.name!r}"
            )
        self.max_batch_size = self.options.max_batch_size or DEFAULT_BATCH_SIZE

    def input_type(self, parameter: str) -> Any:
        """Type of one item of an argument, or `inspect.Parameter.empty`."""
        return item_type(super().input_type(parameter))

    @property
    def return_type(self) -> Any:
        """Type of the result for one item, or `inspect.Parameter.empty`."""
        return item_type(self.hints.get("return", inspect.Parameter.empty))

    @property
    def streamed_type(self) -> Any:
        """Empty: a batched step returns one result per item."""
        return inspect.Parameter.empty

    def _call(self, /, *args: Any, **kwargs: Any) -> Any:
        own = {name: kwargs.pop(name) for name in list(kwargs) if name in self.resources}
        columns = {name: [value] for name, value in self.bind(*args, **kwargs).items()}
        return self.batch(**columns, **own)[0]

    @entry_point
    def batch(self, /, *args: Any, **kwargs: Any) -> list[R]:
        """Run the function on whole sequences; return one result per item.

        Raises:
            DefinitionError: the function returned a wrong number of results.
        """
        own = {name: kwargs.pop(name) for name in list(kwargs) if name in self.resources}
        columns = self.bind(*args, **kwargs)
        for name, resource in self.resources.items():
            if name not in own:
                own[name] = resource.get()
        with inside(self.name), in_turn(turns_of(self.resources)):
            results = self.call_batch(columns, own)
        return [self._conformed(result) for result in results]

    def call_batch(
        self, columns: Mapping[str, Sequence[Any]], resources: Mapping[str, Any]
    ) -> list[Any]:
        """Call the function with one sequence per parameter, and check its results."""
        size = len(next(iter(columns.values())))
        return self.split(self.call_unchecked(columns, resources), size)

    def call_unchecked(
        self, columns: Mapping[str, Sequence[Any]], resources: Mapping[str, Any]
    ) -> Any:
        """Call the function with one sequence per parameter; see `split` for its results."""
        arguments = {name: self._column(name, items) for name, items in columns.items()}
        return self.fn(**arguments, **resources)

    def _column(self, name: str, items: Sequence[Any]) -> Any:
        """Items as the function takes them: an array if annotated as such."""
        if _is_array(super().input_type(name)):
            import numpy as np

            return np.stack([np.asarray(item) for item in items])
        return list(items)

    def split(self, results: Any, size: int) -> list[Any]:
        """Split results into one per item; arrays along axis 0.

        Raises:
            DefinitionError: not a sequence of the length of the batch.
        """
        try:
            count = len(results)
        except TypeError:
            count = -1
        # A set has no order, and iterating over a DataFrame yields column names.
        unordered = isinstance(results, (str, bytes, dict, set, frozenset))
        if unordered or hasattr(results, "itertuples"):
            count = -1
        if count != size:
            raise DefinitionError(
                "a batched step returns one result per item, in order",
                where=f"step {self.name!r}",
                expected=f"{size} result{'s' * (size != 1)}",
                got=f"{count}" if count >= 0 else type(results).__name__,
                fix="return a list or an array of the same length as the batch",
            )
        return list(results)


def _rebuild(
    cls: type[Step[..., Any]],
    fn: Callable[..., Any],
    options: dict[str, Any],
    hints: Any,
    changes: Iterable[str] | None = None,
) -> Step[..., Any]:
    step = cls(fn, **options)
    step.__dict__["_hints"] = hints
    step._shipped_changes = None if changes is None else frozenset(changes)
    return step


@contextmanager
def inside(name: str) -> Iterator[None]:
    """Mark the step as running in this context."""
    token = running_step.set(name)
    try:
        yield
    finally:
        running_step.reset(token)


def not_awaited(name: str, result: types.CoroutineType[Any, Any, Any]) -> DefinitionError:
    """Return the error of a plain step whose result is a coroutine."""
    result.close()  # Python need not warn of it as well
    return DefinitionError(
        "it returns a coroutine, which nothing awaits",
        where=f"step {name!r}",
        fix="make it `async def`; if it is, so has to be the wrapper of its decorator, which "
        "awaits the function",
    )


def _is_instance(value: Any, expected: type) -> bool:
    try:
        if isinstance(value, expected) or (expected is float and isinstance(value, int)):
            return True
    except TypeError:  # a protocol that cannot be checked
        return True
    # A class of a cell is another object in each kernel.
    path = expected.__module__, expected.__qualname__
    return any((c.__module__, c.__qualname__) == path for c in type(value).__mro__)


def _is_array(annotation: Any) -> bool:
    bare = strip(annotation)
    origin = typing.get_origin(bare) or bare
    return getattr(origin, "__module__", None) == "numpy" and origin.__name__ == "ndarray"


class _StepDecorator(typing.Protocol):
    @overload
    def __call__(self, fn: Callable[P, Awaitable[R]], /) -> Step[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, AsyncIterator[R]], /) -> Step[P, Iterator[R]]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Step[P, R]: ...
    def __call__(self, fn: Callable[..., Any], /) -> Step[..., Any]: ...


@overload
def step(fn: Callable[P, Awaitable[R]], /) -> Step[P, R]: ...
@overload
def step(fn: Callable[P, AsyncIterator[R]], /) -> Step[P, Iterator[R]]: ...
@overload
def step(fn: Callable[P, R], /) -> Step[P, R]: ...
@overload
def step(**options: Unpack[StepKeywords]) -> _StepDecorator: ...
@entry_point
def step(fn: Any = None, /, **options: Any) -> Any:
    """Turn a typed function into a step.

    It may be ``async``. Outside a pipeline it is still an ordinary function: calling it runs it
    and returns its result, also if it is async. ``.fn`` is the function itself.

    A generator function streams: the items of ``def tokens(prompt: str) -> Iterator[str]`` are sent
    as it yields them. It can be the last step of a pipeline only.

    Args:
        fn: the function.
        options: for its deployment: ``@step(stage="models", num_gpus=0.5)``. See
            `mlkit.define.options.StepOptions`.

    Raises:
        DefinitionError: not a function, ``*args`` or ``**kwargs``; or an unknown option.
    """
    return Step(fn, **options) if fn is not None else entry_point(lambda fn: Step(fn, **options))


class _BatchedDecorator(typing.Protocol):
    @overload
    def __call__(
        self, fn: Callable[Concatenate[list[A], list[B], P], Sequence[R]], /
    ) -> BatchedStep[Concatenate[A, B, P], R]: ...
    @overload
    def __call__(
        self, fn: Callable[Concatenate[list[A], P], Sequence[R]], /
    ) -> BatchedStep[Concatenate[A, P], R]: ...
    @overload
    def __call__(self, fn: Callable[..., Any], /) -> BatchedStep[..., Any]: ...
    def __call__(self, fn: Callable[..., Any], /) -> BatchedStep[..., Any]: ...


@overload
def batched_step(
    fn: Callable[Concatenate[list[A], list[B], P], Sequence[R]], /
) -> BatchedStep[Concatenate[A, B, P], R]: ...
@overload
def batched_step(
    fn: Callable[Concatenate[list[A], P], Sequence[R]], /
) -> BatchedStep[Concatenate[A, P], R]: ...
@overload
def batched_step(fn: Callable[..., Any], /) -> BatchedStep[..., Any]: ...
@overload
def batched_step(**options: Unpack[BatchKeywords]) -> _BatchedDecorator: ...
@entry_point
def batched_step(fn: Any = None, /, **options: Any) -> Any:
    """Turn a function of sequences into a step that is called per item.

    ``def classify(images: list[Image]) -> list[Label]`` is called ``classify(image)`` in a
    pipeline; items that are queued together run as a batch. Every parameter that is not a resource
    is a sequence with one entry per item: a list, or, if annotated ``np.ndarray``, an array stacked
    along axis 0. The result is a sequence of the same length, or an array, which is split along
    axis 0.

    Args:
        fn: the function.
        options: ``max_batch_size``, the maximum of items per call (8 by default),
            ``batch_wait_timeout_s``, ``split_failed_batches``, and those of `step`. See
            `mlkit.define.options.StepOptions`.

    Raises:
        DefinitionError: as for `step`; also for an async or a generator function, or a size
            below 1.
    """
    if fn is None:
        return entry_point(lambda fn: BatchedStep(fn, **options))
    return BatchedStep(fn, **options)
