"""A pipeline packed for other processes: graphs, what they need, and digests of all of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlkit.define.border import codecs
from mlkit.define.check import check
from mlkit.define.graph import (
    Argument,
    Choice,
    Collection,
    Constant,
    Graph,
    Node,
    Result,
    Source,
)
from mlkit.define.shipping import dumps, fingerprint
from mlkit.errors import DeployError
from mlkit.pipelines import Pipeline
from mlkit.plan import Plan, RemoteStep, Segment, Stage
from mlkit.plan import plan as planned
from mlkit.serving.http.userapp import Application, pack_application
from mlkit.serving.sources import show_sources, sources_of

__all__ = ["Bundle", "Manifest", "Origin", "Packed", "digest_of", "pack", "unpack"]


@dataclass(frozen=True)
class Bundle:
    """What a replica is made of.

    Attributes:
        graphs: by name, with the steps' own functions in them: the front's one, or a stage's
            segments.
        codecs: declared in the process that packed it, by type.
        resources: digest of each resource, by ``graph.node.keyword``.
        sources: text of the cells and local files that its code is from.
        application: the user's own FastAPI application, pickled; for the front, where there is one.
    """

    graphs: dict[str, Graph]
    codecs: dict[type, Any]
    resources: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    application: bytes | None = None


@dataclass(frozen=True)
class Manifest:
    """What a bundle holds, by digest: to tell what changed from one to the next.

    Attributes:
        steps: digest of each node by its name.
        resources: digest of each resource by ``node.keyword``.
    """

    steps: dict[str, str]
    resources: dict[str, str]


@dataclass(frozen=True)
class Packed:
    """A stage ready to be sent.

    Attributes:
        digest: changes when anything of it does.
        data: the pickled `Bundle`.
    """

    stage: Stage
    digest: str
    data: bytes
    manifest: Manifest


@dataclass(frozen=True)
class Origin:
    """Where a pipeline was written, so that relative paths and imports mean the same elsewhere.

    Attributes:
        folder: the working directory.
        search_path: ``sys.path``, for modules that travel by name.
    """

    folder: str
    search_path: tuple[str, ...]

    @classmethod
    def here(cls) -> Origin:
        """Return this process's own."""
        return cls(str(Path.cwd()), tuple(path for path in sys.path if path))

    def enter(self) -> None:
        """Make this process see what the origin saw; a folder that is not here is passed over."""
        if Path(self.folder).is_dir():
            os.chdir(self.folder)
        sys.path.extend(path for path in self.search_path if path not in sys.path)


def pack(plan: Plan, fastapi: Application | None = None) -> list[Packed]:
    """A planned pipeline, stage by stage, the front first.

    Args:
        plan: what to pack.
        fastapi: an application of the user's for the front; pipelines that its routes ask for go
            with it.

    Raises:
        DeployError: a pipeline has problems, all of which are listed; or something of the
            application cannot be sent.
    """
    _check(plan.graph)
    cut = plan.cut
    fronts = {plan.graph.name: cut.front}
    application, digest = None, ""
    if fastapi is not None:
        application, digest, pipelines = pack_application(fastapi)
        fronts |= {n: _whole(p) for n, p in pipelines.items() if n != plan.graph.name}
    front = _pack(plan.front, fronts, application, digest)
    return [front, *(_pack(stage, _graphs(cut.segments, stage)) for stage in plan.stages[1:])]


def _check(graph: Graph) -> None:
    problems = check(graph)
    if problems:
        raise DeployError(
            f"{len(problems)} problem{'s' * (len(problems) > 1)} in the way:\n"
            + "\n".join(f"  - {problem}" for problem in problems),
            where=f"pipeline {graph.name!r}",
        )


def _whole(pipeline: Pipeline[..., Any]) -> Graph:
    """The graph of a pipeline that runs beside another one in the front."""
    _check(pipeline.graph)
    stages = planned(pipeline).stages[1:]
    if stages:
        raise DeployError(
            f"its steps ask for stages of their own: {', '.join(stage.name for stage in stages)}",
            where=f"pipeline {pipeline.name!r}",
            fix="deploy it by itself; what goes with another pipeline's application runs in front",
        )
    return pipeline.graph


