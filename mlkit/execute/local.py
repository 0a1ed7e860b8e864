"""Single runs of a pipeline in this process."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from queue import SimpleQueue
from typing import Any

from mlkit.define.border import port
from mlkit.define.fresh import fresh
from mlkit.define.graph import Graph
from mlkit.define.openness import argument_check
from mlkit.define.typing import show
from mlkit.errors import DefinitionError, InputError, MissingExtra, MlkitError
from mlkit.execute.buffer import Buffer
from mlkit.execute.cores import cores
from mlkit.execute.execution import Execution
from mlkit.execute.executor import Executor
from mlkit.execute.program import Program, compile_graph
from mlkit.execute.run import Run

__all__ = ["localise_arguments", "localiser", "not_streaming", "run", "stream"]


def run(
    graph: Graph,
    bind: Callable[..., dict[str, Any]],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    given: Mapping[str, Any],
) -> Run:
    """Run a graph once in this process; see `Pipeline.run`.

    Args:
        graph: what to run.
        bind: returns the pipeline's arguments by name; raises `InputError` if they do not fit.
        args: arguments by position.
        kwargs: arguments by name.
        given: values of nodes that are not run.
    """
    _check_given(graph, given)
    program = compile_graph(graph, frozenset(given))
    local = localise_arguments(graph, _bind(bind, program, args, kwargs))
    arguments = {name: fresh(value) for name, value in local.items()}
    ended: SimpleQueue[Execution] = SimpleQueue()  # unlike an Event, it survives an interrupt
    with Executor(program, workers=min(cores(), max(1, len(program.tasks)))) as executor:
        executor.submit(arguments, ended.put, given=given)
        result = ended.get().to_run()
    if result.error is not None:
        raise result.error
    return result


def stream(
    graph: Graph,
    bind: Callable[..., dict[str, Any]],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Iterator[Any]:
    """Iterate over the items of a graph that runs in this process; see `Pipeline.stream`.

    It is started by the first `next`, and closed with the iterator.
    """
    if not graph.streams:
        raise not_streaming(graph)
    program = compile_graph(graph)
    local = localise_arguments(graph, bind(*args, **kwargs))
    return _items(program, {name: fresh(value) for name, value in local.items()})


def not_streaming(graph: Graph) -> DefinitionError:
    """Build the error for a stream of a pipeline that returns a single result."""
    return DefinitionError(
        "it does not stream",
        where=f"pipeline {graph.name!r}",
        expected="a pipeline annotated -> Iterator[T]",
        got=show(graph.returns),
        fix="call it, or yield the items in its last step",
    )


def _items(program: Program, arguments: Mapping[str, Any]) -> Iterator[Any]:
    events: SimpleQueue[Execution | None] = SimpleQueue()
    with Executor(program, workers=min(cores(), len(program.tasks))) as executor:
        buffer = Buffer(lambda: events.put(None))
        execution = executor.submit(arguments, events.put, buffer=buffer)
        ended = None
        while ended is None:
            ended = events.get()
            yield from executor.take(execution)
    if execution.error is not None:
        execution.to_run()  # attaches the computed values to the error
        raise execution.error


def localise_arguments(graph: Graph, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Convert arguments to the pipeline's types: read paths, encode pictures, validate dicts.

    Raises:
        InputError: a file does not exist, or a value cannot be converted.
    """
    return localiser(graph)(arguments)


def localiser(graph: Graph) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Return `localise_arguments` for one graph, with its converters prepared once."""
    converters = {p.name: _local(p.type, graph) for p in graph.parameters}
    defaults = {p.name: p.default for p in graph.parameters if not p.required}

    def localise(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: value
            if name in defaults and value is defaults[name]  # whatever the type says
            else _localise(graph.name, name, converters[name], value)
            for name, value in arguments.items()
        }

    return localise


def _local(type_: Any, graph: Graph) -> Callable[[Any], Any] | None:
    if type_ is inspect.Parameter.empty:
        return None
    try:
        local = port(type_).local
    except (
        DefinitionError,
        MissingExtra,
    ):  # a type that cannot be serialized still works in this process
        return None
    check = argument_check(type_, graph)
    return local if check is None else lambda value: check(local(value))


def _localise(pipeline: str, name: str, local: Callable[[Any], Any] | None, value: Any) -> Any:
    if local is None:
        return value
    where = f"argument {name!r} of pipeline {pipeline!r}"
    try:
        return local(value)
    except MlkitError as error:
        error.where = error.where or where
        raise
    except Exception as error:  # from pydantic, numpy, pandas or the file system
        raise InputError(
            f"{error}",
            where=where,
            got=f"{value!r:.100}" if isinstance(value, (str, int)) else type(value).__name__,
        ) from error


def _check_given(graph: Graph, given: Mapping[str, Any]) -> None:
    unknown = [name for name in given if name not in graph]
    if unknown:
        raise InputError(
            f"given= has values for unknown steps: {', '.join(unknown)}",
            where=f"pipeline {graph.name!r}",
            expected=f"one of {', '.join(node.name for node in graph)}",
        )


def _bind(
    bind: Callable[..., dict[str, Any]],
    program: Program,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> dict[str, Any]:
    """Bind arguments by name; those that only given nodes would read may be missing."""
    names = [p.name for p in program.graph.parameters]
    spare = {name: None for name in names[len(args) :] if name not in kwargs}
    needed = {p.name for p in program.graph.parameters if p.required} & program.arguments
    if not program.given or needed & set(spare):  # the latter raises, naming what is missing
        return bind(*args, **kwargs)
    optional = {p.name for p in program.graph.parameters if not p.required}
    bound = bind(*args, **kwargs, **{n: v for n, v in spare.items() if n not in optional})
    return {name: value for name, value in bound.items() if name in program.arguments}
