"""Whether a Ray cluster turns strangers away: who joins one runs the code of whoever gets in."""

from __future__ import annotations

import os

from mlkit.errors import DeployError

__all__ = ["check_asks_for_token"]

TIMEOUT_S = 5.0
# Calls that change nothing and whose request may be empty: of the GCS, and of a Ray Client server.
GCS_CALL = "/ray.rpc.NodeInfoGcsService/CheckAlive"
CLIENT_CALL = "/ray.rpc.RayletDriver/ClusterInfo"


def check_asks_for_token(address: str) -> None:
    """Call a cluster without a token, which must be refused.

    Raises:
        DeployError: it was answered, or there is no telling.
    """
    import grpc

    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return  # such a cluster talks only to holders of a certificate of its own
    call = CLIENT_CALL if address.startswith("ray://") else GCS_CALL
    target = address.removeprefix("ray://")
    try:
        with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
            channel.unary_unary(call)(b"", timeout=TIMEOUT_S)
        got = "an answer to a call without a token"
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            return
        got = f"{error.code().name}: {error.details()}"
    raise DeployError(
        "it is not known to ask for a token, without which it runs the code of whoever reaches it",
        where=f"cluster {address}",
        expected="the address of a cluster that was started with RAY_AUTH_MODE=token",
        got=got,
        fix="start it so; or, if you trust all that can reach it, say insecure_cluster=True",
    )
