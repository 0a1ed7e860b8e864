"""The one place that talks to Ray and Ray Serve; written against ray 2.60.

Two things it uses are not public, and have tests of their own. With a digest in the attribute
``_version`` of a deployment, an unchanged deployment keeps its replicas; without, every
``serve.run`` restarts all. And of the processes that Ray starts, its node ends those that would
only take time.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlkit.errors import Cancelled, DeployError
from mlkit.serving.control.flags import cluster_environment
from mlkit.serving.control.room import Room
from mlkit.serving.port.details import counts

__all__ = [
    "Target",
    "delete",
    "deploy",
    "handle_of",
    "loaded",
    "start",
    "status",
    "stop",
]


@dataclass(frozen=True, kw_only=True)
class Target:
    """An application with one deployment, as Serve should have it.

    Attributes:
        name: of the application.
        deployment: name of its deployment.
        kind: the class that it runs.
        arguments: what each replica is started with.
        route_prefix: path that leads to it; None for one that only handles reach.
        version: changes when its replicas have to be replaced.
        user_config: what a running replica is told when it changes.
        options: Serve's deployment options by Serve's names.
    """

    name: str
    deployment: str
    kind: type
    arguments: tuple[Any, ...]
    version: str
    user_config: dict[str, Any]
    route_prefix: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


def start(address: str, *, host: str, port: int, object_store_bytes: int, folder: Path) -> None:
    """Start Ray and Serve in this process's main thread, or join a cluster.

    Args:
        address: "local" for a Ray of one's own, else a running cluster's.
        host: interface of the HTTP front end.
        port: of the HTTP front end.
        object_store_bytes: shared memory for objects of a Ray of one's own.
        folder: where such a Ray keeps its logs and sockets; goes with the session.
    """
    import ray
    from ray import serve

    if address == "local":
        _start_ray(object_store_bytes, folder)
    else:
        # What the processes of a cluster inherit is not this one's to say, but what its jobs get.
        variables = cluster_environment()
        if "PYTHONPATH" in os.environ:  # run from a checkout; of use to nodes that have it too
            variables["PYTHONPATH"] = os.environ["PYTHONPATH"]
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            namespace="mlkit",
            runtime_env={"env_vars": variables},
        )
    # Every node answers, unless that is said otherwise: several on one machine share their ports.
    location = os.environ.get("MLKIT_PROXY_LOCATION", "EveryNode")
    serve.start(
        proxy_location=location,
        http_options={"host": host, "port": port},
        logging_config={"log_level": "WARNING"},
    )


def _start_ray(object_store_bytes: int, folder: Path, attempts: int = 3) -> None:
    """Start a Ray of one's own; on a busy machine its own limit of 30 s may be too short."""
    import ray

    for left in reversed(range(attempts)):
        try:
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=object_store_bytes,
                namespace="mlkit",
                _temp_dir=str(folder),
            )
            _end_idle_processes()
            return
        except Exception as error:
            if not left or "timed out during startup" not in str(error):
                raise


def _end_idle_processes() -> None:
    """End what only sends logs to drivers, asks for machines, and serves a dashboard.

    Nobody here is sent logs, there is one machine, and no dashboard; together they take 1.2% of a
    core. `ray.init` has no parameter that leaves them out.
    """
    from ray._private import worker

    node: Any = worker._global_node
    for end in (node.kill_log_monitor, node.kill_monitor, node.kill_dashboard):
        end(check_alive=False)


def deploy(
    targets: Sequence[Target],
    on_progress: Callable[[str], None],
    cancelled: Callable[[], bool],
    patience_s: float = float("inf"),
) -> None:
    """Bring applications to their targets and wait until Serve has all of them running.

    Args:
        targets: what there should be.
        on_progress: is told how far it is.
        cancelled: says whether it was given up.
        patience_s: how long a replica may be without a place; see `Room`.

    Raises:
        DeployError: replicas do not come up, or there is no room for them.
        Cancelled: it was given up.
    """
    from ray import serve

    if not targets:
        return
    serve.run_many(
        [
            serve.RunTarget(
                target=_application(target), name=target.name, route_prefix=target.route_prefix
            )
            for target in targets
        ],
        wait_for_ingress_deployment_creation=False,
        wait_for_applications_running=False,
    )
    _wait(targets, on_progress, cancelled, patience_s)


def _application(target: Target) -> Any:
    from ray import serve

    options = {
        "name": target.deployment,
        "max_surge_percent": 100,  # the old replica serves until the new one is ready
        "max_constructor_retry_count": 1,
        "health_check_period_s": 2.0,
        "graceful_shutdown_wait_loop_s": 0.1,
        "user_config": target.user_config,
        "logging_config": {"log_level": "WARNING", "enable_access_log": False},
        **target.options,
    }
    if "autoscaling_config" in options:
        from mlkit.serving.port.scaling import serve_config

        options["autoscaling_config"] = serve_config(
            options["autoscaling_config"], replicas_of(target)
        )
    kind = serve.ingress()(target.kind) if target.route_prefix is not None else target.kind
    made: Any = serve.deployment(kind)
    deployment = made.options(**options)
    deployment._version = target.version
    return deployment.bind(*target.arguments)


