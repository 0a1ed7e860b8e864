"""`mlkit.serving.control.cluster.Cluster` on Ray Serve 2.60, and the start and stop of Ray."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from mlkit.serving.control.cause import cause_in
from mlkit.serving.control.cluster import (
    ApplicationStatus,
    ApplicationTarget,
    ReplicaCounts,
    ReplicaReport,
)
from mlkit.serving.control.flags import cluster_environment
from mlkit.serving.control.watchdog import sweep
from mlkit.serving.port import depot, details, imports, start_worker
from mlkit.serving.port.replicas import RayFront, RayStage, handle_of
from mlkit.serving.port.scaling import serve_config
from mlkit.serving.port.spares import Spares
from mlkit.serving.private import SEPARATE_ROUTERS, private
from mlkit.serving.replica.front import VERSION_PATH

__all__ = ["RayCluster", "join_ray", "start_local_ray", "start_ray", "stop_ray"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

SETTLE_S = 10.0
"""How long a cancelled call may take before its thread is abandoned."""
REPORT_TIMEOUT_S = 30.0
DELETE_TIMEOUT_S = 60.0

_KINDS = {"front": RayFront, "stage": RayStage}


class _Lane:
    """Runs blocking calls on its own threads, in order."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = self._new_pool()

    def _new_pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._threads, thread_name_prefix="mlkit-ray")

    async def run(self, call: Callable[..., T], *args: Any) -> T:
        """Run a call; a cancelled one is awaited, so that no later call overtakes it."""
        future = asyncio.get_running_loop().run_in_executor(self._pool, call, *args)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if not future.cancel():
                await asyncio.wait({future}, timeout=SETTLE_S)
            if not future.done():  # Ray hangs: abandon the thread
                self._pool.shutdown(wait=False)
                self._pool = self._new_pool()
            elif not future.cancelled():
                future.exception()  # otherwise asyncio logs it as never retrieved
            raise


class RayCluster:
    """Ray Serve, in the process that called `start_ray`.

    Args:
        local: whether the session started Ray itself.
    """

    def __init__(self, local: bool) -> None:
        self.local = local
        self._changes = _Lane(1)
        self._queries = _Lane(2)
        self._spares = Spares()
        self._handles: dict[tuple[str, str], Any] = {}

    async def publish(self, path: Path) -> str:
        """Return the file's location: the file itself locally, an actor on a cluster."""
        return str(path) if self.local else await self._changes.run(depot.keep, str(path))

    async def retract(self, locations: Sequence[str]) -> None:
        """Delete published objects from a cluster's depot."""
        if not self.local and locations:
            await self._changes.run(depot.drop, locations)

    async def apply(self, targets: Sequence[ApplicationTarget]) -> None:
        """Apply the targets without waiting for their replicas."""
        await self._changes.run(_apply, targets)

    async def delete(self, applications: Sequence[str]) -> None:
        """Delete applications and wait until they are deleted."""
        await self._changes.run(_delete, applications)

    async def status(self, applications: Sequence[str]) -> dict[str, ApplicationStatus]:
        """Return the status of each application."""
        return await self._queries.run(_status, applications)

    async def reports(self, target: ApplicationTarget) -> list[ReplicaReport]:
        """Return a report of every running replica."""
        return await self._queries.run(self._reports, target)

    def _reports(self, target: ApplicationTarget) -> list[ReplicaReport]:
        from ray.exceptions import RayError
        from ray.serve.exceptions import DeploymentUnavailableError

        if SEPARATE_ROUTERS.missing:
            return []
        key = target.name, target.deployment
        if key not in self._handles:
            self._handles[key] = handle_of(*key)
            # By default its router runs in the event loop of this thread, which has none.
            self._handles[key]._init(_run_router_in_separate_loop=True)
        try:
            reports = self._handles[key].broadcast("loaded").results(timeout_s=REPORT_TIMEOUT_S)
        except DeploymentUnavailableError:  # scaled to zero
            return []
        except RayError:  # a replica is stopping: the caller polls again
            return [ReplicaReport(0, (), {})]
        return [ReplicaReport(a["pid"], tuple(a["loaded"]), a["rejected"]) for a in reports]

    async def answering_version(self, base_url: str) -> str | None:
        """Return the version of the replica that responds, or None."""
        return await self._queries.run(_version_at, base_url)

    async def counts(
        self, applications: Mapping[str, str], *, beside: bool = False
    ) -> dict[str, ReplicaCounts]:
        """Return the replica counts by stage."""
        return await self._queries.run(details.counts, applications, beside)

    async def resources(self) -> Mapping[str, float]:
        """Return the total resources of all nodes."""
        return await self._queries.run(details.resources)

    async def placement(self, applications: Mapping[str, str]) -> dict[str, Any]:
        """Return the nodes of replicas, and the allocated resources."""
        return await self._queries.run(details.placement, applications)

    async def keep_spares(self) -> None:
        """Prestart idle worker processes, if the session started Ray itself."""
        if self.local:
            await self._queries.run(self._spares.keep)


