"""The files around an exported module: for Serve, Kubernetes and Docker, and a README."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template
from typing import Any

from mlkit import __version__
from mlkit.plan import Plan

__all__ = ["dockerfile", "ray_service", "readme", "requirements", "serve_app", "serve_config"]

PORT = 8000
_SERVER = ("ray",)
"""Loaded by what serves the module, and not by the module."""


def serve_app(target: str, fastapi: str | None = None) -> str:
    """Return the module that Serve imports.

    Args:
        target: ``MODULE:PIPELINE``.
        fastapi: variable of the module with a user's application.
    """
    name = target.partition(":")[2]
    more = "" if fastapi is None else f', fastapi="{fastapi}"'
    return Template('''"""The Serve application of `$name`: `serve run serve.yaml`."""

from pathlib import Path

from mlkit.serving.port.application import application

app = application("$target", folder=str(Path(__file__).parent)$more)
''').substitute(name=name, target=target, more=more)


def serve_config(plan: Plan, deployment: str) -> str:
    """Return Serve's configuration: one deployment, of this name, that runs all steps."""
    lines = [
        "# Start it with `serve run serve.yaml`, or on a cluster with `serve deploy serve.yaml`.",
        "# The replicas read the bearer token of requests from MLKIT_TOKEN.",
        "proxy_location: EveryNode",
        f"http_options: {{host: 0.0.0.0, port: {PORT}}}",
        "applications:",
        f"  - name: {plan.graph.name}",
        "    route_prefix: /",
        "    import_path: serve_app:app",
        "    deployments:",
        f"      - name: {deployment}",
        *(f"        {key}: {json.dumps(value)}" for key, value in _deployment(plan).items()),
    ]
    return "\n".join(lines) + "\n"


def _deployment(plan: Plan) -> dict[str, Any]:
    """Options of the deployment: those of the front, with the resources of all stages."""
    front = plan.front
    options: dict[str, Any] = {}
    if front.autoscaling_config is None:
        options["num_replicas"] = front.num_replicas
    else:
        options["autoscaling_config"] = dict(front.autoscaling_config)
    options["max_ongoing_requests"] = 256
    options["ray_actor_options"] = _actor(plan)
    return options


def _actor(plan: Plan) -> dict[str, float]:
    wanted = {
        "num_cpus": max(stage.num_cpus for stage in plan.stages),
        "num_gpus": sum(stage.num_gpus for stage in plan.stages),
    }
    return {key: value for key, value in wanted.items() if value or key == "num_cpus"}


