"""The one place that talks to Ray and Ray Serve; written against ray 2.60.

One thing it uses is not public, and has a test of its own: the attribute ``_version`` of a
deployment. With a digest in it, an unchanged deployment keeps its replicas; without, every
``serve.run`` restarts all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mlkit.errors import Cancelled, DeployError
from mlkit.serving.replica import Replica, Shipment

__all__ = ["Target", "delete", "deploy", "start", "status", "stop"]

# A share of the machine for placing, not a limit: several pipelines, and the replacement of each
# while it is being updated, have to find room on two cores.
NUM_CPUS = 0.25


@dataclass(frozen=True, kw_only=True)
class Target:
    """An application as Serve should have it.

    Attributes:
        options: Serve's deployment options by Serve's names.
    """

    shipment: Shipment
    route_prefix: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """Changes when its replicas have to be replaced."""
        return self.shipment.version


def start(address: str, *, host: str, port: int, object_store_bytes: int) -> None:
    """Start Ray and Serve in this process's main thread, or join a cluster.

    Args:
        address: "local" for a Ray of one's own, else a running cluster's.
        host: interface of the HTTP front end.
        port: of the HTTP front end.
        object_store_bytes: shared memory for objects of a Ray of one's own.
    """
    import ray
    from ray import serve

    if address == "local":
        _start_ray(object_store_bytes)
    else:
        ray.init(address=address, log_to_driver=False, namespace="mlkit")
    serve.start(http_options={"host": host, "port": port}, logging_config={"log_level": "WARNING"})


def _start_ray(object_store_bytes: int, attempts: int = 3) -> None:
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
            )
            return
        except Exception as error:
            if not left or "timed out during startup" not in str(error):
                raise


def deploy(
    target: Target, *, on_progress: Callable[[str], None], cancelled: Callable[[], bool]
) -> None:
    """Bring an application to a target and wait until Serve has it running.

    Raises:
        DeployError: its replicas do not come up.
        Cancelled: it was given up.
    """
    from ray import serve

    serve.run_many(
        [
            serve.RunTarget(
                target=_application(target),
                name=target.shipment.app,
                route_prefix=target.route_prefix,
            )
        ],
        wait_for_ingress_deployment_creation=False,
        wait_for_applications_running=False,
    )
    _wait(target, on_progress, cancelled)


def _application(target: Target) -> Any:
    from ray import serve

    options = {
        "name": target.shipment.app,
        "num_replicas": 1,
        "max_surge_percent": 100,  # the old replica serves until the new one is ready
        "max_constructor_retry_count": 1,
        "health_check_period_s": 2.0,
        "graceful_shutdown_wait_loop_s": 0.1,
        # The app's own limit, which answers 503 at once, is inside this one, which queues.
        "max_ongoing_requests": 2 * target.shipment.limits.max_ongoing_requests,
        **target.options,
    }
    options["ray_actor_options"] = {"num_cpus": NUM_CPUS, **options.get("ray_actor_options", {})}
    made: Any = serve.deployment(serve.ingress()(Replica))
    deployment = made.options(**options)
    deployment._version = target.version
    return deployment.bind(target.shipment)


def _wait(
    target: Target, on_progress: Callable[[str], None], cancelled: Callable[[], bool]
) -> None:
    from ray import serve

    said = ""
    while True:
        if cancelled():
            raise Cancelled("the deployment was interrupted")
        found = serve.status().applications.get(target.shipment.app)
        state = found.status.value if found else "STARTING"
        if state == "RUNNING":
            return
        deployments = list(found.deployments.values()) if found else []
        if state == "DEPLOY_FAILED" or any(d.status.value == "DEPLOY_FAILED" for d in deployments):
            words = [d.message for d in deployments if d.message] or [
                found.message if found else ""
            ]
            raise DeployError("its replicas do not start", got=_last_line(words[0]))
        text = _progress(deployments)
        if text != said:
            on_progress(text)
            said = text
        time.sleep(0.05)


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


def status(app: str) -> dict[str, Any]:
    """State of an application as Serve reports it, as plain data."""
    from ray import serve

    found = serve.status().applications.get(app)
    if found is None:
        return {"state": "NOT_RUNNING", "message": "", "replicas": {}}
    replicas: dict[str, int] = {}
    for deployment in found.deployments.values():
        for state, count in deployment.replica_states.items():
            name = str(getattr(state, "value", state))
            replicas[name] = replicas.get(name, 0) + count
    return {"state": found.status.value, "message": found.message, "replicas": replicas}


def delete(app: str) -> None:
    """Remove an application and wait until it is gone."""
    from ray import serve

    serve.delete(app)


def stop() -> None:
    """Stop Serve and Ray."""
    import ray
    from ray import serve

    serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()
