"""Whom `deploy` trusts before it joins a cluster; without Ray."""

from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import grpc
import pytest

from mlkit import pipeline, step
from mlkit.errors import DeployError
from mlkit.serving import deploy
from mlkit.serving.kernel.cluster import CLIENT_CALL, GCS_CALL, check_asks_for_token
from mlkit.serving.kernel.session import Session


@step
def same(x: int) -> int:
    return x


@pipeline
def echo(x: int) -> int:
    return same(x)


class Joined(Exception):
    """A session was started."""


@pytest.fixture
def join(monkeypatch):
    """Returns a function: options of `deploy` to a deployment that would be a session's first."""

    def start(**options):
        raise Joined

    monkeypatch.setattr(Session, "of_this_notebook", lambda: None)
    monkeypatch.setattr(Session, "start", start)
    return lambda **options: deploy(echo, progress=False, **options)


@pytest.fixture
def cluster():
    """Returns a function: the status of calls without a token to a server's address."""
    servers = []

    class Calls(grpc.GenericRpcHandler):
        def __init__(self, status):
            self.status = status

        def service(self, details):
            if details.method in (GCS_CALL, CLIENT_CALL):
                return grpc.unary_unary_rpc_method_handler(self.answer)
            return None

        def answer(self, request, context):
            if self.status is not None:
                context.abort(self.status, "so it is")
            return b""

    def start(status):
        server = grpc.server(ThreadPoolExecutor(1), handlers=[Calls(status)])
        servers.append(server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(None).wait()


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_cluster_that_turns_strangers_away_is_joined(join, cluster, scheme) -> None:
    with pytest.raises(Joined):
        join(address=scheme + cluster(grpc.StatusCode.UNAUTHENTICATED))


@pytest.mark.parametrize("scheme", ["", "ray://"])
@pytest.mark.parametrize("status", [None, grpc.StatusCode.UNIMPLEMENTED])
def test_any_other_cluster_is_refused_before_anything_starts(join, cluster, scheme, status) -> None:
    address = scheme + cluster(status)
    with pytest.raises(DeployError, match="insecure_cluster=True") as caught:
        join(address=address)
    assert address in str(caught.value)


def test_a_cluster_that_does_not_answer_is_refused() -> None:
    with pytest.raises(DeployError, match="UNAVAILABLE"):
        check_asks_for_token("127.0.0.1:1")


def test_an_open_cluster_is_joined_by_who_says_so(join, cluster) -> None:
    with pytest.raises(Joined):
        join(address=cluster(None), insecure_cluster=True)


def test_a_cluster_that_talks_to_holders_of_a_certificate_is_joined(join, monkeypatch) -> None:
    monkeypatch.setenv("RAY_USE_TLS", "1")
    with pytest.raises(Joined):
        join(address="127.0.0.1:1")


def test_a_ray_of_ones_own_is_asked_nothing(join) -> None:
    with pytest.raises(Joined):
        join()


def test_without_a_token_nothing_is_served_on_a_cluster(join) -> None:
    with pytest.raises(DeployError, match="loopback"):
        join(address="10.0.0.5:6379", token=None, insecure_cluster=True)


def test_what_is_called_is_there_in_ray() -> None:
    import ray  # noqa: F401  # it finds its generated modules

    for call, module in ((GCS_CALL, "gcs_service"), (CLIENT_CALL, "ray_client")):
        service, method = call.removeprefix("/ray.rpc.").split("/")
        described = import_module(f"ray.core.generated.{module}_pb2").DESCRIPTOR
        assert method in described.services_by_name[service].methods_by_name