def _apply(targets: Sequence[ApplicationTarget]) -> None:
    from ray import serve

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


def _application(target: ApplicationTarget) -> Any:
    from ray import serve

    options = {
        "name": target.deployment,
        "max_surge_percent": 100,  # the old replica serves until the new one is ready
        "max_constructor_retry_count": 1,
        "health_check_period_s": 1.0,  # the third failure in a row counts
        "graceful_shutdown_wait_loop_s": 0.1,
        "user_config": target.user_config,
        "logging_config": {"log_level": "WARNING", "enable_access_log": False},
        **target.options,
    }
    if "autoscaling_config" in options:
        running = _status([target.name])[target.name].replicas.get("RUNNING", 0)
        options["autoscaling_config"] = serve_config(options["autoscaling_config"], running)
    if target.has_pools:
        from mlkit.serving.port.routing import StageRouting

        router: Any = "mlkit.serving.port.routing.ModelRouter"
        options["request_router_config"] = StageRouting(request_router_class=router)
    kind: Any = _KINDS[target.kind]
    if target.route_prefix is not None:
        kind = serve.ingress()(kind)
    deployment: Any = serve.deployment(kind)
    deployment = deployment.options(**options)
    deployment._version = target.version
    return deployment.bind(*target.arguments)


def _status(applications: Sequence[str]) -> dict[str, ApplicationStatus]:
    from ray import serve

    overview = serve.status().applications
    return {name: _status_of(overview.get(name)) for name in applications}


def _status_of(overview: Any) -> ApplicationStatus:
    if overview is None:
        return ApplicationStatus("NOT_RUNNING")
    deployments = list(overview.deployments.values())
    replicas: dict[str, int] = {}
    for deployment in deployments:
        for state, count in deployment.replica_states.items():
            name = str(getattr(state, "value", state))
            replicas[name] = replicas.get(name, 0) + count
    state = overview.status.value
    failed = state == "DEPLOY_FAILED" or any(
        deployment.status.value == "DEPLOY_FAILED" for deployment in deployments
    )
    message = overview.message
    if failed:
        messages = [deployment.message for deployment in deployments if deployment.message]
        message = cause_in((messages or [message])[0])
    return ApplicationStatus(state, message, replicas, failed)


def _delete(applications: Sequence[str]) -> None:
    from ray import serve

    try:
        for name in applications:
            serve.delete(name, _blocking=False)
    except TypeError:  # without it, one after the other
        for name in applications:
            serve.delete(name)
    # Serve's own wait polls once a second.
    until = time.monotonic() + DELETE_TIMEOUT_S
    while remaining := serve.status().applications.keys() & set(applications):
        if time.monotonic() > until:
            raise TimeoutError(f"not deleted within {DELETE_TIMEOUT_S:g} s: {sorted(remaining)}")
        time.sleep(0.05)


def _version_at(base_url: str) -> str | None:
    try:
        with urllib.request.urlopen(base_url + VERSION_PATH, timeout=2) as response:
            return str(response.read().decode())
    except (OSError, ValueError):
        return None


def start_ray(address: str, *, host: str, port: int, object_store_bytes: int, folder: Path) -> None:
    """Start Ray and Serve in this process's main thread, or join a cluster.

    Args:
        address: "local" to start Ray, otherwise the address of a running cluster.
        host: interface of the HTTP front end.
        port: port of the HTTP front end.
        object_store_bytes: size of the object store of a local Ray.
        folder: logs and sockets of a local Ray; deleted with the session.
    """
    if address == "local":
        start_local_ray(object_store_bytes, folder)
    else:
        join_ray(address)
    from ray import serve

    # Several nodes on one machine (in tests) cannot all bind the port.
    location = os.environ.get("MLKIT_PROXY_LOCATION", "EveryNode")
    with _without_proxies() if address == "local" else nullcontext():
        serve.start(
            proxy_location=location,
            http_options={"host": host, "port": port},
            logging_config={"log_level": "WARNING"},
        )


