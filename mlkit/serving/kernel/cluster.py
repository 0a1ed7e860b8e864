"""Check that a Ray cluster requires authentication, since its clients can run any code."""

from __future__ import annotations

import os

from mlkit.errors import DeployError

__all__ = ["check_asks_for_token"]

TIMEOUT_S = 5.0
# Read-only calls with an empty request, of the GCS and of a Ray Client server.
GCS_CALL = "/ray.rpc.NodeInfoGcsService/CheckAlive"
CLIENT_CALL = "/ray.rpc.RayletDriver/ClusterInfo"


def check_asks_for_token(address: str) -> None:
    """Check that a cluster rejects a call without a token.

    Raises:
        DeployError: it accepts the call, or does not respond.
    """
    import grpc

    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return  # such a cluster requires client certificates
    call = CLIENT_CALL if address.startswith("ray://") else GCS_CALL
    target = address.removeprefix("ray://")
    try:
        with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
            channel.unary_unary(call)(b"", timeout=TIMEOUT_S)
        got = "a response to a call without a token"
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            return
        got = f"{error.code().name}: {error.details()}"
    raise DeployError(
        "the cluster may not require a token: anyone who can reach it could run code on it",
        where=f"cluster {address}",
        expected="a cluster that was started with RAY_AUTH_MODE=token",
        got=got,
        fix="restart it with a token, or pass insecure_cluster=True on a trusted network",
    )
