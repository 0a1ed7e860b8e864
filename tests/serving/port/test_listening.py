"""Every socket that a session listens on is in the inventory of docs/security.md."""

import re
import socket
from pathlib import Path

import grpc
import psutil
import pytest

from mlkit import pipeline, step
from mlkit.serving.control.watchdog import processes_of
from mlkit.serving.kernel.cluster import GCS_CALL

pytestmark = [pytest.mark.serve, pytest.mark.timeout(240)]

WORKER = "IDLE"
"""A process of Ray's that is kept ready; there need not be one."""

CALLS = (
    GCS_CALL,
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.ReporterService/HealthCheck",
    "/ray.serve.ASGIService/HandleRequest",
)
"""A call for each of Ray's gRPC servers."""


@step(stage="far", num_cpus=0.1)
def same(x: int) -> int:
    return x


@pipeline
def shop(x: int) -> int:
    return same(x)


def inventory(page: str) -> dict[str, set[str]]:
    """Returns what the page says: the interfaces that each kind of process listens on."""
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \| [^|]+ \|$", page, re.MULTILINE)
    written = {kind: set(interfaces.split(", ")) for kind, interfaces in rows}
    for interfaces in written.values():
        if "node" in interfaces:  # a machine may have no other address than the loopback's
            interfaces.add("loopback")
    return written


def kind_of(process: psutil.Process) -> str:
    """Returns the actor's class, the program's name, or the module that Python runs."""
    words = process.cmdline()
    if words[0].startswith("ray::"):
        return re.split(r"[:.]", words[0])[2]
    if not Path(words[0]).name.startswith("python"):
        return Path(words[0]).name
    script = Path(words[2] if words[1].startswith("-") else words[1]).name
    return WORKER if script.endswith("worker.py") else script


def listening(processes):
    """Yields the process's kind, the address and the interface of each listening socket."""
    for process in processes:
        try:
            kind = kind_of(process)
            connections = process.net_connections("inet")
        except psutil.NoSuchProcess:
            continue
        for connection in connections:
            if connection.status == psutil.CONN_LISTEN:
                address = connection.laddr
                named = {"127.0.0.1": "loopback", "::1": "loopback", "0.0.0.0": "all", "::": "all"}
                yield kind, address, named.get(address.ip, "node")


def answers_to_a_stranger(address) -> set[str]:
    """Returns the statuses that a caller without a token gets, of HTTP or of gRPC."""
    host = "127.0.0.1" if address.ip in ("0.0.0.0", "::") else address.ip
    with socket.create_connection((host, address.port), timeout=5) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        try:
            answer = connection.recv(12)
        except ConnectionResetError:
            answer = b""
    if answer.startswith(b"HTTP/1"):
        return {answer[9:].decode()}
    return {grpc_status(f"{host}:{address.port}", call) for call in CALLS}


def grpc_status(target: str, call: str) -> str:
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(call)(b"", timeout=5)
        except grpc.RpcError as error:
            return error.code().name
    return "OK"


def is_refused(statuses: set[str]) -> bool:
    """Returns whether a caller got nothing: of gRPC, each server knows one or two of the calls."""
    of_grpc = {"UNAUTHENTICATED", "UNIMPLEMENTED"}
    return statuses == {"401"} or ("UNAUTHENTICATED" in statuses and statuses <= of_grpc)


def test_what_listens_is_in_the_inventory_and_asks_for_a_token(live, repository) -> None:
    app = live(shop)
    assert app(1) == 1
    written = inventory((repository / "docs" / "security.md").read_text())
    sockets = list(listening(processes_of(app.session.folder.name)))
    assert {kind for kind, _, _ in sockets} | {WORKER} == written.keys()
    assert [found for found in sockets if found[2] not in written[found[0]]] == []
    outside = [found for found in sockets if found[2] != "loopback"]
    statuses = {found: answers_to_a_stranger(found[1]) for found in outside}
    assert {found: got for found, got in statuses.items() if not is_refused(got)} == {}
