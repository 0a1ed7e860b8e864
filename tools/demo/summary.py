"""What was measured, as figures: each with how it was got."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import mlkit
from mlkit.load import LoadResult
from mlkit.pipelines import Pipeline
from tools.demo.offline import Block, median_rate
from tools.demo.pictures import Tagged, printable
from tools.demo.served import Saturated

__all__ = ["HOW", "TARGETS", "Measured", "Target", "busy", "machine", "precisions", "summarise"]


@dataclass(frozen=True)
class Measured:
    """Everything that one run of the demo measured.

    Attributes:
        tagged: the pictures and what came of them, over HTTP.
        offline: blocks of the pipeline at full speed in the demo's own process.
        eager: blocks of eager torch there, by turns with the former.
        saturated: the app in a closed loop.
        open_loops: the app under Poisson arrivals, the rate that counts last.
        blog: the graph on plain Ray Serve in a closed loop; None where it could not be measured.
        blog_problem: why not.
        started_s: seconds from nothing to an app that answers.
        facts: of the machine.
    """

    tagged: Sequence[Tagged]
    offline: Sequence[Block]
    eager: Sequence[Block]
    saturated: Saturated
    open_loops: Sequence[LoadResult]
    blog: LoadResult | None
    blog_problem: str
    started_s: float
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def loads(self) -> dict[str, LoadResult]:
        """The load tests by name: ``saturated``, ``60%`` of its rate and so on, ``blog_graph``."""
        full = self.saturated.result
        runs = {"saturated": full}
        for result in reversed(self.open_loops):
            runs[f"{rate_of(result) / (full.ok_rate or math.inf):.0%}"] = result
        return {**runs, **({"blog_graph": self.blog} if self.blog else {})}


@dataclass(frozen=True)
class Target:
    """A figure and what it should reach.

    Attributes:
        name: its field in the summary.
        limit: at least, or at most, this.
        at_least: which of the two.
    """

    name: str
    limit: float
    at_least: bool = True

    def met(self, value: float | None) -> bool | None:
        """Whether a value reaches it; None for none."""
        if value is None or math.isnan(value):
            return None
        return value >= self.limit if self.at_least else value <= self.limit


TARGETS = (
    Target("offline_per_eager", 6.0),
    Target("served_share_of_offline", 0.62),
    Target("served_per_blog", 10.0),
    Target("overhead_cpu_ms", 1.7, at_least=False),
)
"""For a machine with two cores that has nothing else to do."""

HOW = {
    "offline_rps": "pictures per second of the pipeline's map over JPEGs in memory, in one process "
    "without HTTP; median of blocks before and after the app, by turns with eager torch",
    "eager_rps": "pictures per second of Pillow's decoder and EfficientNet-Lite0 in eager torch, "
    "fp32, one picture after the other in one process; median of blocks",
    "served_rps": "good answers per second over HTTP in a closed loop, pictures uploaded; the load "
    "generator runs on the same cores",
    "client_cores": "CPU seconds per second of the load generator meanwhile",
    "blog_graph_rps": "good answers per second of five deployments on plain Ray Serve with its "
    "defaults (eager torch, fp32, @serve.batch), same generator and pictures, while nothing else "
    "runs; it finds neither product classes nor boxes, so it has less to do",
    "served_cpu_ms": "CPU of all processes of the session (replica, HAProxy, Ray's and Serve's "
    "own) per good answer, during the closed loop",
    "offline_cpu_ms": "CPU of the process per picture, over all offline blocks",
    "overhead_cpu_ms": "served_cpu_ms less offline_cpu_ms: what serving adds to a picture",
    "poisson_rate": "requests per second asked for, 60% of served_rps, with Poisson arrivals",
    "poisson_p99_ms": "latency from the scheduled send that 99% of these requests did not exceed",
    "offline_per_eager": "offline_rps / eager_rps",
    "served_share_of_offline": "served_rps / (offline_rps x (1 - client_cores / cores)): the share "
    "of the offline limit that is left over HTTP, of the cores that the client leaves",
    "served_per_blog": "served_rps / blog_graph_rps",
    "started_s": "seconds from nothing to an app that answers",
}


def summarise(measured: Measured) -> dict[str, Any]:
    """The summary as plain data, ready for JSON; a figure that is not there is None."""
    figures = _figures(measured)
    tagged = measured.tagged
    return {
        **figures,
        "targets": {
            target.name: {
                "value": figures[target.name],
                "at_least" if target.at_least else "at_most": target.limit,
                "met": target.met(figures[target.name]),
            }
            for target in TARGETS
        },
        "tags": {printable(t.picture.name): t.tags for t in tagged if t.error is None},
        "errors": {printable(t.picture.name): printable(t.reason) for t in tagged if t.error},
        "loads": {name: _load(result) for name, result in measured.loads.items()},
        "blog_graph_problem": measured.blog_problem,
        "void": _void_reasons(measured),
        "busy": busy(measured.facts),
        "cpu_ms_by_process": _clean(measured.saturated.cpu_ms_by_role),
        "machine": measured.facts,
        "how": HOW,
    }


def _figures(measured: Measured) -> dict[str, Any]:
    saturated, last = measured.saturated, measured.open_loops[-1]
    offline, eager = median_rate(measured.offline), median_rate(measured.eager)
    served, client = saturated.result.ok_rate, saturated.result.client.cores
    cores = measured.facts.get("cores") or 1
    left = offline * (1 - client / cores)
    blog = measured.blog.ok_rate if measured.blog else None
    offline_cpu = 1e3 * sum(b.cpu_s for b in measured.offline)
    offline_cpu /= sum(b.pictures for b in measured.offline)
    summary: dict[str, Any] = _clean(
        {
            "offline_rps": offline,
            "eager_rps": eager,
            "served_rps": served,
            "client_cores": client,
            "blog_graph_rps": blog,
            "served_cpu_ms": saturated.cpu_ms,
            "offline_cpu_ms": offline_cpu,
            "overhead_cpu_ms": saturated.cpu_ms - offline_cpu,
            "poisson_rate": rate_of(last),
            "poisson_p99_ms": last.percentiles["p99"].value_ms,
            "offline_per_eager": offline / eager,
            "served_share_of_offline": served / left if left > 0 else None,
            "served_per_blog": served / blog if blog else None,
            "started_s": measured.started_s,
        }
    )
    return summary


def rate_of(result: LoadResult) -> float:
    """The rate that an open loop was asked for, before chance had its part."""
    rate = result.arrivals.opening_rate
    assert rate is not None, f"{result.arrivals!r} is no open loop"
    return rate


def _load(result: LoadResult) -> dict[str, Any]:
    """A load test's figures; the target's address says nothing to a reader."""
    summary: dict[str, Any] = _clean(result.summary())
    summary.pop("target", None)
    return summary


def _void_reasons(measured: Measured) -> list[str]:
    """Which runs are not to be believed, and why."""
    runs = measured.loads.items()
    return [f"{name}: {reason}" for name, run in runs for reason in run.void]


def _clean(value: Any) -> Any:
    """Numbers that JSON has no word for become None."""
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _clean(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(inner) for inner in value]
    return value


# The machine.


def machine(pipeline: Pipeline[..., Any]) -> dict[str, Any]:
    """What the figures were measured on, and with."""
    from mlkit.execute.cores import cores

    return {
        "cpu": _cpu_name(),
        "cores": cores(),
        "precision": ", ".join(precisions(pipeline)) or "unknown",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "mlkit": mlkit.__version__,
        **{name: _version(name) for name in ("ray", "torch", "openvino")},
        "load_before": round(os.getloadavg()[0], 2),
    }


def busy(facts: Mapping[str, Any]) -> str:
    """What to say when the machine had other things to do as the demo began; empty if not."""
    load, cores = facts.get("load_before", 0.0), facts.get("cores", 1)
    if load < 0.5 * cores:
        return ""
    return (
        f"The machine was busy when this began (load {load:g} on {cores} cores): "
        "figures are lower, and less even, than it can do."
    )


def precisions(pipeline: Pipeline[..., Any]) -> list[str]:
    """How the pipeline's models run here, e.g. ``openvino fp32 on cpu``."""
    resources = pipeline.graph.resources.values()
    targets = [getattr(resource.get(), "target", None) for resource in resources]
    said = {f"{t.engine} {t.precision} on {t.device}" for t in targets if t is not None}
    return sorted(said)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _cpu_name(info: Path = Path("/proc/cpuinfo")) -> str:
    try:
        lines = info.read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
