"""What an export asks of a cluster is what its replicas need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from mlkit import pipeline, step
from mlkit.export import manifests
from mlkit.plan import Plan, plan
from tests.export.kuberay import RayService

GIB = 2**30


def planned(**options: Any) -> Plan:
    @step(**options)
    def work(x: int) -> int:
        return x

    @pipeline
    def tagger(x: int) -> int:
        return work(x)

    return plan(tagger)


def service_of(planned: Plan) -> RayService:
    text = manifests.ray_service(planned, "tagger", "tagger:1")
    service = RayService.model_validate(yaml.safe_load(text))
    config = yaml.safe_load(service.spec.serveConfigV2)
    assert config == yaml.safe_load(manifests.serve_config(planned, "tagger"))
    ServeDeploySchema.model_validate(config)
    return service


def deployment_of(planned: Plan) -> dict[str, Any]:
    config = yaml.safe_load(manifests.serve_config(planned, "tagger"))
    deployment: dict[str, Any] = config["applications"][0]["deployments"][0]
    return deployment


@pytest.mark.parametrize(
    ("options", "limits", "pods"),
    [
        ({}, {"cpu": "2", "memory": "4Gi"}, (1, 1)),
        ({"num_cpus": 6}, {"cpu": "6", "memory": "4Gi"}, (1, 1)),
        ({"num_cpus": 1, "num_replicas": 5}, {"cpu": "2", "memory": "4Gi"}, (3, 3)),
        ({"num_cpus": 0.5, "num_replicas": 5}, {"cpu": "2", "memory": "4Gi"}, (2, 2)),
        (
            {"num_gpus": 0.5, "num_replicas": 3},
            {"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1"},
            (2, 2),
        ),
        (
            {"num_cpus": 2, "ray_actor_options": {"memory": 6 * GIB}},
            {"cpu": "2", "memory": "10Gi"},
            (1, 1),
        ),
        (
            {"num_cpus": 1, "autoscaling_config": {"min_replicas": 2, "max_replicas": 8}},
            {"cpu": "2", "memory": "4Gi"},
            (1, 4),
        ),
    ],
)
def test_the_pods_have_room_for_the_replicas(
    options: dict[str, Any], limits: dict[str, str], pods: tuple[int, int]
) -> None:
    cluster = service_of(planned(**options)).spec.rayClusterConfig
    (workers,) = cluster.workerGroupSpecs
    (container,) = workers.template.spec.containers
    assert container.resources.limits == container.resources.requests == limits
    assert (workers.minReplicas, workers.maxReplicas) == pods
    assert cluster.enableInTreeAutoscaling == ("autoscaling_config" in options)


def test_what_a_step_asks_of_ray_and_serve_stays() -> None:
    asked = {"accelerator_type": "L4", "resources": {"box": 1}}
    secret = {"runtime_env": {"env_vars": {"KEY": "x"}}}
    deployment = deployment_of(
        planned(num_gpus=1, ray_actor_options=asked | secret, health_check_timeout_s=90)
    )
    assert "runtime_env" not in deployment["ray_actor_options"]
    assert deployment["ray_actor_options"].items() >= {**asked, "num_gpus": 1}.items()
    assert deployment["health_check_timeout_s"] == 90


@pytest.mark.parametrize(
    ("options", "seconds"), [({}, 60), ({"graceful_shutdown_timeout_s": 300}, 300)]
)
def test_requests_end_before_replicas_and_replicas_before_pods(
    options: dict[str, Any], seconds: int
) -> None:
    made = planned(**options)
    assert deployment_of(made)["graceful_shutdown_timeout_s"] == seconds
    (workers,) = service_of(made).spec.rayClusterConfig.workerGroupSpecs
    assert (workers.template.spec.terminationGracePeriodSeconds or 0) > seconds


def test_an_image_is_named_by_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "tagger.py").write_text("x = 1")
    first = manifests.image_of("My Tagger", tmp_path)
    assert first.startswith("my-tagger:")
    assert manifests.image_of("My Tagger", tmp_path) == first
    (tmp_path / "tagger.py").write_text("x = 2")
    assert manifests.image_of("My Tagger", tmp_path) != first


@pytest.mark.parametrize(("gpu", "kind"), [(False, "-cpu"), (True, "-gpu")])
def test_the_image_is_ready_for_gpus_and_stopped_as_by_a_user(gpu: bool, kind: str) -> None:
    lines = manifests.dockerfile(gpu=gpu).splitlines()
    assert lines[0].endswith(kind)
    assert "STOPSIGNAL SIGINT" in lines
    (command,) = (line.removeprefix("CMD ") for line in lines if line.startswith("CMD "))
    assert json.loads(command) == ["serve", "run", "serve.yaml"]


@pytest.mark.parametrize("version", ["2.13.0+cpu", "2.13.0"])
def test_the_cpu_build_of_torch_is_asked_for_where_it_was_used(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    real = manifests.importlib.metadata.version
    monkeypatch.setattr(
        manifests.importlib.metadata,
        "version",
        lambda name: version if name == "torch" else real(name),
    )
    pins, _ = manifests.requirements(["torch"])
    assert "torch==2.13.0\n" in pins
    assert ("--extra-index-url" in pins) == version.endswith("+cpu")
