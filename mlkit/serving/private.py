"""Private names of Ray, Serve, Starlette and FastAPI that mlkit depends on, as of ray 2.60.

A session checks them when it starts, and warns if any are missing. Each use falls back on the
public API, or does without, as the table states.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

__all__ = ["PRIVATE_NAMES", "PrivateName", "missing_names", "private"]


@dataclass(frozen=True)
class PrivateName:
    """A private name of a library.

    Attributes:
        name: ``module:attribute``, or ``module:callable(parameter)``.
        used_for: purpose.
        without: effect if it is missing.
    """

    name: str
    used_for: str
    without: str

    @property
    def exists(self) -> bool:
        """Whether the installed library has it."""
        name, _, parameter = self.name.rstrip(")").partition("(")
        value = private(name)
        if value is None or not parameter:
            return value is not None
        return parameter in inspect.signature(value).parameters


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


PRIVATE_NAMES: Sequence[PrivateName] = (
    PrivateName(
        "ray.serve.deployment:Deployment(_internal)",
        "Deployment._version holds a digest, so that an unchanged deployment keeps its replicas",
        "every deploy restarts every replica",
    ),
    PrivateName(
        "ray.serve.context:_get_global_client",
        "process id, node and resources of each replica",
        "app.placement() is empty, and a deployment without resources waits instead of failing",
    ),
    PrivateName(
        "ray.serve:get_deployment_handle(_check_exists)",
        "a replica gets a handle without asking the controller from its event loop",
        "the first call to a stage briefly blocks the event loop",
    ),
    PrivateName(
        "ray.serve.handle:DeploymentHandle._init",
        "the session calls replicas from threads that have no event loop",
        "a rollout relies on Serve's status alone",
    ),
    PrivateName(
        "ray.serve:delete(_blocking)",
        "several applications are deleted concurrently",
        "applications are deleted one after the other",
    ),
    PrivateName(
        "ray._private.services:start_api_server",
        "Ray starts without its dashboard",
        "a session starts seconds later, and takes more of a core when idle",
    ),
    PrivateName(
        "ray._private.node:Node.start_monitor",
        "Ray starts without its autoscaler monitor",
        "a session takes more of a core when idle",
    ),
    PrivateName(
        "ray._private.node:Node.start_log_monitor",
        "Ray starts without its log monitor",
        "a session takes more of a core when idle",
    ),
    PrivateName(
        "ray._private.parameter:RayParams.update_if_absent",
        "Ray's workers are forks of a process that has imported what they need",
        "a new replica starts seconds later",
    ),
    PrivateName(
        "ray._private.utils:update_envs",
        "Ray's workers are forks of a process that has imported what they need",
        "a new replica starts seconds later",
    ),
    PrivateName(
        "ray._private.services:_build_python_executable_command_memory_profileable",
        "Ray's agents start without compiling a grammar",
        "a session starts a second later",
    ),
    PrivateName(
        "ray.serve._private.api:_create_controller_and_proxy_refs",
        "replicas start while HAProxy does",
        "a session starts seconds later",
    ),
    PrivateName(
        "ray._private.grpc_utils:init_grpc_channel",
        "worker processes are prestarted for replicas (PrestartWorkers)",
        "a new replica starts seconds later",
    ),
    PrivateName(
        "ray.core.generated.node_manager_pb2:PrestartWorkersRequest",
        "worker processes are prestarted for replicas (PrestartWorkers)",
        "a new replica starts seconds later",
    ),
    PrivateName(
        "ray.core.generated.node_manager_pb2_grpc:NodeManagerServiceStub",
        "worker processes are prestarted for replicas (PrestartWorkers)",
        "a new replica starts seconds later",
    ),
    PrivateName(
        "ray.core.generated.common_pb2:PYTHON",
        "worker processes are prestarted for replicas (PrestartWorkers)",
        "a new replica starts seconds later",
    ),
    PrivateName(
        "ray.serve._private.replica:",
        "imported in advance by idle worker processes",
        "a new replica starts a second later",
    ),
    PrivateName(
        "ray.serve._private.deployment_state:DeploymentState.get_running_replica_infos",
        "replicas take requests while they load a new version",
        "requests take the slower fallback proxy for a moment at each update",
    ),
    PrivateName(
        "ray.serve._private.common:ReplicaState.UPDATING",
        "replicas take requests while they load a new version",
        "requests take the slower fallback proxy for a moment at each update",
    ),
    PrivateName(
        "ray.serve._private.haproxy:HAProxyManager.__ray_metadata__.modified_class.check_health",
        "HAProxy is started again as soon as it has died",
        "that takes ten seconds",
    ),
    PrivateName(
        "ray.serve._private.haproxy:HAProxyApi._is_running",
        "HAProxy is started again as soon as it has died",
        "that takes ten seconds",
    ),
    PrivateName(
        "starlette.datastructures:State(state)",
        "the state of a user's application is pickled",
        "deploy(fastapi=app) rejects an application with state",
    ),
    PrivateName(
        "fastapi.datastructures:_Unset",
        "options that a route leaves out are still unset in a replica",
        "bodies have an empty example in /openapi.json",
    ),
    PrivateName(
        "fastapi.routing:_IncludedRouter",
        "routes of included routers are fingerprinted and searched for pipelines",
        "an application with included routers counts as changed at each deploy",
    ),
)


def missing_names() -> list[PrivateName]:
    """Return the names that the installed libraries lack."""
    return [name for name in PRIVATE_NAMES if not name.exists]
