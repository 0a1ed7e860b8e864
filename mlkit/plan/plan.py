"""Which steps share a process, with what, and why: settled before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from mlkit.define.graph import Graph, Node
from mlkit.define.options import StepOptions
from mlkit.errors import DefinitionError
from mlkit.pipelines import Pipeline
from mlkit.plan.cut import Cut, cut
from mlkit.plan.profile import Profile

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FRONT_CPUS", "STAGE_CPUS", "Layout", "Plan", "Stage", "plan"]

Layout = Literal["fused", "per_step"]

FRONT_CPUS = 0.25
"""CPUs that Ray sets aside for a replica of the front where nobody says otherwise.

It is a share for placing, not a limit: several pipelines, and the replacement of each while it is
being updated, have to find room on a small machine.
"""

STAGE_CPUS = 0.1
"""CPUs that Ray sets aside for a replica of a stage where nobody says otherwise."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Nodes that share one Serve deployment.

    Attributes:
        name: of the stage; the pipeline's for the front, which answers HTTP.
        nodes: what runs there.
        front: whether requests come in here.
        why: why it is a stage of its own.
        num_replicas: processes; None where ``autoscaling_config`` says how many.
        autoscaling_config: Serve's, or None.
        ray_actor_options: of one replica, by Ray's names; those of its steps added up.
        options: further deployment options by Serve's names.
        max_batch_size: of each batched node, by name.
    """

    name: str
    nodes: tuple[str, ...]
    front: bool
    why: str
    num_replicas: int | None = 1
    autoscaling_config: Mapping[str, Any] | None = None
    ray_actor_options: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    max_batch_size: Mapping[str, int] = field(default_factory=dict)

    @property
    def num_cpus(self) -> float:
        """CPUs that Ray sets aside for one replica."""
        return float(self.ray_actor_options.get("num_cpus", 0))

    @property
    def num_gpus(self) -> float:
        """GPUs that Ray sets aside for one replica."""
        return float(self.ray_actor_options.get("num_gpus", 0))

    @property
    def replicas(self) -> str:
        """How many replicas, in words."""
        if self.autoscaling_config is None:
            return str(self.num_replicas)
        least = self.autoscaling_config.get("min_replicas", 1)
        return f"{least}–{self.autoscaling_config.get('max_replicas', 1)}"

    @property
    def least_replicas(self) -> int:
        """Replicas that there are at least."""
        if self.autoscaling_config is None:
            return self.num_replicas or 1
        return int(self.autoscaling_config.get("min_replicas", 1))

    def serve_options(self) -> dict[str, Any]:
        """Everything for Serve's deployment, by Serve's names."""
        made: dict[str, Any] = {"ray_actor_options": dict(self.ray_actor_options), **self.options}
        if self.autoscaling_config is not None:
            made["autoscaling_config"] = dict(self.autoscaling_config)
        else:
            made["num_replicas"] = self.num_replicas
        return made


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A graph divided into stages, shown before anything starts.

    Attributes:
        graph: with the options in its steps.
        layout: what was asked for.
        stages: the front first, the others in the order in which requests come to them.
    """

    graph: Graph
    layout: Layout
    stages: tuple[Stage, ...]

    @cached_property
    def cut(self) -> Cut:
        """The graph cut along its stages."""
        return cut(self.graph, {n: s.name for s in self.stages if not s.front for n in s.nodes})

    @property
    def front(self) -> Stage:
        """The stage that answers HTTP."""
        return self.stages[0]

    @property
    def hops(self) -> int:
        """Calls from one process to another that a request makes at most."""
        return len(self.cut.segments)

    @property
    def num_cpus(self) -> float:
        """CPUs that Ray sets aside when every stage has its least replicas."""
        return round(sum(s.num_cpus * s.least_replicas for s in self.stages), 4)

    def __getitem__(self, name: str) -> Stage:
        """The stage of that name, or the one that a node of that name runs in."""
        for stage in self.stages:
            if stage.name == name or name in stage.nodes:
                return stage
        names = ", ".join(stage.name for stage in self.stages)
        raise KeyError(f"no stage or step {name!r}; there are the stages {names}")

    def to_frame(self) -> pd.DataFrame:
        """A row for each stage."""
        import pandas as pd

        rows = [
            {
                "stage": stage.name,
                "steps": ", ".join(stage.nodes),
                "replicas": stage.replicas,
                "num_cpus": stage.num_cpus,
                "num_gpus": stage.num_gpus,
                "max_batch_size": ", ".join(f"{n} {s}" for n, s in stage.max_batch_size.items()),
                "why": stage.why,
            }
            for stage in self.stages
        ]
        return pd.DataFrame(rows).set_index("stage")

    def __repr__(self) -> str:
        stages = f"{len(self.stages)} stage{'s' * (len(self.stages) > 1)}"
        return f"<plan of {self.graph.name}: {stages}, {self.layout}>"

    def __str__(self) -> str:
        from mlkit.views.plan import to_text

        return to_text(self)

    def _repr_html_(self) -> str:
        from mlkit.views.plan import to_html

        return to_html(self)


