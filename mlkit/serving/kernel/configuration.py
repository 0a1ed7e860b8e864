"""Configuration of steps in a deployed app, for `App.update` and `App.configuration`.

This covers defaults of parameters that the pipeline does not pass, and resources
that are plain values: numbers, text, bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mlkit.define.graph import Graph
from mlkit.define.resource import Resource
from mlkit.define.step import Step
from mlkit.define.strict import strict_validator
from mlkit.define.typing import show
from mlkit.errors import DefinitionError, DeployError, did_you_mean
from mlkit.serving.bundle import configurable, unpack_resource
from mlkit.serving.control.records import AppSpec, Replacement
from mlkit.serving.kernel.swap import keys_of, replacement_of

__all__ = ["configuration", "updates"]


def configuration(graph: Graph, spec: AppSpec, load: Callable[[str], bytes]) -> dict[str, Any]:
    """Return the present values by ``step.keyword``.

    Args:
        graph: the graph of the deployed pipeline.
        spec: its specification.
        load: returns an object of the session's store.
    """
    steps, values = _steps(graph), _defaults(graph)
    for name in values:
        step, _, keyword = name.partition(".")
        for key in keys_of(graph, spec, steps[step], keyword):
            if key in spec.replacements:
                values[name] = unpack_resource(load(spec.replacements[key].object)).value
                break
    return values


def updates(
    graph: Graph, spec: AppSpec, values: Mapping[str, Any], store: Callable[[bytes], str]
) -> dict[str, Replacement]:
    """Return what takes the place of the values of steps, by ``graph.node.keyword``.

    Args:
        graph: the graph of the deployed pipeline.
        spec: its specification.
        values: new values by keyword, or by ``step.keyword``.
        store: stores an object and returns its key.

    Raises:
        DeployError: there is no such keyword, several steps have it, or nothing is given.
        DefinitionError: a value is not of the annotated type.
    """
    if not values:
        raise _refused(graph, "no values", list(_defaults(graph)))
    steps = _steps(graph)
    changed: dict[str, Replacement] = {}
    for key, value in values.items():
        name = _full_name(graph, key)
        step, _, keyword = name.partition(".")
        resource: Resource[Any] = Resource(None, _checked(steps[step], keyword, value), ())
        keys = list(keys_of(graph, spec, steps[step], keyword))
        if not keys:
            raise _refused(graph, f"a pipeline of the app passes {name!r} itself", [])
        changed |= dict.fromkeys(keys, replacement_of(resource, store))
    return changed


def _steps(graph: Graph) -> dict[str, Step[..., Any]]:
    return {node.step.name: node.step for node in graph}


def _defaults(graph: Graph) -> dict[str, Any]:
    """Values as they are defined, by ``step.keyword``."""
    return {
        f"{name}.{keyword}": value
        for name, step in _steps(graph).items()
        for keyword, value in configurable(
            step, [node for node in graph if node.step.name == name]
        ).items()
    }


def _full_name(graph: Graph, keyword: str) -> str:
    known = _defaults(graph)
    if keyword in known:
        return keyword
    matches = [name for name in known if name.partition(".")[2] == keyword]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise _refused(
            graph,
            f"several steps have {keyword!r}",
            matches,
            f"name the step: app.update({{{matches[0]!r}: ...}})",
        )
    keywords = {name.partition(".")[2]: name for name in known} | {name: name for name in known}
    what = f"no step has {keyword!r} with a default that the pipeline does not pass"
    raise _refused(graph, what, list(known), did_you_mean(keyword, keywords))


def _checked(step: Step[..., Any], keyword: str, value: Any) -> Any:
    annotation = step.hints.get(keyword)
    validate = None if annotation is None else strict_validator(annotation)
    if validate is None:
        return value
    problem, checked = validate(value)
    if problem:
        raise DefinitionError(
            f"the value of {keyword!r} does not match its annotation: {problem}",
            where=f"step {step.name!r}",
            expected=show(annotation),
            got=f"{value!r:.80}",
        )
    return checked


def _refused(graph: Graph, what: str, known: list[str], fix: str | None = None) -> DeployError:
    expected = f"one of {', '.join(known)}" if known else None
    return DeployError(what, where=f"app {graph.name!r}", expected=expected, fix=fix)
