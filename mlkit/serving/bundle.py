"""Serialization of pipelines for other processes, with digests of their parts."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlkit.define import packing
from mlkit.define.check import check, varying
from mlkit.define.classes import enter_modules
from mlkit.define.code import captured
from mlkit.define.fresh import FIXED
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
from mlkit.define.modules import Installed, functions_of, modules_of
from mlkit.define.process import changed_settings
from mlkit.define.registry import codecs, register
from mlkit.define.resource import Resource
from mlkit.define.shared import changed_state
from mlkit.define.shipping import dumps_mappable, fingerprint, importing
from mlkit.define.source import brief
from mlkit.define.step import Step
from mlkit.errors import DeployError
from mlkit.pipelines import Pipeline
from mlkit.plan import Plan, RemoteStep, Stage
from mlkit.plan import plan as planned
from mlkit.serving.http.appparts import LIFESPAN, Application, parts_of
from mlkit.serving.http.userapp import pack_application
from mlkit.serving.sources import show_sources, sources_of

__all__ = [
    "Bundle",
    "Manifest",
    "Origin",
    "Packed",
    "code_of",
    "configurable",
    "digest_of",
    "pack",
    "pack_resource",
    "pack_whole",
    "shared_state",
    "unpack",
    "unpack_resource",
]


@dataclass(frozen=True)
class Bundle:
    """The code of a replica.

    Attributes:
        graphs: graphs with their steps, by name: those of the front, or the segments of a stage.
        codecs: codecs that were declared in the packing process, by type.
        resources: digest of each resource, by ``graph.node.keyword``.
        sources: source text of notebook cells and local files.
        application: the user's own FastAPI application, pickled; only for the front.
    """

    graphs: dict[str, Graph]
    codecs: dict[type, Any]
    resources: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    application: bytes | None = None


@dataclass(frozen=True)
class Manifest:
    """Digests of a bundle's parts, to determine what an update changes.

    Attributes:
        steps: digest of each node by name.
        resources: digest of each resource by ``graph.node.keyword``.
        configuration: digest and text of what `App.update` can change, by the same name: defaults
            of parameters that no pipeline passes, and resources that are plain values.
    """

    steps: dict[str, str]
    resources: dict[str, str]
    configuration: dict[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Packed:
    """A packed stage.

    Attributes:
        stage: the stage.
        digest: digest of all of its parts.
        data: the pickled `Bundle`.
        manifest: digests of its parts.
        modules: digest of the local modules that its code imports when it runs; a process keeps
            one version of a module, so that another needs a new process.
    """

    stage: Stage
    digest: str
    data: bytes
    manifest: Manifest
    modules: str = ""


_OWN_PREFIXES = ("JPY_", "LD_", "PYTEST_", "PYTHON", "RAY_", "REPORTER_", "SPT_")
"""Prefixes of environment variables that each process has for itself.