def plan(
    pipeline: Pipeline[..., Any] | Graph,
    *,
    layout: Layout = "fused",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    profile: Profile | None = None,
    num_replicas: int | None = None,
    autoscaling_config: Mapping[str, Any] | None = None,
    ray_actor_options: Mapping[str, Any] | None = None,
) -> Plan:
    """Divide a pipeline into stages.

    Steps run in the process that answers HTTP unless something asks for a stage of their own: a
    name (``stage="models"``, shared by all steps that give it), ``num_gpus``, replicas or an
    ``autoscaling_config`` of their own, or ``layout="per_step"``, which splits off every step.

    Args:
        pipeline: what to divide.
        layout: "fused" splits off what asks for it, "per_step" everything.
        options: what to change of steps' options, by the name of the step or of its node.
        profile: measured times; batches are as large as it finds worth it, where neither a step
            nor ``options`` say how large.
        num_replicas: processes of the front.
        autoscaling_config: of the front, instead of ``num_replicas``.
        ray_actor_options: of a replica of the front.

    Raises:
        DefinitionError: no such layout, step or option, or options that do not go together.
    """
    graph = pipeline if isinstance(pipeline, Graph) else pipeline.graph
    if layout not in ("fused", "per_step"):
        raise DefinitionError(
            "there is no such layout",
            where="plan",
            expected="'fused' or 'per_step'",
            got=repr(layout),
        )
    graph = _with_options(graph, options or {})
    if profile is not None:
        graph = _with_limits(graph, profile.limits)
    names = {node.name: _stage_name(node, graph.name, layout) for node in graph}
    wanted = StepOptions().replace(
        num_replicas=num_replicas,
        autoscaling_config=autoscaling_config,
        ray_actor_options=dict(ray_actor_options or {}),
    )
    front = _stage(graph, None, [n for n in graph if names[n.name] is None], wanted)
    others = [
        _stage(graph, name, [n for n in graph if names[n.name] == name], StepOptions())
        for name in dict.fromkeys(names.values())
        if name is not None
    ]
    return Plan(graph=graph, layout=layout, stages=(front, *others))


def _with_options(graph: Graph, options: Mapping[str, Mapping[str, Any]]) -> Graph:
    known = {node.name for node in graph} | {node.step.name for node in graph}
    unknown = sorted(set(options) - known)
    if unknown:
        raise DefinitionError(
            f"options for {', '.join(map(repr, unknown))}, which is no step",
            where=f"pipeline {graph.name!r}",
            expected=f"one of {', '.join(sorted(known))}",
        )

    def changed(node: Node) -> Node:
        changes = {**options.get(node.step.name, {}), **options.get(node.name, {})}
        return replace(node, step=node.step.with_options(**changes)) if changes else node

    return replace(graph, nodes=tuple(changed(node) for node in graph))


