"""Stages: the nodes that share a process, and their combined options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlkit.define.graph import Graph, Node
from mlkit.define.options import StepOptions
from mlkit.errors import DefinitionError
from mlkit.execute.cores import cores
from mlkit.plan.cut import model_parameter
from mlkit.plan.placement import Parallelism

__all__ = ["FRONT_CPUS", "STAGE_CPUS", "Stage", "own_reason", "stage_of"]

FRONT_CPUS = 0.25
"""CPUs that Ray reserves for a replica of the front by default.

This affects placement and is not a limit: several pipelines, and the new replicas of each during an
update, must fit on a small machine.
"""

STAGE_CPUS = 0.1
"""CPUs that Ray reserves for a replica of a stage by default."""


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


def own_reason(options: StepOptions) -> str | None:
    """Return the option that requires a stage of its own, if any."""
    if options.autoscaling_config is not None:
        return "autoscaled"
    if options.num_replicas not in (None, 1):
        return f"num_replicas={options.num_replicas}"
    if options.ray_actor_options.get("num_gpus"):
        return f"num_gpus={options.ray_actor_options['num_gpus']:g}"
    return None


def stage_of(graph: Graph, name: str | None, nodes: list[Node], base: StepOptions) -> Stage:
    """Build a stage from the combined options of its steps.

    Args:
        graph: the pipeline.
        name: the stage's name; None for the front.
        nodes: its nodes.
        base: options of the stage itself.

    Raises:
        DefinitionError: conflicting options.
    """
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
    return own_reason(nodes[0].step.options) or "layout='per_step'"


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
