"""A plan as text and HTML: its stages, their resources, and why they exist."""

from __future__ import annotations

from mlkit.plan import Plan, Stage
from mlkit.views.graph import to_svg
from mlkit.views.measure import columns
from mlkit.views.templating import render

__all__ = ["to_html", "to_text"]

COLUMNS = ("stage", "replicas", "of each", "steps", "why")


def to_text(plan: Plan) -> str:
    """Render a line for each stage."""
    rows = [COLUMNS, *(_row(stage) for stage in plan.stages)]
    lines = columns(rows, len(COLUMNS))
    notes = [f"it {shortfall}" for shortfall in plan.shortfalls]
    return "\n".join([f"{plan.graph.name}: {_caption(plan)}", *lines, *notes])


def to_html(plan: Plan) -> str:
    """Render the graph, and a row for each stage."""
    return render(
        "plan.html.j2",
        name=plan.graph.name,
        caption=_caption(plan),
        svg=to_svg(plan.graph, together=_grounds(plan)),
        columns=COLUMNS,
        rows=[_row(stage) for stage in plan.stages],
        notes=[f"it {shortfall}" for shortfall in plan.shortfalls],
    )


def _grounds(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Nodes by the label of their stage; empty for a single stage."""
    if len(plan.stages) == 1:
        return {}
    return {
        stage.name + (f" ×{stage.replicas}" if stage.replicas != "1" else ""): stage.nodes
        for stage in plan.stages
        if stage.nodes
    }


def _caption(plan: Plan) -> str:
    count = len(plan.stages)
    stages = "all steps in one stage" if count == 1 else f"{count} stages"
    hops = f", {plan.hops} hop{'s' * (plan.hops != 1)} a request" if plan.hops else ""
    return f"{stages}{hops}, {plan.num_cpus:g} CPUs set aside"


def _row(stage: Stage) -> tuple[str, ...]:
    sizes = stage.max_batch_size
    steps = [f"{name} ≤{sizes[name]}" if name in sizes else name for name in stage.nodes]
    return stage.name, stage.replicas, _resources(stage), ", ".join(steps) or "-", stage.reason


def _resources(stage: Stage) -> str:
    parts = [f"{stage.num_cpus:g} CPU"]
    if stage.num_gpus:
        parts.append(f"{stage.num_gpus:g} GPU")
    if stage.ray_actor_options.get("memory"):
        parts.append(f"{stage.ray_actor_options['memory'] / 2**20:g} MiB")
    parts += [f"{v:g} {k}" for k, v in (stage.ray_actor_options.get("resources") or {}).items()]
    return ", ".join(parts)
