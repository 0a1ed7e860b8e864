"""Ray's and Serve's environment, as it has to be before Ray starts.

Serve's defaults serve a no-op at 110 requests a second on two cores; with these it is 3,600. Names
and meanings are those of ray 2.60's ``serve/_private/constants.py``; they count when a process
starts, so a Ray that somebody else started does not have them.
"""

from __future__ import annotations

import random
import secrets
import socket
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

__all__ = ["cluster_environment", "free_port", "ray_environment"]

PRELOADED = ("mlkit.serving.port.replicas", "ray.serve._private.replica")
"""Modules that each process of Ray imports when it starts."""

_DATA_PLANE = {
    # Serve's fast data plane: HAProxy in front, straight into the replica's own loop.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",
    # With the default of 30 s, replacing a replica takes 31.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
    # Room for a picture, so that a request whose replica died before it read it is retried.
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(128 * 1024),
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(64 * 2**20),
    "RAY_SERVE_LOG_TO_STDERR": "0",
    # A proxy that has not imported everything within three of these (5 s each by default) is
    # killed; on a busy machine of two cores it takes longer.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
}


def ray_environment(folder: Path) -> dict[str, str]:
    """Variables for the session process that lives in this folder."""
    stats, metrics, fallback = (str(free_port()) for _ in range(3))
    http_base, grpc_base = _free_block(), _free_block()
    return {
        **_DATA_PLANE,
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        # Several sessions on one machine: nothing at a fixed path or port.
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
        # Ray's own ports listen everywhere; nobody gets in without this session's token.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        # What Ray counts for its own dashboard, which is not there: 2% of a core.
        "RAY_task_events_report_interval_ms": "0",
        "RAY_enable_metrics_collection": "0",
        "RAY_event_stats": "0",
        "REPORTER_UPDATE_INTERVAL_MS": "60000",
        # A turn of Serve's controller takes its time and the GCS's: at its 0.1 s, 1.3% of a core
        # more than at this. Changes show a tenth of a second or two later.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.2",
        # A process of Ray is kept ready before it is needed, with what a replica imports.
        "RAY_preload_python_modules": ",".join(PRELOADED),
        # No word to anybody.
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # How the watchdog knows the session's processes from others. Ray's write their titles over
        # their environment, where it could not be read any more, unless told not to.
        "MLKIT_SESSION": folder.name,
        "SPT_NOENV": "1",
    }


def cluster_environment() -> dict[str, str]:
    """Variables for the processes that an app has on a cluster that somebody else started.

    Paths and ports are the nodes' own. They reach Serve's controller and proxies too, unless Serve
    runs there already: then it stays as it was started.
    """
    return dict(_DATA_PLANE)


_BLOCK = 100


_given: deque[int] = deque(maxlen=64)


def free_port() -> int:
    """A TCP port of the loopback interface that is free now, and not given out lately.

    It is none that the system takes by itself: until a server listens on it, every connection
    that Ray's processes make could be given the same number.
    """
    while True:
        port = random.randrange(30_000, 32_768)
        if port not in _given and _can_listen(port):
            _given.append(port)
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
    """First of a hundred ports, probably free: Serve tries the next where one is taken."""
    return next(base for base in _bases() if _is_free(base) and _is_free(base + 1))


def _bases() -> Iterator[int]:
    while True:
        yield random.randrange(10_000, 30_000, _BLOCK)


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
