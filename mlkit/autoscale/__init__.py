"""Autoscaling: policies, and a log of their decisions with reasons.

::

    @step(autoscaling_config={"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 2})
    async def download(image: HttpUrl) -> bytes: ...

    deploy(tag, options={"download": {"autoscaling_config": {
        "max_replicas": 4, "policy": on_latency(p95_ms=150)}}})

    app.scaling                # 14:02:11 download 1 → 3: 7.4 ongoing per replica, target 2
    app.scaling.to_frame()     # every decision: time, from, to, why
    app.scaling.plot()         # arrivals, replicas wanted and ready, and latency over time

A policy is a function of `Signals` that returns a number of replicas; policies written for Serve
work unchanged. A `Decider` applies factors, bounds and delays to the number, and records each
change, and each change held back, as a `Decision`. Nothing here depends on Ray.
"""

from mlkit.autoscale.decide import Decider, Decision
from mlkit.autoscale.policies import (
    Policy,
    Wanted,
    highest,
    on_cpu,
    on_gpu,
    on_latency,
    on_ongoing_requests,
)
from mlkit.autoscale.scaling import Count, Scaling, ScalingLog
from mlkit.autoscale.signals import ScalingConfig, Signals

__all__ = [
    "Count",
    "Decider",
    "Decision",
    "Policy",
    "Scaling",
    "ScalingConfig",
    "ScalingLog",
    "Signals",
    "Wanted",
    "highest",
    "on_cpu",
    "on_gpu",
    "on_latency",
    "on_ongoing_requests",
]
