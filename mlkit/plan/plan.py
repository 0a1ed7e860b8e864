"""Plans: which steps share a process, with which resources, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from mlkit.define.graph import Graph, Node
from mlkit.define.options import StepOptions
from mlkit.errors import DefinitionError, entry_point
from mlkit.execute.cores import cores
from mlkit.pipelines import Pipeline, require_pipeline
from mlkit.plan.cut import Cut, cut, model_parameter
from mlkit.plan.machine import (
    Demand,
    available_memory,
    machine_resources,
    requested,
    shortfalls,
)
from mlkit.plan.placement import Parallelism, place
from mlkit.plan.profile import Profile

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FRONT_CPUS", "STAGE_CPUS", "Layout", "Plan", "Stage", "plan"]

Layout = Literal["fused", "per_step"]

FRONT_CPUS = 0.25
"""CPUs that Ray reserves for a replica of the front by default.

This affects placement and is not a limit: several pipelines, and the new replicas of each during an
update, must fit on a small machine.
"""

STAGE_CPUS = 0.1
"""CPUs that Ray reserves for a replica of a stage by default."""

SERVING_MS = 0.25
"""What the front computes for a request besides its steps, all of it with the interpreter locked.

A front that does nothing else answers about 4,000 requests a second.
"""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Nodes that share one Serve deployment.

    Attributes:
        name: the stage's name; the pipeline's for the front, which answers HTTP.
        nodes: names of its nodes.
        front: whether it receives the requests.
        why: the reason for a stage of its own.
        num_replicas: number of processes; None if autoscaled.
        autoscaling_config: as in Serve, or None.
        ray_actor_options: of one replica, as in Ray; the sums over its steps.
        options: further options of the deployment, as in Serve.
        max_batch_size: by name of the batched node.
        parallelism: what was chosen from a profile; None without one.
        has_pools: whether its steps take models from pools, by an id in their arguments.
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
    parallelism: Parallelism | None = None
    has_pools: bool = False

    @property
    def reason(self) -> str:
        """The reason for the stage, and for the number of its replicas if a profile chose it."""
        if self.parallelism is None or self.parallelism.replicas != self.num_replicas:
            return self.why
        return f"{self.why}; {self.parallelism}"

    @property
    def threads(self) -> int | None:
        """Threads of a replica that compute at a time; None for the default, with all cores."""
        current = self._current
        return None if current is None or current.threads >= cores() else current.threads

    @property
    def workers(self) -> int | None:
        """Worker threads of a replica: those that compute, and those that wait."""
        current = self._current
        return None if current is None or self.threads is None else self.threads + current.waiting

    @property
    def _current(self) -> Parallelism | None:
        """What was chosen, with the cores shared by the present number of replicas."""
        return self.parallelism and self.parallelism.shared_by(self.most_replicas)

    @property
    def num_cpus(self) -> float:
        """CPUs that Ray reserves for one replica."""
        return float(self.ray_actor_options.get("num_cpus", 0))

    @property
    def num_gpus(self) -> float:
        """GPUs that Ray reserves for one replica."""
        return float(self.ray_actor_options.get("num_gpus", 0))

    @property
    def replicas(self) -> str:
        """Number of replicas as text: "2", or "1–4" if autoscaled."""
        if self.autoscaling_config is None:
            return str(self.num_replicas)
        return f"{self.least_replicas}–{self.most_replicas}"

    @property
    def least_replicas(self) -> int:
        """Minimum number of replicas."""
        return self._bound("min_replicas")

    @property
    def most_replicas(self) -> int:
        """Maximum number of replicas."""
        return self._bound("max_replicas")

    def _bound(self, name: str) -> int:
        if self.autoscaling_config is None:
            return self.num_replicas or 1
        return int(self.autoscaling_config.get(name, 1))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The stages of a pipeline, for review before a deployment.

    Attributes:
        graph: the graph, with the planned options in its steps.
        layout: the requested layout.
        stages: the front first, the others in the order in which requests reach them.
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
        """Maximum number of calls between processes per request."""
        return len(self.cut.segments)

    @property
    def num_cpus(self) -> float:
        """CPUs that Ray reserves with the minimum number of replicas of each stage."""
        return round(sum(s.num_cpus * s.least_replicas for s in self.stages), 4)

    @property
    def shortfalls(self) -> tuple[str, ...]:
        """What this machine alone can never give it: ``needs 1 GPU (look 1 × 1), ... has none``.

        A cluster may have it.
        """
        demands = [
            Demand(s.name, max(1, s.least_replicas), requested(s.ray_actor_options))
            for s in self.stages
        ]
        return tuple(shortfalls(demands, machine_resources(), other=math.inf))

    def __getitem__(self, name: str) -> Stage:
        """The stage of that name, or the stage of the node of that name."""
        for stage in self.stages:
            if stage.name == name or name in stage.nodes:
                return stage
        names = ", ".join(stage.name for stage in self.stages)
        raise KeyError(f"no stage or step {name!r}; there are the stages {names}")

    def to_frame(self) -> pd.DataFrame:
        """A row per stage."""
        import pandas as pd

        rows = [
            {
                "stage": stage.name,
                "steps": ", ".join(stage.nodes),
                "replicas": stage.replicas,
                "num_cpus": stage.num_cpus,
                "num_gpus": stage.num_gpus,
                "max_batch_size": ", ".join(f"{n} {s}" for n, s in stage.max_batch_size.items()),
                "why": stage.reason,
            }
            for stage in self.stages
        ]
        return pd.DataFrame(rows).set_index("stage")

    def __repr__(self) -> str:
        stages = f"{len(self.stages)} stage{'s' * (len(self.stages) > 1)}"
        placed = [s for s in self.stages if s.reason != s.why]
        why = "".join(f"; {stage.name}: {stage.parallelism}" for stage in placed)
        return f"<plan of {self.graph.name}: {stages}, {self.layout}{why}>"

    def __str__(self) -> str:
        from mlkit.views.plan import to_text

        return to_text(self)

    def _repr_html_(self) -> str:
        from mlkit.views.plan import to_html

        return to_html(self)


@entry_point
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
    """Assign the steps of a pipeline to stages.

    Steps run in the process that answers HTTP, unless their options require a stage of their own:
    ``stage="models"`` (shared by all steps of that stage), ``num_gpus``, ``num_replicas`` or an
    ``autoscaling_config``. With ``layout="per_step"``, every step has a stage of its own.

    Args:
        pipeline: the pipeline, or its graph.
        layout: "fused" for stages only where required, "per_step" for one stage per step.
        options: changes of steps' options, by name of the step or of its node.
        profile: measurements, which set the maximum batch size of steps without one, and the
            replicas and threads of stages without ``num_replicas`` or ``autoscaling_config``, for
            the cores and the free memory of this machine; see `mlkit.plan.place`.
        num_replicas: replicas of the front.
        autoscaling_config: of the front, instead of ``num_replicas``.
        ray_actor_options: of a replica of the front.

    Raises:
        DefinitionError: not a pipeline; unknown layout, step or option, or conflicting options.
    """
    if isinstance(pipeline, Graph):
        graph = pipeline
    else:
        graph = require_pipeline(pipeline, "plan(...)").graph
    if layout not in ("fused", "per_step"):
        raise DefinitionError(
            "unknown layout", where="plan", expected="'fused' or 'per_step'", got=repr(layout)
        )
    graph = _with_options(graph, options or {})
    if profile is not None:
        graph = _with_limits(graph, profile.limits)
    names = {node.name: _stage_name(node, graph.name, layout) for node in graph}
    front_options = StepOptions().replace(
        num_replicas=num_replicas,
        autoscaling_config=autoscaling_config,
        ray_actor_options=dict(ray_actor_options or {}),
    )
    front = _stage(graph, None, [n for n in graph if names[n.name] is None], front_options)
    others = [
        _stage(graph, name, [n for n in graph if names[n.name] == name], StepOptions())
        for name in dict.fromkeys(names.values())
        if name is not None
    ]
    stages = (front, *others)
    if profile is not None:
        stages = _placed(stages, profile, cores(), available_memory())
    return Plan(graph=graph, layout=layout, stages=tuple(map(_counted, stages)))


def _with_options(graph: Graph, options: Mapping[str, Mapping[str, Any]]) -> Graph:
    known = {node.name for node in graph} | {node.step.name for node in graph}
    unknown = sorted(set(options) - known)
    if unknown:
        raise DefinitionError(
            f"options for unknown steps: {', '.join(map(repr, unknown))}",
            where=f"pipeline {graph.name!r}",
            expected=f"one of {', '.join(sorted(known))}",
        )

    def changed(node: Node) -> Node:
        changes = {**options.get(node.step.name, {}), **options.get(node.name, {})}
        return replace(node, step=node.step.with_options(**changes)) if changes else node

    return replace(graph, nodes=tuple(changed(node) for node in graph))


def _placed(
    stages: tuple[Stage, ...], profile: Profile, total_cores: int, memory: float
) -> tuple[Stage, ...]:
    """Give each stage a part of the cores and of the memory by what it computes."""
    demands = [_demand(stage, profile) for stage in stages]
    total_ms = sum(held + free for held, free, _ in demands)

    def placed(stage: Stage, held_ms: float, free_ms: float, waiting_ms: float) -> Stage:
        part = (held_ms + free_ms) / total_ms
        own_memory = stage.ray_actor_options.get("memory") or 0
        is_open = stage.num_replicas is None and stage.autoscaling_config is None
        chosen = None if is_open and not stage.num_gpus else stage.most_replicas
        parallelism = place(
            held_ms,
            free_ms,
            waiting_ms,
            cores=max(1, int(part * total_cores)),
            memory=part * memory,
            replica_memory=max(own_memory, profile.memory),
            replica_cpus=stage.num_cpus,
            replicas=chosen,
        )
        count = parallelism.replicas if is_open else stage.num_replicas
        return replace(stage, num_replicas=count, parallelism=parallelism)

    return tuple(placed(stage, *demand) for stage, demand in zip(stages, demands, strict=True))


def _counted(stage: Stage) -> Stage:
    is_open = stage.num_replicas is None and stage.autoscaling_config is None
    return replace(stage, num_replicas=1) if is_open else stage


def _demand(stage: Stage, profile: Profile) -> tuple[float, float, float]:
    """Milliseconds of a request with the interpreter locked, without, and waiting."""
    costs = [cost for cost in profile.costs if cost.step in stage.nodes]
    held = sum(cost.held_ms for cost in costs)
    free = sum(max(0.0, cost.cpu_ms - cost.held_ms) for cost in costs)
    waiting = sum(max(0.0, cost.ms - max(cost.cpu_ms, cost.held_ms)) for cost in costs)
    return held + SERVING_MS * stage.front, free, waiting


def _with_limits(graph: Graph, limits: Mapping[str, int]) -> Graph:
    def limited(node: Node) -> Node:
        if node.name not in limits or node.step.options.max_batch_size is not None:
            return node
        return replace(node, step=node.step.with_options(max_batch_size=limits[node.name]))

    return replace(graph, nodes=tuple(limited(node) for node in graph))


def _stage_name(node: Node, pipeline: str, layout: Layout) -> str | None:
    """Name of a node's stage; None for the front."""
    options = node.step.options
    if options.stage == pipeline:
        return None
    if options.stage is not None:
        return options.stage
    return node.name if layout == "per_step" or _own_reason(options) else None


