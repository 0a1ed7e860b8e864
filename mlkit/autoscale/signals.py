"""What a policy is told of a stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ScalingConfig", "Signals"]


@dataclass(frozen=True, kw_only=True)
class ScalingConfig:
    """How a stage may scale, by Serve's names.

    Attributes:
        target_ongoing_requests: at each replica, begun and waiting ones together.
        upscale_delay_s: how long more must be wanted before there are more.
        downscale_delay_s: how long fewer must be wanted before there are fewer.
        downscale_to_zero_delay_s: the same before the last one goes; ``downscale_delay_s`` if None.
        upscaling_factor: what the difference is multiplied by on the way up.
        downscaling_factor: and on the way down.
        look_back_period_s: seconds that requests are averaged over.
        num_cpus: that Ray sets aside for a replica.
        num_gpus: likewise.
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
        """The target, as Serve's policies ask for it."""
        return self.target_ongoing_requests

    def get_upscaling_factor(self) -> float:
        """The factor, as Serve's policies ask for it."""
        return self.upscaling_factor

    def get_downscaling_factor(self) -> float:
        """The factor, as Serve's policies ask for it."""
        return self.downscaling_factor


@dataclass(frozen=True, kw_only=True)
class Signals:
    """What is known of a stage at one moment.

    The names are those of Serve's ``AutoscalingContext``, so that a policy written for Serve works
    as it is; what is asked of it beyond these comes from Serve's own.

    Attributes:
        current_time: seconds since the epoch.
        current_num_replicas: that are ready.
        target_num_replicas: that are wanted.
        total_num_requests: begun and waiting at all replicas, averaged over the look-back period.
        total_queued_requests: those of them that wait for a replica.
        capacity_adjusted_min_replicas: fewest that there may be.
        capacity_adjusted_max_replicas: most that there may be.
        policy_state: what the policy gave back the last time.
        latest: the last reading of each replica, by what was read: ``p50_ms``, ``p95_ms``,
            ``p99_ms``, ``rate`` in 1/s, ``cpu`` in cores, ``gpu`` as a share of one.
        last_change_at: when Serve changed what is wanted for the last time; None for never.
        context: Serve's own.
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
        """Requests begun and waiting for each replica that is ready."""
        return self.total_num_requests / max(1, self.current_num_replicas)

    @property
    def rate(self) -> float:
        """Calls answered per second by all replicas, as far as they have said."""
        return sum(self.latest.get("rate", {}).values())

    def latency_ms(self, percentile: int) -> float | None:
        """How long a replica holds a call: the replicas' p50, p95 or p99, weighted by their calls.

        None where none was answered lately.
        """
        rates = self.latest.get("rate", {})
        found = self.latest.get(f"p{percentile}_ms", {})
        weights = {name: rates.get(name, 0.0) for name in found}
        total = sum(weights.values())
        if not total:
            return None
        return sum(found[name] * weight for name, weight in weights.items()) / total

    def mean(self, name: str) -> float | None:
        """A reading, on average over the replicas; None where no replica has it."""
        found = self.latest.get(name, {})
        return sum(found.values()) / len(found) if found else None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or self.__dict__.get("context") is None:
            raise AttributeError(f"a policy is told nothing called {name!r}")
        return getattr(self.context, name)
