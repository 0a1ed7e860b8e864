"""Options of a step: placement, resources, replicas and batching."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Any, Literal, TypedDict

from mlkit.errors import DefinitionError, did_you_mean

__all__ = ["BATCHING", "BatchKeywords", "StepKeywords", "StepOptions"]

AMOUNTS = ("num_cpus", "num_gpus", "memory")
ACTOR_OPTIONS = (*AMOUNTS, "resources", "accelerator_type", "runtime_env")
SHORT = (*AMOUNTS, "resources")
"""Ray's options that may be passed as keywords of their own."""

BATCHING = ("max_batch_size", "batch_wait_timeout_s", "split_failed_batches")
"""Options of batched steps only."""

AUTO: Mapping[str, Any] = {"min_replicas": 1, "max_replicas": 100, "target_ongoing_requests": 2}
"""What ``num_replicas="auto"`` means to Serve: its ``AutoscalingConfig.default()``."""

_COUNTS = ("max_ongoing_requests", "max_replicas_per_node", "max_batch_size")
_SECONDS = (
    "graceful_shutdown_timeout_s",
    "health_check_period_s",
    "health_check_timeout_s",
    "batch_wait_timeout_s",
)


class StepKeywords(TypedDict, total=False):
    """Keywords of ``@step(...)``: the fields of `StepOptions`, and Ray's amounts."""

    stage: str | None
    num_replicas: int | Literal["auto"] | None
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
    """Further keywords of ``@batched_step(...)``."""

    max_batch_size: int | None
    batch_wait_timeout_s: float
    split_failed_batches: bool


@dataclass(frozen=True, kw_only=True)
class StepOptions:
    """Options of a step, named as in Serve and Ray; None leaves one to Serve.

    Attributes:
        stage: name of the stage that it runs in; steps with the same name share it.
        num_replicas: number of processes. "auto" becomes an ``autoscaling_config`` with the values
            of `AUTO`, which those of an ``autoscaling_config`` override.
        autoscaling_config: Serve's, instead of ``num_replicas``.
        ray_actor_options: ``num_cpus``, ``num_gpus``, ``memory`` in bytes, ``resources``,
            ``accelerator_type``, ``runtime_env`` that this step needs of a replica.
        max_ongoing_requests: per replica.
        max_queued_requests: waiting for a replica; more are rejected. -1 for no limit.
        max_batch_size: maximum items per call; the default, or a measured size, if None.
        batch_wait_timeout_s: how long a partial batch waits for more items; 0 for not at all.
        split_failed_batches: whether a batch that raises is bisected to isolate the failing item.
            False for a step that must not be repeated.

    Raises:
        DefinitionError: an invalid value.
    """

    stage: str | None = None
    num_replicas: int | Literal["auto"] | None = None
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
        _check("autoscaling_config", self.autoscaling_config, _is_mapping, "a dict")
        if self.num_replicas == "auto":
            # Expanded here, so that nothing downstream has to know it.
            object.__setattr__(self, "num_replicas", None)
            scaling = {**AUTO, **(self.autoscaling_config or {})}
            object.__setattr__(self, "autoscaling_config", scaling)
        if self.num_replicas is not None and self.autoscaling_config is not None:
            raise DefinitionError("num_replicas and autoscaling_config exclude each other")
        _check("num_replicas", self.num_replicas, _is_count, 'an integer of at least 1, or "auto"')
        for name in _COUNTS:
            _check(name, getattr(self, name), _is_count, "an integer of at least 1")
        for name in _SECONDS:
            _check(name, getattr(self, name), _is_amount, "a non-negative number of seconds")
        if self.max_queued_requests != -1:
            expected = "an integer of at least 1, or -1 for no limit"
            _check("max_queued_requests", self.max_queued_requests, _is_count, expected)
        _check("split_failed_batches", self.split_failed_batches, _is_bool, "True or False")
        _check("stage", self.stage, _is_name, "a name: letters, digits, _ and -")
        _check_actor(self.ray_actor_options)

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> StepOptions:
        """Build options from keywords, Ray's amounts among them."""
        return cls().replace(**options)

    def replace(self, **changes: Any) -> StepOptions:
        """Return a copy with changes; ``num_cpus=`` and the like change ``ray_actor_options``.

        Raises:
            DefinitionError: unknown option, or invalid value.
        """
        names = [f.name for f in fields(self)]
        unknown = sorted(set(changes) - set(names) - set(SHORT))
        if unknown:
            raise DefinitionError(
                f"there is no option {', '.join(map(repr, unknown))}",
                expected=f"one of {', '.join([*names, *SHORT])}",
                fix=did_you_mean(unknown[0], [*names, *SHORT]),
            )
        actor = {**changes.pop("ray_actor_options", self.ray_actor_options)}
        actor |= {name: changes.pop(name) for name in SHORT if name in changes}
        if changes.get("autoscaling_config") is not None:
            changes.setdefault("num_replicas", None)
        elif changes.get("num_replicas") is not None:  # "auto" starts from Serve's defaults, too
            changes.setdefault("autoscaling_config", None)
        kept = {name: getattr(self, name) for name in names}
        return StepOptions(**{**kept, **changes, "ray_actor_options": actor})

    def to_dict(self) -> dict[str, Any]:
        """The options that differ from the defaults."""
        plain = StepOptions()
        return {
            f.name: value
            for f in fields(self)
            if (value := getattr(self, f.name)) != getattr(plain, f.name)
        }


def _check_actor(options: Mapping[str, Any]) -> None:
    if not _is_mapping(options):
        raise DefinitionError("ray_actor_options is a dict", got=repr(options))
    unknown = sorted(map(repr, set(options) - set(ACTOR_OPTIONS)))
    if unknown:
        raise DefinitionError(
            f"there is no ray_actor_option {', '.join(unknown)}",
            expected=f"one of {', '.join(ACTOR_OPTIONS)}",
        )
    for name in AMOUNTS:
        _check(name, options.get(name), _is_amount, "a non-negative number")
    for name in ("resources", "runtime_env"):
        _check(name, options.get(name), _is_mapping, "a dict")
    for name, amount in (options.get("resources") or {}).items():
        _check(f"resources[{name!r}]", amount, _is_amount, "a non-negative number")
    kind = options.get("accelerator_type")
    _check("accelerator_type", kind, lambda value: isinstance(value, str), "a name known to Ray")


def _check(name: str, value: Any, is_valid: Any, expected: str) -> None:
    if value is not None and not is_valid(value):
        raise DefinitionError(f"invalid {name}", expected=expected, got=repr(value))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_amount(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and isfinite(value) and value >= 0


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.replace("_", "a").replace("-", "a").isalnum()


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)