def _own_reason(options: StepOptions) -> str | None:
    """The option that requires a stage of its own, if any."""
    if options.autoscaling_config is not None:
        return "autoscaled"
    if options.num_replicas not in (None, 1):
        return f"num_replicas={options.num_replicas}"
    if options.ray_actor_options.get("num_gpus"):
        return f"num_gpus={options.ray_actor_options['num_gpus']:g}"
    return None


def _stage(graph: Graph, name: str | None, nodes: list[Node], base: StepOptions) -> Stage:
    """Build a stage from the combined options of its steps."""
    where = name or graph.name
    options = [base, *(node.step.options for node in nodes)]
    scaling = _agreed(where, "autoscaling_config", options)
    count = _agreed(where, "num_replicas", options)
    if scaling is not None and count is not None:
        raise DefinitionError(
            "num_replicas and autoscaling_config exclude each other",
            where=f"stage {where!r}",
            fix="set one of them, on one of the steps that share the stage",
        )
    default = FRONT_CPUS if name is None else STAGE_CPUS
    return Stage(
        name=where,
        nodes=tuple(node.name for node in nodes),
        front=name is None,
        why=_why(name, nodes),
        num_replicas=count,
        autoscaling_config=scaling,
        ray_actor_options=_added(where, options, default),
        options={
            key: value
            for key in _SERVE_OPTIONS
            if (value := _agreed(where, key, options)) is not None
        },
        max_batch_size={
            node.name: size for node in nodes if (size := getattr(node.step, "max_batch_size", 0))
        },
        has_pools=any(model_parameter(node.step) is not None for node in nodes),
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


def _agreed(where: str, key: str, step_options: list[StepOptions]) -> Any:
    """The value of an option that all steps with one agree on; None without any."""
    values = [v for options in step_options if (v := getattr(options, key)) is not None]
    if any(value != values[0] for value in values):
        raise _disagreement(where, key, *values)
    return values[0] if values else None


def _disagreement(where: str, key: str, *values: Any) -> DefinitionError:
    return DefinitionError(
        f"steps that share a stage have different {key}",
        where=f"stage {where!r}",
        got=" and ".join(dict.fromkeys(map(repr, values))),
        fix="set it on one of them, or put them in different stages",
    )


def _added(where: str, step_options: list[StepOptions], default_cpus: float) -> dict[str, Any]:
    """Ray's options of a process for all steps, with amounts added up."""
    total: dict[str, Any] = {}
    for options in step_options:
        for key, value in options.ray_actor_options.items():
            if key == "resources":
                so_far = total.get(key, {})
                total[key] = so_far | {k: _sum(so_far.get(k, 0), v) for k, v in value.items()}
            elif isinstance(value, (int, float)) and not isinstance(value, bool):
                total[key] = _sum(total.get(key, 0), value)
            elif total.setdefault(key, value) != value:
                raise _disagreement(where, key, total[key], value)
    return {"num_cpus": default_cpus, **total}


def _sum(a: float, b: float) -> float:
    return round(a + b, 4)
