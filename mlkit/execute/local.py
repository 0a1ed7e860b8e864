"""Running a pipeline here, once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Any

from mlkit.define.border import port
from mlkit.define.graph import Graph
from mlkit.errors import DefinitionError, InputError, MlkitError
from mlkit.execute.cores import cores
from mlkit.execute.execution import Execution
from mlkit.execute.executor import Executor
from mlkit.execute.program import Program, compile_graph
from mlkit.execute.run import Run

__all__ = ["localise_arguments", "localiser", "run"]


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
    arguments = _bind(bind, program, args, kwargs)
    arguments = localise_arguments(graph, arguments)
    ended: SimpleQueue[Execution] = SimpleQueue()  # unlike an event, an interrupt leaves it whole
    with Executor(program, workers=min(cores(), max(1, len(program.tasks)))) as executor:
        executor.submit(arguments, ended.put, given=given)
        result = ended.get().to_run()
    if result.error is not None:
        raise result.error
    return result


def localise_arguments(graph: Graph, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as the pipeline wants them: paths read, pictures encoded, dicts validated.

    Raises:
        InputError: a file that is not there, or a value that is none of what is taken.
    """
    return localiser(graph)(arguments)


def localiser(graph: Graph) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """`localise_arguments` for many inputs: what depends on the graph alone is worked out once."""
    ways = {p.name: _local(p.type) for p in graph.parameters}

    def localise(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {name: _localise(graph.name, name, ways[name], v) for name, v in arguments.items()}

    return localise


def _local(type_: Any) -> Callable[[Any], Any] | None:
    if type_ is inspect.Parameter.empty:
        return None
    try:
        return port(type_).local
    except DefinitionError:  # a type that cannot travel still runs here
        return None


def _localise(pipeline: str, name: str, local: Callable[[Any], Any] | None, value: Any) -> Any:
    if local is None:
        return value
    where = f"argument {name!r} of pipeline {pipeline!r}"
    try:
        return local(value)
    except MlkitError as error:
        error.where = error.where or where
        raise
    except Exception as error:  # of pydantic, numpy, pandas or the file system
        raise InputError(
            f"{error}",
            where=where,
            got=f"{value!r:.100}" if isinstance(value, (str, int)) else type(value).__name__,
        ) from error


def _check_given(graph: Graph, given: Mapping[str, Any]) -> None:
    unknown = [name for name in given if name not in graph]
    if unknown:
        raise InputError(
            f"there is no step {', '.join(unknown)} to give a value for",
            where=f"pipeline {graph.name!r}",
            expected=f"one of {', '.join(node.name for node in graph)}",
        )


def _bind(
    bind: Callable[..., dict[str, Any]],
    program: Program,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> dict[str, Any]:
    """Arguments by name; those that nothing reads any more may be missing."""
    if not program.given:
        return bind(*args, **kwargs)
    names = [p.name for p in program.graph.parameters]
    spare = {name: None for name in names[len(args) :] if name not in kwargs}
    needed = {p.name for p in program.graph.parameters if p.required} & program.arguments
    missing = needed & set(spare)
    if missing:
        return bind(*args, **kwargs)  # raises, naming what is missing
    optional = {p.name for p in program.graph.parameters if not p.required}
    bound = bind(*args, **kwargs, **{n: v for n, v in spare.items() if n not in optional})
    return {name: value for name, value in bound.items() if name in program.arguments}
