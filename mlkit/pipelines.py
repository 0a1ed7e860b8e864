"""Pipelines: functions that call steps, traced into graphs on demand and run by `mlkit.execute`."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial, update_wrapper
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    TypeVar,
    overload,
)

from mlkit.define.check import check, varying
from mlkit.define.functions import bind_arguments, check_pipeline_function
from mlkit.define.graph import Graph, Parameter, Problem
from mlkit.define.step import BatchedStep, Step, running_step
from mlkit.define.tracing import (
    Tracer,
    current_tracer,
    misused,
    placeholders,
    to_source,
    tracing,
)
from mlkit.define.typing import iterated_type, refreshed, show
from mlkit.errors import DefinitionError, entry_point

if TYPE_CHECKING:
    from mlkit.execute import Run

__all__ = ["Pipeline", "pipeline", "require_pipeline"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Pipeline(Generic[P, R]):
    """A function that calls steps; calling it runs it in this process.

    It is traced on each call, so that a step redefined in a cell is picked up.

    Attributes:
        fn: the function itself.
        name: its name, and the path that it is served at.
        idempotent: whether a request may be run twice; see `pipeline`.
    """

    def __init__(
        self,
        fn: Callable[P, R],
        replacements: Mapping[str, Step[..., Any]] | None = None,
        *,
        idempotent: bool = True,
    ) -> None:
        check_pipeline_function(fn)
        self.idempotent = idempotent
        self.fn = fn
        self.name = fn.__name__
        self.replacements = dict(replacements or {})
        update_wrapper(self, fn)
        self.__signature__ = inspect.signature(fn)

    @property
    @entry_point
    def graph(self) -> Graph:
        """The pipeline as data; traced on each access.

        Raises:
            PlaceholderError: the body uses a step's result as a value.
            DefinitionError: it returns nothing.
        """
        hints = self._hints()
        tracer = Tracer()
        signature = inspect.signature(self.fn)
        arguments = placeholders(
            {name: hints.get(name, inspect.Parameter.empty) for name in signature.parameters},
            self.name,
        )
        try:
            with tracing(tracer), tracer.inside(self.name, self.replacements):
                returned = self.fn(**arguments)  # type: ignore[arg-type, call-arg]
        except Exception as error:
            if (explained := misused(error)) is None:
                raise
            raise explained.with_traceback(error.__traceback__) from None
        if returned is None:
            raise DefinitionError(
                "it returns nothing",
                where=f"pipeline {self.name!r}",
                fix="return the result of a step",
            )
        parameters = tuple(
            Parameter(
                name,
                hints.get(name, inspect.Parameter.empty),
                required=p.default is p.empty,
                default=None if p.default is p.empty else p.default,
            )
            for name, p in signature.parameters.items()
        )
        annotated = hints.get("return", inspect.Parameter.empty)
        items = iterated_type(annotated)
        streams = items is not inspect.Parameter.empty
        return Graph(
            self.name,
            parameters,
            tuple(tracer.nodes),
            to_source(returned),
            types.GenericAlias(list, (items,)) if streams else annotated,
            inspect.getdoc(self.fn) or "",
            items,
            self.idempotent and tracer.idempotent,
        )

    def _hints(self) -> dict[str, Any]:
        try:
            types = typing.get_type_hints(self.fn, include_extras=True)
            return {name: refreshed(type_) for name, type_ in types.items()}
        except NameError as error:
            raise DefinitionError(
                f"its annotations name something that is not defined: {error}",
                where=f"pipeline {self.name!r}",
            ) from None

    @property
    @entry_point
    def problems(self) -> tuple[Problem, ...]:
        """What blocks its deployment; it still runs in this process."""
        graph = self.graph
        return (*check(graph), *varying(graph, self.graph))

    @entry_point
    def replace(self, /, **steps: Step[..., Any]) -> Pipeline[P, R]:
        """Return a copy with other steps: ``tag.replace(classify=mine)``.

        Args:
            steps: by name of the step, or of one call of it (``decode_2``).

        Raises:
            DefinitionError: a replacement is not a step.
        """
        for name, step in steps.items():
            if not isinstance(step, Step):
                raise DefinitionError(
                    f"the replacement for {name!r} must be a step",
                    where=f"pipeline {self.name!r}",
                    got=type(step).__name__,
                    fix="decorate it with @step or @batched_step",
                )
        replacements = {**self.replacements, **steps}
        return Pipeline(self.fn, replacements, idempotent=self.idempotent)

    @entry_point
    def bind(self, /, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Bind arguments by name, with defaults.

        Raises:
            InputError: they do not match the signature.
        """
        signature = inspect.signature(self.fn)
        bound = bind_arguments(
            signature,
            args,
            kwargs,
            where=f"pipeline {self.name!r}",
            expected=f"{self.name}{signature}",
        )
        bound.apply_defaults()
        return bound.arguments

    @entry_point
    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it in this process and return its result; in a pipeline, inline its steps.

        The result of a pipeline that streams is a list of its items.
        """
        tracer = current_tracer()
        if tracer is not None:
            return self._inline(tracer, *args, **kwargs)
        return typing.cast(R, self.run(*args, **kwargs).value)

    def _inline(self, tracer: Tracer, /, *args: P.args, **kwargs: P.kwargs) -> R:
        tracer.idempotent &= self.idempotent
        with tracer.inside(self.name, self.replacements):
            return self.fn(*args, **kwargs)

    @entry_point
    def run(self, /, *args: Any, given: Mapping[str, Any] | None = None, **kwargs: Any) -> Run:
        """Run it in this process and keep value and timing of every step.

        Args:
            *args: positional arguments of the pipeline.
            **kwargs: keyword arguments of the pipeline.
            given: values of nodes by name; these nodes, and those that only they need, do not run,
                and arguments that only those need may be omitted.

        Raises:
            StepError: a step raised; ``.run`` has the values computed until then.
            InputError: the arguments do not match the signature.
        """
        from mlkit.execute import run  # late: importing mlkit does not load the executor

        self._refuse_nesting()
        return run(self.graph, self.bind, args, kwargs, dict(given or {}))

    @entry_point
    def stream(self: Pipeline[P, list[T]], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        """Run it in this process and iterate over its items as its last step yields them.

        Closing the iterator, or leaving a loop over it, closes the generator of the step.

        Raises:
            DefinitionError: it does not stream.
            StepError: a step raised.
            InputError: the arguments do not match the signature.
        """
        from mlkit.execute import stream

        self._refuse_nesting()
        return stream(self.graph, self.bind, args, kwargs)

    @entry_point
    def map(
        self,
        inputs: Iterable[Any],
        *,
        on_error: Literal["raise", "keep"] = "raise",
        progress: bool = True,
        workers: int | None = None,
    ) -> Any:
        """Run it on many inputs at full throughput, batched, with results in order.

        Args:
            inputs: dicts of arguments, a DataFrame with columns named like the parameters, or
                bare values where one parameter is required.
            on_error: "raise" stops at the first failure; "keep" returns the error as the result.
            progress: whether to show a progress bar.
            workers: threads that run steps; by default from the number of cores.

        Returns:
            a list of results, or, for a DataFrame, a DataFrame with the same index. An interrupt
            ends it early: the results of unfinished inputs are `Cancelled` errors.
        """
        from mlkit.execute import map_inputs

        self._refuse_nesting()
        return map_inputs(self.graph, inputs, on_error=on_error, progress=progress, workers=workers)

    def _refuse_nesting(self) -> None:
        if running_step.get() is not None:
            raise DefinitionError(
                f"pipeline {self.name!r} is called inside step {running_step.get()!r}",
                fix="call the pipeline in another pipeline instead, which inlines its steps",
            )

    def __repr__(self) -> str:
        try:
            hints = self._hints()
        except DefinitionError:
            hints = {}
        parameters = ", ".join(
            f"{name}: {show(hints.get(name, p.annotation))}"
            + ("" if p.default is p.empty else f" = {p.default!r}")
            for name, p in inspect.signature(self.fn).parameters.items()
        )
        returns = show(hints.get("return", inspect.Parameter.empty))
        return f"<pipeline {self.name}({parameters}) -> {returns}>"

    def __str__(self) -> str:
        return str(self.graph)

    def _repr_html_(self) -> str:
        from mlkit.views.graph import to_html

        try:
            graph = self.graph
        except (DefinitionError, NameError) as error:
            from mlkit.views.templating import render

            return render("error.html.j2", title=repr(self), message=str(error))
        return to_html(graph, self.problems)


class _Decorator(Protocol):
    @overload
    def __call__(self, fn: Callable[P, Iterator[T]], /) -> Pipeline[P, list[T]]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Pipeline[P, R]: ...


@overload
def pipeline(fn: Callable[P, Iterator[T]], /) -> Pipeline[P, list[T]]: ...
@overload
def pipeline(fn: Callable[P, R], /) -> Pipeline[P, R]: ...
@overload
def pipeline(*, idempotent: bool = ...) -> _Decorator: ...
@entry_point
def pipeline(fn: Callable[..., Any] | None = None, /, *, idempotent: bool = True) -> Any:
    """Turn a function that calls steps into a pipeline.

    ::

        @pipeline
        def tag(image: ImageSource) -> ProductTags:
            return combine(classify(decode(image)))

    The function is not run on values: it is traced with placeholders that are passed from step to
    step. Any other computation belongs in a step. It is traced here, to raise the errors of its
    body where they are written, and again on each call. A name that is not defined yet is an error
    of the call only: a later cell may define it.

    A pipeline whose last step streams is annotated ``-> Iterator[T]``. Calling it returns a list of
    the items; `Pipeline.stream` returns them as they are made.

    Args:
        fn: the function.
        idempotent: whether a served request may be run twice. If so, one whose replica died or
            whose connection was lost before it was answered is sent again. Switch it off where a
            step books, sends or counts something: ``@pipeline(idempotent=False)``. A pipeline that
            calls such a pipeline is not idempotent either.

    Raises:
        DefinitionError: not a plain function with named parameters; or its body does not match a
            step's parameters, uses a result as a value, or returns nothing.
    """
    if fn is None:
        return partial(pipeline, idempotent=idempotent)
    if isinstance(fn, (Step, BatchedStep, Pipeline)):
        raise DefinitionError("a pipeline is a plain function", got=repr(fn))
    new = Pipeline(fn, idempotent=idempotent)
    try:
        _ = new.graph
    except (NameError, DefinitionError) as error:
        reason = error if isinstance(error, NameError) else error.__context__
        if not isinstance(reason, NameError) or isinstance(reason, UnboundLocalError):
            raise
    return new


def require_pipeline(value: Any, where: str) -> Pipeline[..., Any]:
    """Return the pipeline that was passed to a public function.

    Args:
        value: what was passed.
        where: the call, for the error: ``deploy(...)``.

    Raises:
        DefinitionError: it is something else; says how to make a pipeline of it.
    """
    if isinstance(value, Pipeline):
        return value
    if isinstance(value, Step):
        parameters = ", ".join(
            f"{name}: {show(value.input_type(name))}" for name in value.parameters
        )
        returns = show(value.return_type)
        fix = (
            f"wrap it: @pipeline def tag({parameters}) -> {returns}: "
            f"return {value.name}({', '.join(value.parameters)})"
        )
    elif inspect.isfunction(value):
        fix = f"decorate {value.__name__} with @pipeline, and the functions it calls with @step"
    else:
        fix = "define one: a function under @pipeline that calls steps"
    raise DefinitionError(
        "not a pipeline", where=where, expected="a pipeline", got=_kind(value), fix=fix
    )


def _kind(value: Any) -> str:
    if isinstance(value, Step):
        return f"the step {value.name!r}"
    if inspect.isfunction(value):
        return f"the function {value.__name__!r}"
    return f"the class {value.__name__!r}" if inspect.isclass(value) else type(value).__name__
