"""New resources for the steps of a deployed app, for `App.swap`."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

from mlkit.define.fresh import FIXED
from mlkit.define.graph import Graph
from mlkit.define.resource import Resource
from mlkit.define.shipping import fingerprint
from mlkit.define.source import brief
from mlkit.define.step import Step
from mlkit.errors import DefinitionError, DeployError, did_you_mean
from mlkit.serving.bundle import Manifest, pack_resource
from mlkit.serving.control.records import AppSpec, Replacement

__all__ = ["check_shares", "keys_of", "replacement_of", "replacements"]


def replacements(
    graph: Graph, spec: AppSpec, name: str, new: Any, store: Callable[[bytes], str]
) -> dict[str, Replacement]:
    """Return the replacements of a step's resource, by ``graph.node.keyword``.

    Args:
        graph: the graph of the deployed pipeline.
        spec: its specification.
        name: name of the step, or ``step.keyword``.
        new: a resource, a loader, or a value.
        store: stores an object and returns its key.

    Raises:
        DeployError: there is no such step or resource.
        DefinitionError: the value is of another type than the step declares.
    """
    step, keyword = _resource_of(graph, name)
    resource = _as_resource(new, step.resources[keyword])
    if resource.load is None:
        step.check_resource(keyword, resource.value)
    replacement = replacement_of(resource, store)
    return dict.fromkeys(keys_of(graph, spec, step, keyword), replacement)


def replacement_of(resource: Resource[Any], store: Callable[[bytes], str]) -> Replacement:
    """Store a resource that takes the place of another one."""
    is_plain = resource.load is None and type(resource.value) in FIXED
    return Replacement(
        digest=fingerprint(resource),
        object=store(pack_resource(resource)),
        text=brief(resource.value) if is_plain else "",
    )


def _resource_of(graph: Graph, name: str) -> tuple[Step[..., Any], str]:
    steps = {node.step.name: node.step for node in graph}
    step_name, _, keyword = name.partition(".")
    step = steps.get(step_name)
    if step is None:
        raise DeployError(
            f"there is no step {step_name!r}",
            where=f"app {graph.name!r}",
            expected=f"one of {', '.join(steps)}",
            fix=did_you_mean(step_name, steps),
        )
    if not step.resources:
        having = [f"{each.name}.{key}" for each in steps.values() for key in each.resources]
        raise DeployError(
            f"step {step_name!r} has no resource to swap",
            where=f"app {graph.name!r}",
            expected=f"one of {', '.join(having)}" if having else "no step of the app has one",
        )
    if keyword in step.resources:
        return step, keyword
    choices = [f"{step_name}.{key}" for key in step.resources]
    if keyword or len(choices) > 1:
        raise DeployError(
            f"step {step_name!r} has no resource {keyword!r}"
            if keyword
            else f"step {step_name!r} has several resources",
            where=f"app {graph.name!r}",
            expected=f"one of {', '.join(choices)}",
            fix=f"app.swap({choices[0]!r}, ...)",
        )
    return step, next(iter(step.resources))


def _as_resource(new: Any, old: Resource[Any]) -> Resource[Any]:
    """A function or class is a loader; anything else, callable or not, a value."""
    if isinstance(new, Resource):
        return new
    exclusive = old.turn is not None
    if inspect.isroutine(new) or isinstance(new, (type, functools.partial)):
        return Resource(new, None, (), exclusive)
    return Resource(None, new, (), exclusive)


def keys_of(graph: Graph, spec: AppSpec, step: Step[..., Any], keyword: str) -> Iterator[str]:
    """Keys of a step's resource, or default, in all graphs, those of further pipelines included."""
    front, *others = (_digests(stage.manifest) for stage in spec.stages)
    own = {f"{node.name}.{keyword}" for node in graph if node.step.name == step.name}
    digests = {front.get(f"{graph.name}.{key}") for key in own}
    digests |= {digest for each in others for key, digest in each.items() if _tail(key) in own}
    called = re.compile(rf"{re.escape(step.name)}(_\d+)?\.{re.escape(keyword)}")
    for resources in (front, *others):
        for key, digest in resources.items():
            if digest in digests and called.fullmatch(_tail(key)):
                yield key


def _digests(manifest: Manifest) -> dict[str, str]:
    defaults = {key: digest for key, (digest, _) in manifest.configuration.items()}
    return {**defaults, **manifest.resources}


def _tail(key: str) -> str:
    return key.partition(".")[2]


def check_shares(**shares: Any) -> None:
    """Check shares of requests.

    Raises:
        DefinitionError: one is not a number between 0 and 1.
    """
    for name, share in shares.items():
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
            raise DefinitionError(
                f"{name} is a share of the requests",
                where="app.swap(...)",
                expected="a number between 0 and 1",
                got=repr(share),
            )
