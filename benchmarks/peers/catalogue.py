"""The servers: how each is started and asked, and on which track."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mlkit.execute.cores import cores
from mlkit.load.requests import HttpRequest

__all__ = ["OURS", "QUICK", "SERVERS", "Server", "request", "tags_of"]

OURS = "mlkit"
BOUNDARY = "peers-boundary"
CORES = str(cores())

Body = Literal["raw", "multipart", "open_inference"]


@dataclass(frozen=True)
class Server:
    """A server and one way to run it.

    Attributes:
        name: unique.
        command: arguments of the interpreter; ``{port}`` and ``{admin}`` are replaced by ports.
        track: ``equal`` for the compiled model and tuned settings, ``oob`` for an eager model and
            the settings of a quick start.
        environment: name of the environment; None for this one.
        body: how an image is sent.
        path: of the route.
        variables: environment variables; values as in ``command``.
    """

    name: str
    command: tuple[str, ...]
    track: Literal["equal", "oob"] = "equal"
    environment: str | None = None
    body: Body = "raw"
    path: str = "/tag"
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_peer(self) -> bool:
        """Whether it is none of mlkit's own."""
        return not self.name.startswith(OURS)


_SERVERS = "benchmarks.peers.servers"
_UVICORN = ("-m", "uvicorn", "--host", "127.0.0.1", "--port", "{port}", "--log-level", "warning")
_FASTAPI = (*_UVICORN, "--no-access-log", f"{_SERVERS}.fastapi_app:app")
_MLKIT = ("-m", "mlkit.cli", "serve", "mlkit.tagging:tag", "--port", "{port}", "--no-token")
_MOSEC = ("-m", f"{_SERVERS}.mosec_app", "--address", "127.0.0.1", "--port", "{port}")
_LITSERVE = ("-m", f"{_SERVERS}.litserve_app", "{port}")
_BENTOML = (
    *("-m", "bentoml", "serve", f"{_SERVERS}.bentoml_app:TagService"),
    *("--host", "127.0.0.1", "--port", "{port}"),
)
_MLSERVER = ("-m", "mlserver.cli.main", "start", "benchmarks/peers/servers/mlserver")
_MLSERVER_PORTS = {"MLSERVER_HTTP_PORT": "{port}", "MLSERVER_GRPC_PORT": "{admin}"}
# Its pool of worker processes needs an event loop that asyncio no longer makes by itself.
_MLSERVER_PORTS["MLSERVER_PARALLEL_WORKERS"] = "0"
_GRAPH = ("-m", f"{_SERVERS}.ray_serve_graph", "{port}")
_TUNED = ("-m", f"{_SERVERS}.ray_serve_tuned", "{port}")
_FAST_PLANE = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(128 * 1024),
}
_INFER = "/v2/models/tag/infer"
_WORKERS = {"PEERS_WORKERS": CORES}
_EAGER = {"PEERS_MODEL": "eager"}

SERVERS = (
    Server(OURS, _MLKIT),
    Server("mlkit, replicas", (*_MLKIT, "--num-replicas", CORES)),
    Server("mlkit asgi", (*_UVICORN, "--no-access-log", f"{_SERVERS}.mlkit_asgi:app")),
    Server("FastAPI", _FASTAPI, variables={"PEERS_THREADS": "4"}),
    Server("FastAPI, processes", (*_FASTAPI, "--workers", CORES), variables={"PEERS_THREADS": "1"}),
    Server("Mosec", _MOSEC, environment="mosec", path="/inference", variables=_WORKERS),
    Server("LitServe", _LITSERVE, environment="litserve", body="multipart", variables=_WORKERS),
    Server("BentoML", _BENTOML, environment="bentoml", body="multipart", variables=_WORKERS),
    Server(
        "MLServer",
        _MLSERVER,
        environment="mlserver",
        body="open_inference",
        path=_INFER,
        variables=_MLSERVER_PORTS,
    ),
    Server("Ray Serve, tuned", _TUNED, variables={**_WORKERS, **_FAST_PLANE}),
    Server("Ray Serve graph", _GRAPH),
    Server("FastAPI (oob)", _FASTAPI, "oob", variables=_EAGER),
    Server("Mosec (oob)", _MOSEC, "oob", environment="mosec", path="/inference", variables=_EAGER),
    Server(
        "LitServe (oob)",
        _LITSERVE,
        "oob",
        environment="litserve",
        body="multipart",
        variables=_EAGER,
    ),
    Server(
        "BentoML (oob)", _BENTOML, "oob", environment="bentoml", body="multipart", variables=_EAGER
    ),
    Server(
        "MLServer (oob)",
        _MLSERVER,
        "oob",
        environment="mlserver",
        body="open_inference",
        path=_INFER,
        variables={**_MLSERVER_PORTS, **_EAGER},
    ),
    Server("Ray Serve graph (oob)", _GRAPH, "oob", variables=_EAGER),
)

QUICK = (OURS, "FastAPI", "Mosec", "LitServe", "BentoML", "MLServer", "Ray Serve graph (oob)")
"""Names of the servers of a quick run."""


def request(server: Server, port: int, image: bytes) -> HttpRequest:
    """The request that has an image tagged."""
    url = f"http://127.0.0.1:{port}{server.path}"
    if server.body == "raw":
        return HttpRequest(url=url, headers={"Content-Type": "image/jpeg"}, body=image)
    if server.body == "multipart":
        head = (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="image.jpg"'
            "\r\nContent-Type: image/jpeg\r\n\r\n"
        )
        body = head.encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode()
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        return HttpRequest(url=url, headers={"Content-Type": kind}, body=body)
    tensor = {
        "name": "image",
        "shape": [1, 1],
        "datatype": "BYTES",
        "parameters": {"content_type": "base64"},
        "data": [base64.b64encode(image).decode()],
    }
    document = json.dumps({"inputs": [tensor]}).encode()
    return HttpRequest(url=url, headers={"Content-Type": "application/json"}, body=document)


def tags_of(server: Server, body: bytes) -> frozenset[str]:
    """The tags in an answer.

    Raises:
        ValueError, LookupError, TypeError: it is no such answer.
    """
    answer: Any = json.loads(body)
    if server.body == "open_inference":
        answer = json.loads(answer["outputs"][0]["data"][0])
    return frozenset(answer["tags"])
