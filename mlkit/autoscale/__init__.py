"""Autoscaling: policies, and a log of their decisions with reasons.

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