def ray_service(plan: Plan, deployment: str, image: str) -> str:
    """Return a RayService for KubeRay, with Serve's configuration in it.

    Args:
        plan: the planned pipeline.
        deployment: name of the deployment; see `mlkit.serving.port.application`.
        image: the image that the Dockerfile builds.
    """
    name = plan.graph.name.lower().replace("_", "-").strip("-")
    config = serve_config(plan, deployment).split("proxy_location", 1)[1]
    serve = "".join(f"    {line}\n" for line in f"proxy_location{config}".splitlines())
    gpus = -(-sum(stage.num_gpus for stage in plan.stages) // 1)
    limits = {"cpu": "2", "memory": "4Gi"} | ({"nvidia.com/gpu": str(int(gpus))} if gpus else {})
    return Template("""\
# kubectl create secret generic $name-token --from-literal=token=...
# kubectl apply -f rayservice.yaml
apiVersion: ray.io/v1
kind: RayService
metadata:
  name: $name
spec:
  serveConfigV2: |
$serve\
  rayClusterConfig:
    rayVersion: "$ray"
    headGroupSpec:
      rayStartParams:
        dashboard-host: 0.0.0.0
        num-cpus: "0" # replicas run on workers
      template:
        spec:
          containers:
            - name: ray-head
              image: $image
              env: $env
              ports:
                - {name: gcs, containerPort: 6379}
                - {name: dashboard, containerPort: 8265}
                - {name: client, containerPort: 10001}
                - {name: serve, containerPort: $port}
              resources:
                limits: {cpu: "1", memory: 4Gi}
                requests: {cpu: "1", memory: 4Gi}
    workerGroupSpecs:
      - groupName: replicas
        replicas: 1
        minReplicas: 1
        maxReplicas: 4
        rayStartParams: {}
        template:
          spec:
            containers:
              - name: ray-worker
                image: $image
                env: $env
                resources:
                  limits: $limits
                  requests: $limits
""").substitute(
        name=name,
        serve=serve,
        ray=importlib.metadata.version("ray"),
        image=image,
        env=json.dumps(
            [
                {
                    "name": "MLKIT_TOKEN",
                    "valueFrom": {"secretKeyRef": {"name": f"{name}-token", "key": "token"}},
                }
            ]
        ),
        port=PORT,
        limits=json.dumps(limits),
    )


def requirements(modules: Iterable[str]) -> tuple[str, list[str]]:
    """Return pinned requirements, and the distributions that are on no index.

    Args:
        modules: top-level modules that were loaded.
    """
    brought = importlib.metadata.packages_distributions()
    names = {d for module in {*modules, *_SERVER} for d in brought.get(module, ())}
    versions = {_canonical(name): (name, importlib.metadata.version(name)) for name in names}
    local = {key for key, (name, _) in versions.items() if _is_local(name)} | {"mlkit"}
    versions.setdefault("mlkit", ("mlkit", __version__))
    lines = ["# Installed where the pipeline was exported, and loaded by it.\n"]
    wheels = []
    for key, (name, version) in sorted(versions.items()):
        if key in local:
            wheel = f"wheels/{key.replace('-', '_')}-{version}-py3-none-any.whl"
            wheels.append(wheel)
            lines.append(f"./{wheel}\n")
            continue
        extras = "[serve]" if key == "ray" else ""
        lines.append(f"{name}{extras}=={version.partition('+')[0]}\n")
    return "".join(lines), wheels


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _is_local(name: str) -> bool:
    """Whether a distribution was installed from a folder rather than from an index."""
    text = importlib.metadata.distribution(name).read_text("direct_url.json")
    return text is not None and "dir_info" in json.loads(text)


def dockerfile() -> str:
    """Return a Dockerfile on Ray's own image, with this version of Python."""
    python = "".join(platform.python_version_tuple()[:2])
    ray = importlib.metadata.version("ray")
    return Template("""\
FROM rayproject/ray:$ray-py$python-cpu

WORKDIR /home/ray/app
COPY requirements.txt ./
COPY wheels ./wheels
RUN pip install --no-cache-dir -r requirements.txt
COPY . ./

# Replicas on every node import the module from here.
ENV PYTHONPATH=/home/ray/app
EXPOSE $port
CMD ["serve", "run", "serve.yaml"]
""").substitute(ray=ray, python=python, port=PORT)


_FILES = {
    "serve_app.py": "the Serve application",
    "serve.yaml": "its configuration, for `serve run` and `serve deploy`",
    "rayservice.yaml": "the same on Kubernetes, for KubeRay",
    "Dockerfile": "an image with the code and its requirements",
    "requirements.txt": "the exact versions that the pipeline was exported with",
    "artefacts/": "values that are not code, with their SHA-256",
    "golden/": "requests, and the answers of the pipeline where it was written",
}


def readme(
    plan: Plan, module: str, command: str, wheels: Iterable[str], notes: Iterable[str]
) -> str:
    """Return a README.

    Args:
        plan: the planned pipeline.
        module: name of the module.
        command: sends a request.
        wheels: files that are to be built before the image.
        notes: what differs between one process and many.
    """
    name = plan.graph.name
    files: Mapping[str, str] = {f"{module}.py": "the pipeline and all that it uses", **_FILES}
    sections = [
        f"# {name}\n\n    {plan.graph.signature}\n\n{plan.graph.doc}".rstrip(),
        f"Written by `mlkit export`, version {__version__}.",
        "\n".join(["| file | |", "|---|---|", *(f"| `{k}` | {v} |" for k, v in files.items())]),
        "## Run it\n"
        "    pip install -r requirements.txt\n"
        "    export MLKIT_TOKEN=$(openssl rand -hex 32)\n"
        "    serve run serve.yaml\n"
        f"    {command}",
        "## Check it\n"
        "    mlkit verify .                              # in a fresh process\n"
        "    mlkit verify . --serve                      # under `serve run`\n"
        f"    mlkit verify . --url http://127.0.0.1:{PORT}    # wherever it runs",
    ]
    if built := list(wheels):
        places = "\n".join(f"- `{wheel}`" for wheel in built)
        sections.insert(
            3,
            "## Before the first build\n"
            "Put the wheels of what is on no index into `wheels`, such as by\n"
            "`pip wheel --no-deps --wheel-dir wheels SOURCE`:\n\n" + places,
        )
    if known := list(notes):
        sections.append("## Mind\n" + "\n".join(f"- {note}" for note in known))
    return "\n\n".join(sections) + "\n"


def image_of(folder: Path) -> str:
    """Return the name of the image for a folder."""
    return re.sub(r"[^a-z0-9._-]+", "-", folder.name.lower()).strip("-.") + ":latest"