def join_ray(address: str) -> None:
    """Join a cluster, whose environment is not ours to set; that of our jobs is."""
    with imports.deferred_grammar():
        import ray

    variables = cluster_environment()
    if "PYTHONPATH" in os.environ:  # a checkout, for nodes that share it
        variables["PYTHONPATH"] = os.environ["PYTHONPATH"]
    ray.init(
        address=address,
        log_to_driver=False,
        logging_level=logging.ERROR,
        namespace="mlkit",
        runtime_env={"env_vars": variables},
    )


@contextmanager
def _without_proxies() -> Iterator[None]:
    """Start Serve without waiting for HAProxy, so that replicas start at the same time.

    A deployment ends with requests through HAProxy, which wait for it.
    """
    name = "_create_controller_and_proxy_refs"
    start = private(f"ray.serve._private.api:{name}")
    without: dict[str, Any] = {name: lambda *options, **more: (start(*options, **more)[0], [])}
    with _replaced("ray.serve._private.api:", without):
        yield


def start_local_ray(
    object_store_bytes: int, folder: Path, num_cpus: int | None = None, attempts: int = 3
) -> None:
    """Start Ray; on a busy machine, its own timeout of 30 s may be too short."""
    with imports.deferred_grammar():
        import ray

    for left in reversed(range(attempts)):
        try:
            with _without_unused_processes(), _quick_processes():
                ray.init(
                    address="local",
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    num_cpus=num_cpus,
                    object_store_memory=object_store_bytes,
                    namespace="mlkit",
                    _temp_dir=str(folder),
                )
            return
        except Exception as error:
            if not left or "timed out during startup" not in str(error):
                raise
            ray.shutdown()
            sweep(os.environ["MLKIT_SESSION"])  # processes of the failed attempt


@contextmanager
def _without_unused_processes() -> Iterator[None]:
    """Start Ray without its log monitor, autoscaler monitor and dashboard.

    A local session does not use them, and `ray.init` has no parameter to leave them out. It would
    wait for the dashboard to start; when idle, they take 1.2% of a core.
    """
    nothing = {"start_log_monitor": lambda node: None, "start_monitor": lambda node: None}
    dashboard = {"start_api_server": lambda *options, **more: (None, None)}
    node, services = "ray._private.node:Node", "ray._private.services:"
    with _replaced(node, nothing), _replaced(services, dashboard):
        yield


@contextmanager
def _quick_processes() -> Iterator[None]:
    """Start Ray so that its workers are forked, and its agents import less.

    See `mlkit.serving.port.forkserver` and `mlkit.serving.port.imports`.
    """
    parameters, services = "ray._private.parameter:RayParams", "ray._private.services:"
    python = "_build_python_executable_command_memory_profileable"
    update, command = private(f"{parameters}.update_if_absent"), private(services + python)

    def updated(params: Any, **defaults: Any) -> None:
        if "setup_worker_path" in defaults:
            defaults["setup_worker_path"] = start_worker.__file__
        update(params, **defaults)

    agents = {python: lambda *options, **more: [*command(*options, **more), imports.__file__]}
    with _replaced(parameters, {"update_if_absent": updated}), _replaced(services, agents):
        yield


@contextmanager
def _replaced(owner_name: str, replacements: Mapping[str, Any]) -> Iterator[None]:
    """Replace those of the private functions that this version of Ray has; see `missing_uses`."""
    owner = private(owner_name)
    known = {name: getattr(owner, name) for name in replacements if hasattr(owner, name)}
    try:
        for name in known:
            setattr(owner, name, replacements[name])
        yield
    finally:
        for name, function in known.items():
            setattr(owner, name, function)


def stop_ray(address: str, applications: Sequence[str]) -> None:
    """Stop Serve and Ray; on a cluster, only delete this session's applications.

    Args:
        address: as for `start_ray`.
        applications: the session's applications.
    """
    import ray
    from ray import serve

    if address == "local":
        serve.shutdown()  # type: ignore[no-untyped-call]
    else:
        _delete(applications)
    ray.shutdown()
