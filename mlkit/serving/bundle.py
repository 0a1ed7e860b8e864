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
from mlkit.define.graph import Argument, Choice, Collection, Constant, Graph, Result, Source
from mlkit.define.shipping import dumps, fingerprint
from mlkit.errors import DeployError
from mlkit.plan import Plan, RemoteStep, Segment, Stage
from mlkit.serving.sources import show_sources, sources_of

__all__ = ["Bundle", "Manifest", "Origin", "Packed", "digest_of", "pack", "unpack"]


@dataclass(frozen=True)
class Bundle:
    """What a replica is made of.

    Attributes:
        graphs: by name, with the steps' own functions in them: the front's one, or a stage's
            segments.
        codecs: declared in the process that packed it, by type.
        resources: digest of each resource, by ``node.keyword``.
        sources: text of the cells and local files that its code is from.
    """

    graphs: dict[str, Graph]
    codecs: dict[type, Any]
    resources: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)


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


def pack(plan: Plan) -> list[Packed]:
    """A planned pipeline, stage by stage, the front first.

    Raises:
        DeployError: the pipeline has problems; lists them all.
    """
    problems = check(plan.graph)
    if problems:
        raise DeployError(
            f"{len(problems)} problem{'s' * (len(problems) > 1)} in the way:\n"
            + "\n".join(f"  - {problem}" for problem in problems),
            where=f"pipeline {plan.graph.name!r}",
        )
    cut = plan.cut
    front = _pack(plan.front, {plan.graph.name: cut.front})
    return [front, *(_pack(stage, _graphs(cut.segments, stage)) for stage in plan.stages[1:])]


def _graphs(segments: tuple[Segment, ...], stage: Stage) -> dict[str, Graph]:
    return {segment.name: segment.graph for segment in segments if segment.stage == stage.name}


def _pack(stage: Stage, graphs: Mapping[str, Graph]) -> Packed:
    nodes = [node for graph in graphs.values() for node in graph]
    manifest = Manifest(
        steps={
            node.name: fingerprint([_called(node.step), _inputs(node.inputs), node.name])
            for node in nodes
        },
        resources={
            f"{node.name}.{name}": fingerprint(resource)
            for node in nodes
            for name, resource in node.step.resources.items()
        },
    )
    loaders = [r.load for node in nodes for r in node.step.resources.values() if r.load]
    sources = sources_of([*(node.step.fn for node in nodes), *loaders])
    bundle = Bundle(dict(graphs), codecs(), manifest.resources, sources)
    return Packed(stage, digest_of(*graphs.values()), dumps(bundle), manifest)


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