def _wait(
    targets: Sequence[Target],
    on_progress: Callable[[str], None],
    cancelled: Callable[[], bool],
    patience_s: float,
) -> None:
    from ray import serve

    said = ""
    stages = {target.name: target.deployment for target in targets}
    room = Room(lambda: counts(stages, beside=True), patience_s)
    while True:
        if cancelled():
            raise Cancelled("the deployment was interrupted")
        applications = serve.status().applications
        waiting = []
        for target in targets:
            found = applications.get(target.name)
            if found is None or found.status.value != "RUNNING":
                waiting.append((target, found))
            _check_failed(target, found)
        if not waiting:
            return
        target, found = waiting[0]
        text = room.lacking() or _progress(list(found.deployments.values()) if found else [])
        if len(targets) > 1:
            done = f"{len(targets) - len(waiting)} of {len(targets)}"
            text = f"{target.deployment}: {text} ({done} stages ready)"
        if text != said:
            on_progress(text)
            said = text
        time.sleep(0.05)


def _check_failed(target: Target, found: Any) -> None:
    if found is None:
        return
    deployments = list(found.deployments.values())
    failed = found.status.value == "DEPLOY_FAILED"
    if failed or any(d.status.value == "DEPLOY_FAILED" for d in deployments):
        words = [d.message for d in deployments if d.message] or [found.message]
        raise DeployError(
            "its replicas do not start", where=target.deployment, got=_last_line(words[0])
        )


def handle_of(application: str, deployment: str) -> Any:
    """A handle that calls a deployment, in this process or in a replica."""
    from ray import serve

    # It was there a moment ago; asking the controller again would block a replica's loop.
    return serve.get_deployment_handle(deployment, application, _check_exists=False)


def replicas_of(target: Target) -> int:
    """Replicas of an application that run now."""
    from ray import serve

    found = serve.status().applications.get(target.name)
    deployments: Any = found.deployments.values() if found else ()
    return sum(d.replica_states.get("RUNNING", 0) for d in deployments)


def loaded(target: Target, timeout_s: float = 30.0) -> dict[str, Any]:
    """What a replica of a deployment says of its versions: see `StageReplica.loaded`."""
    handle = handle_of(target.name, target.deployment)
    if not handle.is_initialized:  # it is kept for the next time
        # Its router would run in this thread's loop, and there is none.
        handle._init(_run_router_in_separate_loop=True)
    response = handle.loaded.remote()
    answer: dict[str, Any] = response.result(timeout_s=timeout_s)
    return answer


def _progress(deployments: list[Any]) -> str:
    counts: dict[str, int] = {}
    for deployment in deployments:
        for state, count in deployment.replica_states.items():
            counts[str(getattr(state, "value", state))] = count
    if counts.get("RUNNING") and counts.get("STARTING"):
        return "starting the new replica beside the old one"
    if counts.get("STOPPING"):
        return "stopping the old replica"
    return "starting a replica and loading its resources"


def _last_line(message: str) -> str:
    lines = [line for line in message.strip().splitlines() if line.strip()]
    return lines[-1] if lines else "no word of why"


def status(applications: Sequence[str]) -> dict[str, Any]:
    """State of each application as Serve reports it, as plain data."""
    from ray import serve

    found = serve.status().applications
    return {name: _state(found.get(name)) for name in applications}


def _state(found: Any) -> dict[str, Any]:
    if found is None:
        return {"state": "NOT_RUNNING", "message": "", "replicas": {}}
    replicas: dict[str, int] = {}
    for deployment in found.deployments.values():
        for state, count in deployment.replica_states.items():
            name = str(getattr(state, "value", state))
            replicas[name] = replicas.get(name, 0) + count
    return {"state": found.status.value, "message": found.message, "replicas": replicas}


def delete(applications: Sequence[str]) -> None:
    """Remove applications and wait until they are gone."""
    from ray import serve

    for name in applications:
        serve.delete(name, _blocking=False)
    for name in applications:
        serve.delete(name)


def stop(address: str, applications: Sequence[str]) -> None:
    """Stop Serve and Ray; on a cluster only take down what is this session's.

    Args:
        address: as for `start`.
        applications: what the session has on a cluster.
    """
    import ray
    from ray import serve

    if address == "local":
        serve.shutdown()  # type: ignore[no-untyped-call]
    else:
        delete(applications)
    ray.shutdown()
