"""Names of Ray, Serve, Starlette and FastAPI that are not public and are used all the same.

Written against ray 2.60 (pinned below 2.61). A session checks them when it starts and warns of
those that are gone; each use falls back on the public API, or does without, as the table says.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

__all__ = ["PRIVATE_NAMES", "PrivateName", "missing_names"]


@dataclass(frozen=True)
class PrivateName:
    """One name.

    Attributes:
        name: ``module:attribute``, or ``module:callable(parameter)``.
        used_for: why it is used.
        without: what happens where it is gone.
    """

    name: str
    used_for: str
    without: str

    @property
    def exists(self) -> bool:
        """Whether what is installed has it."""
        module, _, path = self.name.partition(":")
        path, _, parameter = path.rstrip(")").partition("(")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of deprecations in what is imported
                value: Any = import_module(module)
            for part in path.split(".") if path else ():
                value = getattr(value, part)
            return not parameter or parameter in inspect.signature(value).parameters
        except (ImportError, AttributeError):
            return False


PRIVATE_NAMES: Sequence[PrivateName] = (
    PrivateName(
        "ray.serve.deployment:Deployment(_internal)",
        "Deployment._version holds a digest, so that an unchanged deployment keeps its replicas",
        "every deploy restarts every replica",
    ),
    PrivateName(
        "ray.serve.context:_get_global_client",
        "details of each replica: process id, node, resources",
        "app.placement() is empty, and a deployment without room waits instead of saying so",
    ),
    PrivateName(
        "ray.serve:get_deployment_handle(_check_exists)",
        "a replica gets a handle without asking the controller from its event loop",
        "the first call of a stage blocks the loop for a moment",
    ),
    PrivateName(
        "ray.serve.handle:DeploymentHandle._init",
        "the session calls replicas from threads that have no event loop",
        "convergence of a rollout is read off Serve's status alone",
    ),
    PrivateName(
        "ray.serve:delete(_blocking)",
        "several applications are deleted at once",
        "one after the other",
    ),
    PrivateName(
        "ray._private.worker:_global_node",
        "the log monitor, autoscaler monitor and dashboard are ended after start",
        "1.2% of a core more at rest",
    ),
    PrivateName(
        "ray._private.node:Node.kill_dashboard(check_alive)",
        "likewise",
        "likewise",
    ),
    PrivateName(
        "ray._private.grpc_utils:init_grpc_channel",
        "idle processes are started ahead for replicas (PrestartWorkers)",
        "a new replica starts seconds later",
    ),
    PrivateName(
        "ray.core.generated.node_manager_pb2:PrestartWorkersRequest",
        "likewise",
        "likewise",
    ),
    PrivateName(
        "ray.serve._private.replica:",
        "imported ahead by idle processes",
        "a new replica starts a second later",
    ),
    PrivateName(
        "starlette.datastructures:State(state)",
        "the state of a user's application travels",
        "deploy(fastapi=app) of an application with state names it as what cannot be sent",
    ),
    PrivateName(
        "fastapi.routing:_IncludedRouter",
        "routes of included routers are fingerprinted and searched for pipelines",
        "an application with included routers counts as changed at each deploy",
    ),
)


def missing_names() -> list[PrivateName]:
    """Names that what is installed does not have."""
    return [name for name in PRIVATE_NAMES if not name.exists]