def _with_limits(graph: Graph, limits: Mapping[str, int]) -> Graph:
    def limited(node: Node) -> Node:
        if node.name not in limits or node.step.options.max_batch_size is not None:
            return node
        return replace(node, step=node.step.with_options(max_batch_size=limits[node.name]))

    return replace(graph, nodes=tuple(limited(node) for node in graph))


def _stage_name(node: Node, pipeline: str, layout: Layout) -> str | None:
    """The stage that a node is split off to; None where it stays in front."""
    options = node.step.options
    if options.stage == pipeline:
        return None
    if options.stage is not None:
        return options.stage
    return node.name if layout == "per_step" or _own_reason(options) else None


def _own_reason(options: StepOptions) -> str | None:
    """What in its options asks for a stage of its own."""
    if options.autoscaling_config is not None:
        return "scales by itself"
    if options.num_replicas not in (None, 1):
        return f"{options.num_replicas} replicas of its own"
    if options.ray_actor_options.get("num_gpus"):
        return f"num_gpus={options.ray_actor_options['num_gpus']:g}"
    return None


def _stage(graph: Graph, name: str | None, nodes: list[Node], base: StepOptions) -> Stage:
    """One stage: what its steps ask for, put together."""
    where = name or graph.name
    asked = [base, *(node.step.options for node in nodes)]
    scaling = _agreed(where, "autoscaling_config", asked)
    count = _agreed(where, "num_replicas", asked)
    if scaling is not None and count is not None:
        raise DefinitionError(
            "num_replicas and autoscaling_config exclude each other",
            where=f"stage {where!r}",
            fix="give one of them, to one of the steps that share the stage",
        )
    default = FRONT_CPUS if name is None else STAGE_CPUS
    return Stage(
        name=where,
        nodes=tuple(node.name for node in nodes),
        front=name is None,
        why=_why(name, nodes),
        num_replicas=None if scaling is not None else count or 1,
        autoscaling_config=scaling,
        ray_actor_options=_added(where, asked, default),
        options={
            key: value
            for key in _SERVE_OPTIONS
            if (value := _agreed(where, key, asked)) is not None
        },
        max_batch_size={
            node.name: size for node in nodes if (size := getattr(node.step, "max_batch_size", 0))
        },
    )


_SERVE_OPTIONS = (
    "max_ongoing_requests",
    "max_queued_requests",
    "graceful_shutdown_timeout_s",
    "health_check_period_s",
    "health_check_timeout_s",
    "max_replicas_per_node",
)


def _why(name: str | None, nodes: list[Node]) -> str:
    if name is None:
        return "answers HTTP" if nodes else "answers HTTP, and calls the others"
    if any(node.step.options.stage == name for node in nodes):
        return f"stage={name!r}"
    return _own_reason(nodes[0].step.options) or "layout='per_step'"


def _agreed(where: str, key: str, asked: list[StepOptions]) -> Any:
    """What those who say something of an option all say."""
    said = [value for one in asked if (value := getattr(one, key)) is not None]
    if any(value != said[0] for value in said):
        raise DefinitionError(
            f"steps that share a stage ask for different {key}",
            where=f"stage {where!r}",
            got=" and ".join(dict.fromkeys(map(repr, said))),
            fix="give it to one of them, or give them different stages",
        )
    return said[0] if said else None


def _added(where: str, asked: list[StepOptions], default_cpus: float) -> dict[str, Any]:
    """Ray's options of a process in which all of them run: amounts added up."""
    total: dict[str, Any] = {}
    for options in asked:
        for key, value in options.ray_actor_options.items():
            if key == "resources":
                have = dict(total.get(key, {}))
                total[key] = have | {k: _sum(have.get(k, 0), v) for k, v in value.items()}
            elif isinstance(value, (int, float)) and not isinstance(value, bool):
                total[key] = _sum(total.get(key, 0), value)
            elif total.setdefault(key, value) != value:
                raise DefinitionError(
                    f"steps that share a stage ask for different {key}",
                    where=f"stage {where!r}",
                    got=f"{total[key]!r} and {value!r}",
                )
    return {"num_cpus": default_cpus, **total}


def _sum(one: float, other: float) -> float:
    return round(one + other, 4)
