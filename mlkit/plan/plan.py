"""Plans: which steps share a process, with which resources, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from mlkit.define.graph import Graph, Node
from mlkit.define.options import StepOptions
from mlkit.errors import DefinitionError, entry_point
from mlkit.execute.cores import cores
from mlkit.pipelines import Pipeline, require_pipeline
from mlkit.plan.cut import Cut, cut
from mlkit.plan.machine import (
    Demand,
    available_memory,
    machine_resources,
    requested,
    shortfalls,
)
from mlkit.plan.placement import place
from mlkit.plan.profile import Profile
from mlkit.plan.stage import Stage, own_reason, stage_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Layout", "Plan", "plan"]

Layout = Literal["fused", "per_step"]

SERVING_MS = 0.25
"""What the front computes for a request besides its steps, all of it with the interpreter locked.

A front that does nothing else answers about 4,000 requests a second.
"""


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
    front = stage_of(graph, None, [n for n in graph if names[n.name] is None], front_options)
    others = [
        stage_of(graph, name, [n for n in graph if names[n.name] == name], StepOptions())
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
    return node.name if layout == "per_step" or own_reason(options) else None
