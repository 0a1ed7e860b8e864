"""Environment variables of Ray and Serve, set before Ray starts.

With Serve's defaults, two cores serve 110 no-op requests per second; with these, 3,600. See ray
2.60's ``serve/_private/constants.py``. They are read at process start, so they do not apply to a
Serve that is already running.
"""

from __future__ import annotations

import random
import secrets
import socket
import sys
from collections import deque
from contextlib import closing
from pathlib import Path

from mlkit.serving.retries import MAX_RETRIES

__all__ = ["cluster_environment", "free_port", "ray_environment"]

PRELOADED = ("mlkit.serving.port.replicas", "ray.serve._private.replica")
"""Modules that Ray's worker processes import at start."""

OFTEN_LOADED = ("PIL.Image", "torch")
"""Modules that the fork server imports in advance if the notebook has imported them."""

CONTROLLER_CALLBACK = "mlkit.serving.port.controller.adapt"
"""Function that Serve's controller calls when it starts."""

_DATA_PLANE = {
    # Serve's fast data plane: HAProxy forwards directly to the replicas' event loops.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",
    # With the default of 30 s, replacing a replica takes 31 s.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
    # Large enough for an image, so that a request can be retried if its replica dies.
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(128 * 1024),
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(64 * 2**20),
    "RAY_SERVE_LOG_TO_STDERR": "0",
    # A proxy that is not ready after three checks (5 s each by default) is killed; on a busy
    # machine with two cores its imports take longer.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
    # HAProxy is started again after three failed checks; with the default of 10 s, that takes 30 s.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    # A replica whose workers are all stuck would be drained for 20 s, while it holds its CPUs.
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
}


def ray_environment(folder: Path) -> dict[str, str]:
    """Return the environment of the session process in a folder."""
    stats, metrics, fallback = (str(free_port()) for _ in range(3))
    http_base, grpc_base = _free_block(), _free_block()
    return {
        **_DATA_PLANE,
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        # If a replica dies before it answers, its requests go to another one, unless they must not
        # be run twice; see `mlkit.serving.control.haproxy`.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_RETRIES": str(MAX_RETRIES),
        # No fixed paths or ports, since several sessions may run on a machine.
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "ha"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": stats,
        "RAY_SERVE_HAPROXY_METRICS_PORT": metrics,
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(folder / "haproxy"),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": fallback,
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(http_base),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(http_base + _BLOCK),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(grpc_base),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(grpc_base + _BLOCK),
        # Ray's ports listen on all interfaces; access requires this session's token.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        # Metrics for Ray's dashboard, which does not run, would take 2% of a core.
        "RAY_task_events_report_interval_ms": "0",
        "RAY_enable_metrics_collection": "0",
        "RAY_event_stats": "0",
        "REPORTER_UPDATE_INTERVAL_MS": "60000",
        # At the default of 0.1 s, Serve's control loop takes 1.3% of a core more.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.2",
        "RAY_preload_python_modules": ",".join(PRELOADED),
        "MLKIT_PRELOAD": " ".join(name for name in OFTEN_LOADED if name in sys.modules),
        "RAY_SERVE_CONTROLLER_CALLBACK_IMPORT_PATH": CONTROLLER_CALLBACK,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # The mark by which the watchdog finds the session's processes. With SPT_NOENV, Ray's do
        # not overwrite their environment with their titles.
        "MLKIT_SESSION": folder.name,
        "SPT_NOENV": "1",
    }


def cluster_environment() -> dict[str, str]:
    """Return the environment of an app's processes on an existing cluster.

    It applies to Serve's controller and proxies too, unless Serve is already running.
    """
    return dict(_DATA_PLANE)


_BLOCK = 100
_recent_ports: deque[int] = deque(maxlen=64)


def free_port() -> int:
    """Return a free TCP port of the loopback interface that was not returned recently.

    It is outside the ephemeral range: until a server listens on it, no connection is assigned it.
    """
    while True:
        port = random.randrange(30_000, 32_768)
        if port not in _recent_ports and _can_listen(port):
            _recent_ports.append(port)
            return port


def _can_listen(port: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _free_block() -> int:
    """Return the first of a hundred ports, probably free: Serve skips those in use."""
    while True:
        base = random.randrange(10_000, 30_000, _BLOCK)
        if _can_listen(base) and _can_listen(base + 1):
            return base
