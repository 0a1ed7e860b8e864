"""What a step may ask for: where it runs, on how much, how many of it, and in what batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Any, Literal, TypedDict

from mlkit.errors import DefinitionError

__all__ = ["BATCHING", "BatchKeywords", "StepKeywords", "StepOptions"]

AMOUNTS = ("num_cpus", "num_gpus", "memory")
ACTOR_OPTIONS = (*AMOUNTS, "resources", "accelerator_type", "runtime_env")
SHORT = (*AMOUNTS, "resources")
"""Ray's options that may be given by themselves."""

BATCHING = ("max_batch_size", "batch_wait_timeout_s", "split_failed_batches")
"""Options that only a batched step has."""

AUTO: Mapping[str, Any] = {"min_replicas": 1, "max_replicas": 100, "target_ongoing_requests": 2}
"""What Serve takes ``num_replicas="auto"`` for: its ``AutoscalingConfig.default()``."""

_COUNTS = ("max_ongoing_requests", "max_replicas_per_node", "max_batch_size")
_SECONDS = (
    "graceful_shutdown_timeout_s",
    "health_check_period_s",
    "health_check_timeout_s",
    "batch_wait_timeout_s",
)


class StepKeywords(TypedDict, total=False):
    """What ``@step(...)`` takes: the fields of `StepOptions`, and Ray's amounts by themselves."""

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
    """What ``@batched_step(...)`` takes besides."""

    max_batch_size: int | None
    batch_wait_timeout_s: float
    split_failed_batches: bool


@dataclass(frozen=True, kw_only=True)
class StepOptions:
    """Options of a step, by Serve's and Ray's names; None leaves one to Serve.

    Attributes:
        stage: name of the stage that it runs in; steps that give the same one share it.
        num_replicas: processes. "auto" is Serve's own autoscaling: it becomes an
            ``autoscaling_config``, in which what is given besides takes the place of `AUTO`'s.
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
            # Spelled out here, so that whoever plans or draws has one form less to know.
            object.__setattr__(self, "num_replicas", None)
            scaling = {**AUTO, **(self.autoscaling_config or {})}
            object.__setattr__(self, "autoscaling_config", scaling)
        if self.num_replicas is not None and self.autoscaling_config is not None:
            raise DefinitionError("num_replicas and autoscaling_config exclude each other")
        _check(
            "num_replicas", self.num_replicas, _is_count, 'a whole number, at least 1, or "auto"'
        )
        for name in _COUNTS:
            _check(name, getattr(self, name), _is_count, "a whole number, at least 1")
        for name in _SECONDS:
            _check(name, getattr(self, name), _is_amount, "seconds, not negative")
        if self.max_queued_requests != -1:
            expected = "a whole number, at least 1, or -1 for any number"
            _check("max_queued_requests", self.max_queued_requests, _is_count, expected)
        _check("split_failed_batches", self.split_failed_batches, _is_bool, "True or False")
        _check("stage", self.stage, _is_name, "a name: letters, digits, _ and -")
        _check_actor(self.ray_actor_options)

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
        elif changes.get("num_replicas") is not None:  # "auto" too begins from Serve's defaults
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
        _check(name, options.get(name), _is_amount, "a number, not negative")
    for name in ("resources", "runtime_env"):
        _check(name, options.get(name), _is_mapping, "a dict")
    for name, amount in (options.get("resources") or {}).items():
        _check(f"resources[{name!r}]", amount, _is_amount, "a number, not negative")
    kind = options.get("accelerator_type")
    _check("accelerator_type", kind, lambda value: isinstance(value, str), "a name that Ray knows")


def _check(name: str, value: Any, is_right: Any, expected: str) -> None:
    if value is not None and not is_right(value):
        raise DefinitionError(f"{name} cannot be this", expected=expected, got=repr(value))


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
