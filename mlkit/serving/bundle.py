"""A pipeline packed for another process: its graph, what it needs, and a digest of all of it."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlkit.define.border import codecs
from mlkit.define.check import check
from mlkit.define.graph import Argument, Collection, Constant, Graph, Result, Source
from mlkit.define.pipeline import Pipeline
from mlkit.define.shipping import dumps, fingerprint
from mlkit.errors import DeployError

__all__ = ["Bundle", "Origin", "digest_of", "pack", "unpack"]


@dataclass(frozen=True)
class Bundle:
    """What a replica is made of.

    Attributes:
        graph: with the steps' own functions in it.
        codecs: declared in the process that packed it, by type.
    """

    graph: Graph
    codecs: dict[type, Any]


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


def pack(pipeline: Pipeline[..., Any]) -> tuple[Graph, bytes, str]:
    """Graph, pickled bundle and digest of a pipeline.

    Raises:
        DeployError: the pipeline has problems; lists them all.
    """
    graph = pipeline.graph
    problems = check(graph)
    if problems:
        raise DeployError(
            f"{len(problems)} problem{'s' * (len(problems) > 1)} in the way:\n"
            + "\n".join(f"  - {problem}" for problem in problems),
            where=f"pipeline {pipeline.name!r}",
        )
    return graph, dumps(Bundle(graph, codecs())), digest_of(graph)


def digest_of(graph: Graph) -> str:
    """Changes when the pipeline, a step, a resource or one of its files does."""
    shape = [
        graph.name,
        graph.doc,
        [(p.name, str(p.type), p.required, p.default) for p in graph.parameters],
        str(graph.returns),
        [(node.name, {k: _plain(s) for k, s in node.inputs.items()}) for node in graph],
        _plain(graph.output),
    ]
    steps = [node.step for node in graph]
    resources = [(node.name, node.step.resources) for node in graph]
    types = [p.type for p in graph.parameters if isinstance(p.type, type)]
    return fingerprint([shape, steps, resources, types, list(codecs().items()), str(Path.cwd())])


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


def unpack(data: bytes) -> Bundle:
    """The bundle again, in a replica; its codecs are declared there."""
    import pickle

    from mlkit.define.border import codec

    bundle = pickle.loads(data)
    assert isinstance(bundle, Bundle)
    for type_, (encode, decode) in bundle.codecs.items():
        codec(type_, encode=encode, decode=decode)
    return bundle