def _graphs(segments: tuple[Segment, ...], stage: Stage) -> dict[str, Graph]:
    return {segment.name: segment.graph for segment in segments if segment.stage == stage.name}


def _pack(
    stage: Stage,
    graphs: Mapping[str, Graph],
    application: bytes | None = None,
    application_digest: str = "",
) -> Packed:
    nodes = [(name, node) for name, graph in graphs.items() for node in graph]
    steps = {
        _within(name, node, graphs): fingerprint(
            [_called(node.step), _inputs(node.inputs), node.name]
        )
        for name, node in nodes
    }
    manifest = Manifest(
        steps=steps | ({"fastapi": application_digest} if application_digest else {}),
        resources={
            f"{graph}.{node.name}.{name}": fingerprint(resource)
            for graph, node in nodes
            for name, resource in node.step.resources.items()
        },
    )
    loaders = [r.load for _, node in nodes for r in node.step.resources.values() if r.load]
    sources = sources_of([*(node.step.fn for _, node in nodes), *loaders])
    bundle = Bundle(dict(graphs), codecs(), manifest.resources, sources, application)
    digest = digest_of(*graphs.values())
    if application_digest:
        digest = fingerprint([digest, application_digest])
    return Packed(stage, digest, dumps(bundle), manifest)


def _within(name: str, node: Node, graphs: Mapping[str, Graph]) -> str:
    """Name of a node among those of all graphs: two pipelines may use the same step."""
    first = next(graph for graph in graphs.values() if node.name in graph)
    return node.name if first is graphs[name] else f"{name}.{node.name}"


def digest_of(*graphs: Graph) -> str:
    """Changes when a pipeline, a step, a resource or one of its files does."""
    shapes = [
        [
            graph.name,
            graph.doc,
            [(p.name, str(p.type), p.required, p.default) for p in graph.parameters],
            str(graph.returns),
            [(node.name, _inputs(node.inputs), _conditions(node), node.each) for node in graph],
            _plain(graph.output),
        ]
        for graph in graphs
    ]
    nodes = [node for graph in graphs for node in graph]
    steps = [_called(node.step) for node in nodes]
    resources = [(node.name, node.step.resources) for node in nodes]
    types = [p.type for graph in graphs for p in graph.parameters if isinstance(p.type, type)]
    return fingerprint([shapes, steps, resources, types, list(codecs().items()), str(Path.cwd())])


def _called(step: Any) -> Any:
    if isinstance(step, RemoteStep):
        return ["remote", step.stage, step.segment, list(step.takes)]
    return step


def _inputs(inputs: Mapping[str, Source]) -> dict[str, Any]:
    return {name: _plain(source) for name, source in inputs.items()}


def _conditions(node: Any) -> list[Any]:
    return [[_plain(c.on), list(map(repr, c.keys)), c.negated] for c in node.when]


def _plain(source: Source) -> Any:
    match source:
        case Constant(value):
            return ["constant", value]
        case Argument(name, path):
            return ["argument", name, list(path)]
        case Result(node, path):
            return ["result", node, list(path)]
        case Collection(kind, items, keys):
            return [kind.__name__, [_plain(item) for item in items], list(map(repr, keys))]
        case Choice(on, arms, default):
            chosen = [[repr(key), _plain(arm)] for key, arm in arms]
            return ["choice", _plain(on), chosen, default and _plain(default)]


def unpack(data: bytes) -> Bundle:
    """The bundle again, in a replica; its codecs are declared there."""
    import pickle

    from mlkit.define.border import codec

    bundle = pickle.loads(data)
    assert isinstance(bundle, Bundle)
    for type_, (encode, decode) in bundle.codecs.items():
        codec(type_, encode=encode, decode=decode)
    show_sources(bundle.sources)
    return bundle