They are Ray's, those that are read at a process's start only, and those that identify a kernel or
a running test.
"""

_OF_SESSIONS = {
    "MLKIT_LEASE_S",
    "MLKIT_PROXY_LOCATION",
    "MLKIT_RUNTIME_DIR",
    "MLKIT_SESSION",
    "MLKIT_TOKEN",
}
"""mlkit's own that say where and how a session runs; all others configure a pipeline's code."""

_OF_SKLEARN = {"KMP_DUPLICATE_LIB_OK": "True", "KMP_INIT_AT_FORK": "FALSE"}
"""What scikit-learn sets when it is imported, in replicas as well."""

_OF_SHELLS = {"_", "COLUMNS", "LINES", "OLDPWD", "PWD", "SHLVL", "TERM"}


@dataclass(frozen=True)
class Origin:
    """Environment of a pipeline's code, reproduced in its replicas.

    Attributes:
        folder: the working directory.
        search_path: ``sys.path``, for modules that are pickled by name.
        modules: digest of the local modules that code imports when it runs.
        variables: environment variables that differ from those that replicas inherit; None for one
            that is deleted. They may be secrets.
    """

    folder: str
    search_path: tuple[str, ...]
    modules: str = ""
    variables: dict[str, str | None] = field(default_factory=dict, repr=False)

    @classmethod
    def here(
        cls, packed: Sequence[Packed] = (), inherited: Mapping[str, str] | None = None
    ) -> Origin:
        """Return the origin of bundles that were packed in this process.

        Args:
            packed: the stages.
            inherited: the environment variables with which replicas start; by default, those of
                this process.
        """
        folder = str(Path.cwd())  # "" in sys.path, as in a kernel, stands for it
        modules = [stage.modules for stage in packed if stage.modules]
        search_path = tuple(dict.fromkeys(path or folder for path in sys.path))
        here = dict(os.environ)
        inherited = here if inherited is None else inherited
        variables = {
            name: here.get(name)
            for name in sorted({*here, *inherited})
            if here.get(name) != inherited.get(name)
            and not _is_own(name)
            and here.get(name) != _OF_SKLEARN.get(name, "")
        }
        return cls(folder, search_path, fingerprint(modules) if modules else "", variables)

    def enter(self) -> None:
        """Apply the origin to this process; a folder that does not exist here is skipped."""
        for name, value in self.variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if "TZ" in self.variables:
            time.tzset()
        if Path(self.folder).is_dir():
            os.chdir(self.folder)
        sys.path.extend(path for path in self.search_path if path not in sys.path)
        enter_modules()


def _is_own(variable: str) -> bool:
    return (
        variable in _OF_SHELLS
        or variable in _OF_SESSIONS
        or variable.startswith(_OWN_PREFIXES)
        # CUDA_VISIBLE_DEVICES and the like: Ray sets them by the accelerators that it assigns.
        or "_VISIBLE_" in variable
    )


def pack(
    plan: Plan,
    fastapi: Application | None = None,
    pipeline: Pipeline[..., Any] | None = None,
) -> list[Packed]:
    """Pack the stages of a planned pipeline, the front first.

    Args:
        plan: the planned pipeline.
        fastapi: the user's application for the front; pipelines that its routes depend on are
            packed with it.
        pipeline: the pipeline that was planned, to tell it from others of the same name in the
            application.

    Raises:
        DeployError: a pipeline has problems, all of which are listed, or a part of the application
            cannot be pickled.
    """
    _check(plan.graph, pipeline)
    cut = plan.cut
    fronts = {plan.graph.name: cut.front}
    application, digest, parts = None, "", []
    if fastapi is not None:
        parts = [part for _, part in parts_of(fastapi)]
        with importing(modules_of([*parts, *(n.step.fn for n in plan.graph)])):
            application, digest, pipelines = pack_application(fastapi, pipeline)
        fronts |= {n: _whole(p) for n, p in pipelines.items() if n != plan.graph.name}
    front = _pack(plan.front, fronts, application, digest, parts)
    segments: dict[str, dict[str, Graph]] = {stage.name: {} for stage in plan.stages}
    for segment in cut.segments:
        segments[segment.stage][segment.name] = segment.graph
    return [front, *(_pack(stage, segments[stage.name]) for stage in plan.stages[1:])]


def pack_whole(pipeline: Pipeline[..., Any]) -> Packed:
    """Pack a pipeline whose steps all run in one process, whatever stages it has when served.

    Raises:
        DeployError: it has problems, all of which are listed.
    """
    graph = pipeline.graph
    _check(graph, pipeline)
    return _pack(planned(pipeline).front, {graph.name: graph})


def pack_resource(resource: Resource[Any]) -> bytes:
    """Pickle a resource that takes the place of one in a bundle."""
    modules = modules_of([resource.load] if resource.load else [])
    with importing(modules):
        return dumps_mappable((Installed(modules), resource))


def unpack_resource(data: bytes | memoryview) -> Resource[Any]:
    """Unpickle a resource in a replica; large arrays and tensors in it refer to ``data``."""
    _, resource = packing.load(data)
    assert isinstance(resource, Resource)
    return resource


def shared_state(graph: Graph, fastapi: Application | None = None) -> list[str]:
    """Return a warning for all that replicas do not share with this notebook, or each other.

    Objects outside of a request that a step or a route changes, and settings of this process.
    """
    users = [(f"step {node.step.name!r}", node.step.fn) for node in graph]
    if fastapi is not None:
        users += [(name, part) for name, part in parts_of(fastapi) if name != LIFESPAN]
    state: dict[str, str] = {}
    for user, fn in users:
        for name in changed_state([fn]):
            state.setdefault(name, user)
    steps, routes = (
        {name for user in functions_of(functions) for name in captured(user)}
        for functions in ([n.step.fn for n in graph], [fn for _, fn in users[len(graph) :]])
    )
    loaders = [resource.load for resource in graph.resources.values() if resource.load is not None]
    return [
        f"{user} changes {name!r}: each replica has its own copy of {name!r}, "
        f"{'steps have another one than routes, ' if name in steps & routes else ''}and its "
        "changes reach neither other replicas nor this notebook. Return the change, or keep the "
        "state in a database or a file; for a cache of each process, use a loader: resource(dict)."
        for name, user in state.items()
    ] + [
        f"replicas do not have {setting} as this notebook has set it. In a step that needs it: "
        f"{code}"
        for setting, code in changed_settings([*(fn for _, fn in users), *loaders]).items()
    ]


def _check(graph: Graph, pipeline: Pipeline[..., Any] | None) -> None:
    problems = list(check(graph))
    if pipeline is not None:
        problems += varying(pipeline.graph, pipeline.graph)
    if problems:
        raise DeployError(
            f"{len(problems)} problem{'s' * (len(problems) > 1)} in the way:\n"
            + "\n".join(f"  - {problem}" for problem in problems),
            where=f"pipeline {graph.name!r}",
        )


def _whole(pipeline: Pipeline[..., Any]) -> Graph:
    """The graph of a further pipeline, all of which must run in the front."""
    _check(pipeline.graph, pipeline)
    stages = planned(pipeline).stages[1:]
    if stages:
        raise DeployError(
            f"its steps need stages of their own: {', '.join(stage.name for stage in stages)}",
            where=f"pipeline {pipeline.name!r}",
            fix="deploy it separately: a pipeline that an application depends on runs in the front",
        )
    return pipeline.graph


def _pack(
    stage: Stage,
    graphs: Mapping[str, Graph],
    application: bytes | None = None,
    application_digest: str = "",
    parts: Sequence[Any] = (),
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
        configuration=dict(_configuration(nodes)),
    )
    loaders = [r.load for _, node in nodes for r in node.step.resources.values() if r.load]
    functions = [
        *(node.step.fn for _, node in nodes),
        *loaders,
        *_codec_functions(),
    ]
    modules = modules_of([*functions, *parts])
    bundle = Bundle(dict(graphs), codecs(), manifest.resources, sources_of(functions), application)
    with importing(modules):
        data = dumps_mappable((Installed(modules), bundle))
    digest = digest_of(*graphs.values())
    if application_digest:
        digest = fingerprint([digest, application_digest])
    digests = {name: module.digest for name, module in modules.items()}
    return Packed(stage, digest, data, manifest, fingerprint(digests) if digests else "")


def _configuration(nodes: Sequence[tuple[str, Node]]) -> Iterator[tuple[str, tuple[str, str]]]:
    for graph, node in nodes:
        same = [other for _, other in nodes if other.step is node.step]
        for keyword, value in configurable(node.step, same).items():
            text = brief(value)
            yield f"{graph}.{node.name}.{keyword}", (fingerprint(Resource(None, value, ())), text)


def configurable(step: Step[..., Any], nodes: Iterable[Node]) -> dict[str, Any]:
    """Return the defaults of a step's parameters and its plain values, by keyword.

    Parameters of a batched step are sequences of items, and no configuration.

    Args:
        step: the step.
        nodes: its calls; what one of them passes is no configuration.
    """
    if isinstance(step, RemoteStep):
        return {}
    passed = {name for node in nodes for name in node.inputs}
    defaults = {
        name: parameter.default
        for name, parameter in step.parameters.items()
        if parameter.default is not parameter.empty
        and not step.batched
        and name not in passed
        and name not in step.changes  # each call needs a copy of its own
    }
    values = {
        name: resource.value
        for name, resource in step.resources.items()
        if resource.load is None and type(resource.value) in FIXED
    }
    return {**defaults, **values}


def _codec_functions() -> list[Any]:
    return [part for codec in codecs().values() for part in (codec.encode, codec.decode)]


def _within(name: str, node: Node, graphs: Mapping[str, Graph]) -> str:
    """Unique name of a node among all graphs: two pipelines may use the same step."""
    first = next(graph for graph in graphs.values() if node.name in graph)
    return node.name if first is graphs[name] else f"{name}.{node.name}"


def digest_of(*graphs: Graph) -> str:
    """Digest of pipelines: their structure, steps, resources and the files of those."""
    shapes = [
        [
            graph.name,
            graph.doc,
            graph.idempotent,
            [(p.name, str(p.type), p.required, p.default) for p in graph.parameters],
            [str(graph.returns), str(graph.items)],
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


def code_of(graph: Graph) -> dict[str, str]:
    """Digest of each node by name, and, by the pipeline's name, of what it takes and returns."""
    parameters = [(p.name, str(p.type), p.required, p.default) for p in graph.parameters]
    around = fingerprint([parameters, str(graph.returns), _plain(graph.output)])
    nodes = {
        node.name: fingerprint([node.step, _inputs(node.inputs), _conditions(node), node.each])
        for node in graph
    }
    return {graph.name: around, **nodes}


def _called(step: Any) -> Any:
    if isinstance(step, RemoteStep):
        return ["remote", step.stage, step.segment, list(step.takes), step.yields]
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
            plain_arms = [[repr(key), _plain(arm)] for key, arm in arms]
            return ["choice", _plain(on), plain_arms, default and _plain(default)]


def unpack(data: bytes | memoryview) -> Bundle:
    """Unpickle a bundle in a replica, and declare its codecs and sources there.

    Large arrays and tensors in it refer to ``data``.
    """
    _, bundle = packing.load(data)
    assert isinstance(bundle, Bundle)
    register(bundle.codecs)
    show_sources(bundle.sources)
    return bundle
