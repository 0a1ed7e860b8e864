"""What a plan needs beyond what this machine has."""

from __future__ import annotations

import importlib
import math
from typing import Any

import pytest

from mlkit import pipeline, step
from mlkit.errors import DeployError
from mlkit.plan import plan
from mlkit.plan.machine import machine_resources, requested
from mlkit.serving import deploy
from mlkit.serving.kernel.session import Session


@step(num_gpus=0.5)
def look(x: int) -> int:
    return x


@step
def count(x: int) -> int:
    return x


@pipeline
def looked(x: int) -> int:
    return look(x)


@pipeline
def counted(x: int) -> int:
    return count(x)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Two cores and no GPU."""
    has: dict[str, float] = {"CPU": 2, "GPU": 0}
    module = importlib.import_module("mlkit.plan.plan")  # the package has a function of that name
    monkeypatch.setattr(module, "machine_resources", lambda: has)
    return has


def test_a_gpu_that_is_not_there_is_said_by_the_plan(machine: dict[str, float]) -> None:
    made = plan(looked)
    assert made.shortfalls == ("needs 0.5 GPUs (look 1 × 0.5), this machine has none",)
    assert "it needs 0.5 GPUs" in str(made)
    assert "it needs 0.5 GPUs" in made._repr_html_()
    machine["GPU"] = 1
    assert plan(looked).shortfalls == ()
    machine["GPU"] = math.inf  # there are some, and it is not known how many
    assert plan(looked, options={"look": {"num_gpus": 8}}).shortfalls == ()


@pytest.mark.parametrize(
    ("options", "short"),
    [
        ({"num_replicas": 8}, ()),
        ({"num_replicas": 50}, ("needs 12.5 CPUs (counted 50 × 0.25), this machine has 2 CPUs",)),
        ({"autoscaling_config": {"min_replicas": 0, "max_replicas": 50}}, ()),
        (
            {"ray_actor_options": {"num_cpus": 3}, "autoscaling_config": {"min_replicas": 0}},
            ("needs 3 CPUs (counted 1 × 3), this machine has 2 CPUs",),
        ),
        ({"ray_actor_options": {"resources": {"disk": 9}}}, ()),  # what else there is, Ray knows
    ],
)
def test_replicas_are_added_up(
    machine: dict[str, float], options: dict[str, Any], short: tuple[str, ...]
) -> None:
    assert plan(counted, **options).shortfalls == short


@pytest.mark.parametrize(("pipe", "options"), [(looked, {}), (counted, {"num_replicas": 50})])
def test_it_is_refused_before_a_session_starts(
    machine: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
    pipe: Any,
    options: dict[str, Any],
) -> None:
    def start(**settings: Any) -> None:
        raise AssertionError("a session was started")

    monkeypatch.setattr(Session, "start", start)
    monkeypatch.setattr(Session, "of_this_notebook", lambda: None)
    with pytest.raises(DeployError, match="this machine has") as caught:
        deploy(pipe, progress=False, **options)
    assert "address=" in str(caught.value.fix)
    with pytest.raises(AssertionError, match="a session was started"):  # a cluster may have it
        deploy(pipe, progress=False, address="10.0.0.1:6379", insecure_cluster=True, **options)


def test_devices_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr("mlkit.plan.machine.DEVICES", tmp_path)
    (tmp_path / "nvidiactl").touch()
    assert machine_resources()["GPU"] == 0
    (tmp_path / "nvidia0").touch()
    (tmp_path / "nvidia1").touch()
    assert machine_resources()["GPU"] == 2
    (tmp_path / "kfd").touch()
    assert machine_resources()["GPU"] == math.inf


def test_resources_have_rays_names() -> None:
    options = {"num_cpus": 0.5, "num_gpus": 0, "memory": 2**20, "resources": {"disk": 1}}
    assert requested(options) == {"CPU": 0.5, "memory": 2.0**20, "disk": 1.0}
