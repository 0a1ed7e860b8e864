"""What a step may ask for: where it runs, on how much, how many of it, and in what batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypedDict

from mlkit.errors import DefinitionError

__all__ = ["BATCHING", "BatchKeywords", "StepKeywords", "StepOptions"]

AMOUNTS = ("num_cpus", "num_gpus", "memory")
ACTOR_OPTIONS = (*AMOUNTS, "resources", "accelerator_type", "runtime_env")
SHORT = (*AMOUNTS, "resources")
"""Ray's options that may be given by themselves."""

BATCHING = ("max_batch_size", "batch_wait_timeout_s", "split_failed_batches")
"""Options that only a batched step has."""

_COUNTS = ("num_replicas", "max_ongoing_requests", "max_replicas_per_node", "max_batch_size")
_SECONDS = (
    "graceful_shutdown_timeout_s",
    "health_check_period_s",
    "health_check_timeout_s",
    "batch_wait_timeout_s",
)


class StepKeywords(TypedDict, total=False):
    """What ``@step(...)`` takes: the fields of `StepOptions`, and Ray's amounts by themselves."""

    stage: str | None
    num_replicas: int | None
    autoscaling_config: Mapping[str, Any] | None
    ray_actor_options: Mapping[str, Any]
    num_cpus: float
    num_gpus: float
    memory: float
    resources: Mapping[str, float]
    max_ongoing_requests: int | None
    max_queued_requests: int | None
    max_replicas_per_node: int | None
    graceful_shutdown_timeout_s: float | None
    health_check_period_s: float | None
    health_check_timeout_s: float | None


class BatchKeywords(StepKeywords, total=False):
    """What ``@batched_step(...)`` takes besides."""

    max_batch_size: int | None
    batch_wait_timeout_s: float
    split_failed_batches: bool


@dataclass(frozen=True, kw_only=True)
class StepOptions:
    """Options of a step, by Serve's and Ray's names; None leaves one to Serve.

    Attributes:
        stage: name of the stage that it runs in; steps that give the same one share it.
        num_replicas: processes.
        autoscaling_config: Serve's, instead of ``num_replicas``.
        ray_actor_options: ``num_cpus``, ``num_gpus``, ``memory`` in bytes, ``resources``,
            ``accelerator_type``, ``runtime_env`` of a replica, as far as this step needs them.
        max_ongoing_requests: at a replica.
        max_queued_requests: waiting for a replica; more are refused. -1 for any number.
        max_batch_size: items of one call at most; the default, or a measured one, if None.
        batch_wait_timeout_s: how long a batch that is not full waits for more; 0 for not at all.
        split_failed_batches: whether a batch that raises is halved to find the item at fault. False
            for a step that must not be repeated.

    Raises:
        DefinitionError: a value that cannot be.
    """

    stage: str | None = None
    num_replicas: int | None = None
    autoscaling_config: Mapping[str, Any] | None = None
    ray_actor_options: Mapping[str, Any] = field(default_factory=dict)
    max_ongoing_requests: int | None = None
    max_queued_requests: int | None = None
    max_replicas_per_node: int | None = None
    graceful_shutdown_timeout_s: float | None = None
    health_check_period_s: float | None = None
    health_check_timeout_s: float | None = None
    max_batch_size: int | None = None
    batch_wait_timeout_s: float = 0.0
    split_failed_batches: bool = True

    def __post_init__(self) -> None:
        for name in _COUNTS:
            _check(name, getattr(self, name), _is_count, "a whole number, at least 1")
        for name in _SECONDS:
            _check(name, getattr(self, name), _is_amount, "seconds, not negative")
        _check("stage", self.stage, _is_name, "a name: letters, digits, _ and -")
        _check("autoscaling_config", self.autoscaling_config, _is_mapping, "a dict")
        if self.num_replicas is not None and self.autoscaling_config is not None:
            raise DefinitionError("num_replicas and autoscaling_config exclude each other")
        _check("ray_actor_options", self.ray_actor_options, _is_mapping, "a dict")
        unknown = sorted(set(self.ray_actor_options) - set(ACTOR_OPTIONS))
        if unknown:
            raise DefinitionError(
                f"there is no ray_actor_option {', '.join(map(repr, unknown))}",
                expected=f"one of {', '.join(ACTOR_OPTIONS)}",
            )
        for name in AMOUNTS:
            _check(name, self.ray_actor_options.get(name), _is_amount, "a number, not negative")
        for name, amount in (self.ray_actor_options.get("resources") or {}).items():
            _check(f"resources[{name!r}]", amount, _is_amount, "a number, not negative")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> StepOptions:
        """Options from keywords, Ray's amounts among them."""
        return cls().replace(**given)

    def replace(self, **changes: Any) -> StepOptions:
        """The same with some changed; ``num_cpus=`` and its like change ``ray_actor_options``.

        Raises:
            DefinitionError: there is no such option, or a value cannot be.
        """
        names = [f.name for f in fields(self)]
        unknown = sorted(set(changes) - set(names) - set(SHORT))
        if unknown:
            raise DefinitionError(
                f"there is no option {', '.join(map(repr, unknown))}",
                expected=f"one of {', '.join([*names, *SHORT])}",
            )
        actor = {**changes.pop("ray_actor_options", self.ray_actor_options)}
        actor |= {name: changes.pop(name) for name in SHORT if name in changes}
        if changes.get("autoscaling_config") is not None:
            changes.setdefault("num_replicas", None)
        elif changes.get("num_replicas") is not None:
            changes.setdefault("autoscaling_config", None)
        kept = {name: getattr(self, name) for name in names}
        return StepOptions(**{**kept, **changes, "ray_actor_options": actor})

    def to_dict(self) -> dict[str, Any]:
        """What differs from the defaults."""
        plain = StepOptions()
        return {
            f.name: value
            for f in fields(self)
            if (value := getattr(self, f.name)) != getattr(plain, f.name)
        }


def _check(name: str, value: Any, is_right: Any, expected: str) -> None:
    if value is not None and not is_right(value):
        raise DefinitionError(f"{name} cannot be this", expected=expected, got=repr(value))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_amount(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.replace("_", "a").replace("-", "a").isalnum()


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)
