"""Inputs of an autoscaling policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ScalingConfig", "Signals"]


@dataclass(frozen=True, kw_only=True)
class ScalingConfig:
    """Autoscaling options of a stage, named as in Serve.

    Attributes:
        target_ongoing_requests: requests per replica, running and queued.
        upscale_delay_s: seconds for which more replicas must be wanted before scaling up.
        downscale_delay_s: seconds for which fewer replicas must be wanted before scaling down.
        downscale_to_zero_delay_s: the same for the last replica; ``downscale_delay_s`` if None.
        upscaling_factor: multiplies the difference when scaling up.
        downscaling_factor: multiplies the difference when scaling down.
        look_back_period_s: seconds over which requests are averaged.
        num_cpus: CPUs that Ray reserves for a replica.
        num_gpus: GPUs that Ray reserves for a replica.
    """

    min_replicas: int = 1
    max_replicas: int = 1
    target_ongoing_requests: float = 2.0
    upscale_delay_s: float = 0.5
    downscale_delay_s: float = 30.0
    downscale_to_zero_delay_s: float | None = None
    upscaling_factor: float = 1.0
    downscaling_factor: float = 1.0
    look_back_period_s: float = 2.0
    num_cpus: float = 0.0
    num_gpus: float = 0.0

    def get_target_ongoing_requests(self) -> float:
        """The target, for policies written for Serve."""
        return self.target_ongoing_requests

    def get_upscaling_factor(self) -> float:
        """The factor, for policies written for Serve."""
        return self.upscaling_factor

    def get_downscaling_factor(self) -> float:
        """The factor, for policies written for Serve."""
        return self.downscaling_factor


@dataclass(frozen=True, kw_only=True)
class Signals:
    """State of a stage at one moment.

    The names are those of Serve's ``AutoscalingContext``, so that policies written for Serve work
    unchanged; further attributes are read from Serve's own context.

    Attributes:
        current_time: seconds since the epoch.
        current_num_replicas: replicas that are ready.
        target_num_replicas: replicas that are wanted.
        total_num_requests: requests running and queued at all replicas, averaged over the look-back
            period.
        total_queued_requests: those of them that wait for a replica.
        capacity_adjusted_min_replicas: minimum number of replicas.
        capacity_adjusted_max_replicas: maximum number of replicas.
        policy_state: state that the policy returned from its previous call.
        latest: latest readings by metric and replica: ``p50_ms``, ``p95_ms``, ``p99_ms``, ``rate``
            in 1/s, ``cpu`` in cores, ``gpu`` as a share of one.
        last_change_at: when Serve last changed the target; None for never.
        context: Serve's own context.
    """

    current_time: float
    current_num_replicas: int
    target_num_replicas: int
    total_num_requests: float
    total_queued_requests: float = 0.0
    capacity_adjusted_min_replicas: int = 1
    capacity_adjusted_max_replicas: int = 1
    config: ScalingConfig = field(default_factory=ScalingConfig)
    policy_state: Mapping[str, Any] = field(default_factory=dict)
    latest: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    last_change_at: float | None = None
    context: Any = None

    @property
    def ongoing_per_replica(self) -> float:
        """Requests running and queued, per ready replica."""
        return self.total_num_requests / max(1, self.current_num_replicas)

    @property
    def rate(self) -> float:
        """Calls per second of all replicas that reported."""
        return sum(self.latest.get("rate", {}).values())

    def latency_ms(self, percentile: int) -> float | None:
        """Mean of the replicas' p50, p95 or p99 latency, weighted by their rates.

        None without recent responses.
        """
        rates = self.latest.get("rate", {})
        latencies = self.latest.get(f"p{percentile}_ms", {})
        weights = {name: rates.get(name, 0.0) for name in latencies}
        total = sum(weights.values())
        if not total:
            return None
        return sum(latencies[name] * weight for name, weight in weights.items()) / total

    def mean(self, name: str) -> float | None:
        """Mean of a metric over the replicas; None if no replica reported it."""
        readings = self.latest.get(name, {})
        return sum(readings.values()) / len(readings) if readings else None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or self.__dict__.get("context") is None:
            raise AttributeError(f"signals have no {name!r}")
        return getattr(self.context, name)
