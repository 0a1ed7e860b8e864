"""The gateway of an app, as a process of its session."""

import pytest

from mlkit import pipeline, step
from mlkit.errors import DeployError
from mlkit.serving import asgi
from mlkit.serving.control.watchdog import processes_of, sweep
from mlkit.serving.gateway.messages import message
from mlkit.serving.kernel.grpc import AppGateway


@step
def double(x: float) -> float:
    return 2 * x


@pipeline
def doubled(x: float) -> float:
    return double(x)


@pytest.fixture
def gateway(tmp_path):
    folder = tmp_path / f"session-{tmp_path.parent.name}"
    folder.mkdir()
    yield AppGateway(folder, "doubled")
    sweep(folder.name)


def test_it_answers_until_it_is_stopped(gateway, listen, dial) -> None:
    assert gateway.address is None
    url = f"{listen(asgi(doubled))}/doubled"
    address = gateway.start(url, 2**20)
    answer = dial(address)("ModelReady", message("ModelReadyRequest")(name="doubled"))
    assert answer.ready
    other_kernels = AppGateway(gateway.folder, "doubled")
    assert other_kernels.address == address
    assert other_kernels.start(url, 2**20) == address  # it runs
    assert len(processes_of(gateway.folder.name)) == 1  # the session would end it
    gateway.start(url, 2**21)  # another limit
    assert len(processes_of(gateway.folder.name)) == 1
    gateway.stop()
    assert gateway.address is None
    assert processes_of(gateway.folder.name) == []
    gateway.stop()


def test_one_that_does_not_start_says_why(gateway) -> None:
    with pytest.raises(DeployError, match="is not a URL"):
        gateway.start("ftp://nowhere", 2**20)
    assert gateway.address is None
