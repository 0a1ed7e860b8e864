"""Private names of other libraries that mlkit depends on, as of ray 2.60.

A session checks them when it starts, and warns if any are missing. Each use falls back on the
public API where there is one, or does without, as the table states.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

__all__ = [
    "HAPROXY_MANAGER",
    "KEEP_HAPROXY",
    "KEEP_PACE",
    "KEEP_UPDATING",
    "PRIVATE_USES",
    "SEPARATE_ROUTERS",
    "PrivateUse",
    "missing_uses",
    "private",
]


@dataclass(frozen=True)
class PrivateUse:
    """A use of private names.

    Attributes:
        purpose: what they are used for.
        without: effect if one of them is missing.
        names: ``module:attribute``, ``module:callable(parameter)``, or ``module:class@attribute``
            for an attribute that instances have.
    """

    purpose: str
    without: str
    names: tuple[str, ...]

    @property
    def missing(self) -> list[str]:
        """The names that the installed libraries lack."""
        return [name for name in self.names if not _exists(name)]

    def __str__(self) -> str:
        return f"{', '.join(self.missing)} is missing ({self.purpose}): {self.without}"


def _exists(name: str) -> bool:
    owner, _, parameter = name.rstrip(")").partition("(")
    owner, _, attribute = owner.partition("@")
    value = private(owner)
    if value is None:
        return False
    if attribute:
        return any(attribute in names for names in map(_attributes, value.__mro__))
    return not parameter or parameter in inspect.signature(value).parameters


def _attributes(cls: type) -> set[str]:
    """Names of the attributes that a class declares, or its methods use."""
    methods = [value for value in vars(cls).values() if inspect.isfunction(value)]
    used = {name for method in methods for name in method.__code__.co_names}
    return {*vars(cls), *inspect.get_annotations(cls), *used}


def private(name: str) -> Any:
    """Return what has a private name, ``module:attribute``; None if it is missing."""
    module, _, path = name.partition(":")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations in the imported module
            value: Any = import_module(module)
        for part in path.split(".") if path else ():
            value = getattr(value, part)
    except (ImportError, AttributeError):
        return None
    return value


_STATE = "ray.serve._private.deployment_state:"
_HAPROXY = "ray.serve._private.haproxy:"
HAPROXY_MANAGER = f"{_HAPROXY}HAProxyManager.__ray_metadata__.modified_class"

KEEP_UPDATING = PrivateUse(
    "replicas take requests while they load a new version",
    "requests take the slower fallback proxy for a moment at each update",
    (
        "ray.serve._private.common:ReplicaState.UPDATING",
        f"{_STATE}DeploymentState.get_running_replica_infos",
        f"{_STATE}DeploymentState@_cluster_node_info_cache",
        f"{_STATE}DeploymentState@_replicas",
        f"{_STATE}DeploymentReplica.get_running_replica_info",
    ),
)
KEEP_HAPROXY = PrivateUse(
    "HAProxy is started again as soon as it has died",
    "that takes ten seconds",
    (
        f"{HAPROXY_MANAGER}.check_health",
        f"{HAPROXY_MANAGER}@_haproxy",
        f"{HAPROXY_MANAGER}@_reload_lock",
        f"{_HAPROXY}HAProxyApi._is_running",
        f"{_HAPROXY}HAProxyApi.start",
        f"{_HAPROXY}HAProxyApi@_proc",
    ),
)
KEEP_PACE = PrivateUse(
    "the controller looks more often at replicas that start",
    "a rollout takes half a second longer",
    (
        "ray.serve._private.common:DeploymentStatus.UPDATING",
        "ray.serve._private.common:DeploymentStatus.UPSCALING",
        "ray.serve._private.controller:CONTROL_LOOP_INTERVAL_S",
        f"{_STATE}DeploymentState.curr_status_info",
        f"{_STATE}DeploymentStateManager.update",
        f"{_STATE}DeploymentStateManager@_deployment_states",
    ),
)
SEPARATE_ROUTERS = PrivateUse(
    "the session calls replicas from threads that have no event loop",
    "a rollout relies on Serve's status alone",
    (
        "ray.serve.handle:DeploymentHandle._init",
        "ray.serve._private.handle_options:InitHandleOptionsBase@_run_router_in_separate_loop",
    ),
)

PRIVATE_USES: Sequence[PrivateUse] = (
    KEEP_UPDATING,
    KEEP_HAPROXY,
    KEEP_PACE,
    SEPARATE_ROUTERS,
    PrivateUse(
        "Deployment._version holds a digest, so that an unchanged deployment keeps its replicas",
        "every deploy restarts every replica",
        ("ray.serve.deployment:Deployment(_internal)", "ray.serve.deployment:Deployment@_version"),
    ),
    PrivateUse(
        "process id, node and resources of each replica",
        "app.placement() is empty, and a deployment without resources waits instead of failing",
        ("ray.serve.context:_get_global_client",),
    ),
    PrivateUse(
        "a replica gets a handle without asking the controller from its event loop",
        "the first call to a stage briefly blocks the event loop",
        ("ray.serve:get_deployment_handle(_check_exists)",),
    ),
    PrivateUse(
        "several applications are deleted concurrently",
        "applications are deleted one after the other",
        ("ray.serve:delete(_blocking)",),
    ),
    PrivateUse(
        "Ray starts without its dashboard",
        "a session starts seconds later, and takes more of a core when idle",
        ("ray._private.services:start_api_server",),
    ),
    PrivateUse(
        "Ray starts without its log monitor and its autoscaler monitor",
        "a session takes more of a core when idle",
        ("ray._private.node:Node.start_log_monitor", "ray._private.node:Node.start_monitor"),
    ),
    PrivateUse(
        "Ray's workers are forks of a process that has imported what they need",
        "a new replica starts seconds later",
        (
            "ray._private.parameter:RayParams.update_if_absent",
            "ray._private.utils:update_envs",
        ),
    ),
    PrivateUse(
        "Ray's agents start without compiling a grammar",
        "a session starts a second later",
        ("ray._private.services:_build_python_executable_command_memory_profileable",),
    ),
    PrivateUse(
        "replicas start while HAProxy does",
        "a session starts seconds later",
        ("ray.serve._private.api:_create_controller_and_proxy_refs",),
    ),
    PrivateUse(
        "worker processes are prestarted for replicas (PrestartWorkers)",
        "a new replica starts seconds later",
        (
            "ray._private.grpc_utils:init_grpc_channel",
            "ray.core.generated.common_pb2:PYTHON",
            "ray.core.generated.node_manager_pb2:PrestartWorkersRequest",
            "ray.core.generated.node_manager_pb2_grpc:NodeManagerServiceStub",
        ),
    ),
    PrivateUse(
        "imported in advance by idle worker processes",
        "a new replica starts a second later",
        ("ray.serve._private.replica:",),
    ),
    PrivateUse(
        "a body is read at the pace of its request's limit",
        "a slow body is bounded by the deadline alone",
        ("starlette.requests:Request@_receive",),
    ),
    PrivateUse(
        "a body is read once: by a dependency, for its idempotency key, or as a form",
        "requests with forms or idempotency keys fail",
        ("starlette.requests:Request@_body", "starlette.requests:Request@_form"),
    ),
    PrivateUse(
        "options that a route leaves out are still unset in a replica",
        "bodies have an empty example in /openapi.json",
        ("fastapi.datastructures:_Unset",),
    ),
    PrivateUse(
        "routes of included routers are fingerprinted and searched for pipelines",
        "an application with included routers counts as changed at each deploy",
        ("fastapi.routing:_IncludedRouter",),
    ),
    PrivateUse(
        "a type's own form replaces pydantic's within models and dataclasses",
        "pipelines cannot be defined",
        (
            "pydantic_core:SchemaSerializer(_use_prebuilt)",
            "pydantic_core:SchemaValidator(_use_prebuilt)",
        ),
    ),
    PrivateUse(
        "the JSON schema follows a model's settings for infinity and durations",
        "/openapi.json cannot be made for floats and durations",
        ("pydantic.json_schema:GenerateJsonSchema@_config",),
    ),
    PrivateUse(
        "a parametrized model is the same class in each process",
        "code that runs when a subclass is defined runs in replicas, too",
        (
            "pydantic._internal._generics:get_cached_generic_type_early",
            "pydantic._internal._generics:set_cached_generic_type",
        ),
    ),
    PrivateUse(
        "functions under @validate_call are pickled",
        "steps that use them cannot be deployed",
        ("pydantic._internal._validate_call:ValidateCallWrapper",),
    ),
    PrivateUse(
        "classes of cells are the same in each process, by their content",
        "pipelines with such classes cannot be deployed",
        tuple(
            f"cloudpickle.cloudpickle:{name}"
            for name in (
                "_DYNAMIC_CLASS_TRACKER_BY_CLASS",
                "_DYNAMIC_CLASS_TRACKER_BY_ID",
                "_DYNAMIC_CLASS_TRACKER_LOCK",
                "_class_setstate",
                "_function_setstate",
                "_lookup_class_or_track",
                "_lookup_module_and_qualname",
                "_make_skeleton_class",
            )
        ),
    ),
)


def missing_uses(uses: Sequence[PrivateUse] = PRIVATE_USES) -> list[PrivateUse]:
    """Return the uses that the installed libraries lack a name for."""
    return [use for use in uses if use.missing]
