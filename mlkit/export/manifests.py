"""The files around an exported module: for Serve, Kubernetes and Docker, and a README."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from mlkit import __version__
from mlkit.plan import Plan
from mlkit.serving.limits import Limits

__all__ = [
    "dockerfile",
    "image_of",
    "ray_service",
    "readme",
    "requirements",
    "serve_app",
    "serve_config",
]

PORT = 8000
POD_CPUS, POD_GB = 2, 4
"""Of a worker's pod, unless a replica asks for more."""

RAYS_SHARE = 0.6
"""Of a pod's memory; the object store and Ray's own processes have the rest."""

CPU_WHEELS = "https://download.pytorch.org/whl/cpu"

MARGIN_S = 30
"""What a pod has to end, after its requests have."""

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
    """Options of the deployment: what any of the stages needs, all of which it runs."""
    options = _replicas(plan)
    limits = Limits()
    options["max_ongoing_requests"] = limits.max_ongoing_requests
    # A replica that is replaced answers what it has: as long as a request may take.
    options["graceful_shutdown_timeout_s"] = limits.request_timeout_s
    for name in ("graceful_shutdown_timeout_s", "health_check_period_s", "health_check_timeout_s"):
        wanted = [stage.options[name] for stage in plan.stages if name in stage.options]
        if wanted:
            options[name] = max(wanted)
    options["ray_actor_options"] = _actor(plan)
    return options


def _replicas(plan: Plan) -> dict[str, Any]:
    """Number of replicas: as many as the stage with most of them has."""
    fixed = max(stage.num_replicas or 1 for stage in plan.stages)
    scaled = [stage.autoscaling_config for stage in plan.stages if stage.autoscaling_config]
    if not scaled:
        return {"num_replicas": fixed}
    least = max(config.get("min_replicas", 1) for config in scaled)
    if fixed > 1:
        least = max(least, fixed)
    widest = max(scaled, key=lambda config: config.get("max_replicas", 1))
    most = max(least, widest.get("max_replicas", 1))
    return {"autoscaling_config": {**widest, "min_replicas": least, "max_replicas": most}}


def _actor(plan: Plan) -> dict[str, Any]:
    """What a replica asks of Ray: it runs the steps of all stages.

    A ``runtime_env`` stays in the notebook: packages are in the requirements, and variables may be
    secrets.
    """
    wanted: dict[str, Any] = {}
    for stage in plan.stages:
        for key, value in stage.ray_actor_options.items():
            if key == "runtime_env":
                continue
            if isinstance(value, Mapping):
                wanted[key] = {**wanted.get(key, {}), **value}
            elif isinstance(value, (int, float)):
                wanted[key] = wanted.get(key, 0) + value
            else:
                wanted[key] = value
    wanted["num_cpus"] = max(stage.num_cpus for stage in plan.stages)
    wanted["num_gpus"] = sum(stage.num_gpus for stage in plan.stages)
    return {key: value for key, value in wanted.items() if value or key == "num_cpus"}


@dataclass(frozen=True)
class _Workers:
    """Pods that have room for the replicas.

    Attributes:
        limits: resources of a pod, as in Kubernetes.
        least: number of pods at first, and at least.
        most: number of pods at most.
        autoscaled: whether Ray's autoscaler changes their number.
    """

    limits: dict[str, str]
    least: int
    most: int
    autoscaled: bool


def _workers(plan: Plan) -> _Workers:
    actor, replicas = _actor(plan), _replicas(plan)
    cpus = max(POD_CPUS, math.ceil(actor["num_cpus"]))
    gpus = math.ceil(actor.get("num_gpus", 0))
    room = [int(cpus / actor["num_cpus"])] if actor["num_cpus"] else []
    room += [int(gpus / actor["num_gpus"])] if gpus else []
    replicas_per_pod = max(1, min(room, default=1))
    asked = actor.get("memory", 0) * replicas_per_pod / 2**30 / RAYS_SHARE
    limits = {"cpu": str(cpus), "memory": f"{max(POD_GB, math.ceil(asked))}Gi"}
    if gpus:
        limits["nvidia.com/gpu"] = str(gpus)
    scaling = replicas.get("autoscaling_config")
    least = most = replicas.get("num_replicas", 1)
    if scaling is not None:
        least, most = scaling["min_replicas"], scaling["max_replicas"]
    return _Workers(
        limits,
        math.ceil(least / replicas_per_pod),
        math.ceil(most / replicas_per_pod),
        scaling is not None,
    )


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
    workers = _workers(plan)
    return Template("""\
# kubectl create secret generic $name-token --from-literal=token=...
# kubectl apply -f rayservice.yaml
#
# Another image is another cluster, which takes over when it is ready. The tag is a digest of the
# export; to roll back, apply the former file.
apiVersion: ray.io/v1
kind: RayService
metadata:
  name: $name
spec:
  serveConfigV2: |
$serve\
  rayClusterConfig:
    rayVersion: "$ray"
    enableInTreeAutoscaling: $autoscaled
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
        replicas: $least
        minReplicas: $least
        maxReplicas: $most
        rayStartParams: {}
        template:
          spec:
            terminationGracePeriodSeconds: $grace
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
        limits=json.dumps(workers.limits),
        least=workers.least,
        most=workers.most,
        autoscaled=str(workers.autoscaled).lower(),
        grace=math.ceil(_deployment(plan)["graceful_shutdown_timeout_s"]) + MARGIN_S,
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
    if any(version.endswith("+cpu") for _, version in versions.values()):
        lines.append(
            "# The CPU build of torch, as there; the one on PyPI brings gigabytes of CUDA.\n"
            f"--extra-index-url {CPU_WHEELS}\n"
        )
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


def dockerfile(*, gpu: bool = False) -> str:
    """Return a Dockerfile on Ray's own image, with this version of Python.

    Args:
        gpu: whether a replica asks for GPUs.
    """
    python = "".join(platform.python_version_tuple()[:2])
    ray = importlib.metadata.version("ray")
    return Template("""\
FROM rayproject/ray:$ray-py$python-$kind

WORKDIR /home/ray/app
COPY requirements.txt ./
COPY wheels ./wheels
RUN pip install --no-cache-dir -r requirements.txt
COPY . ./

# Replicas on every node import the module from here.
ENV PYTHONPATH=/home/ray/app
EXPOSE $port

# `docker stop` interrupts it, as Ctrl+C does. Kubernetes has probes of its own.
STOPSIGNAL SIGINT
HEALTHCHECK --start-period=120s CMD ["python", "-c", "import urllib.request as r; \
r.urlopen('http://127.0.0.1:$port/readyz', timeout=5)"]
CMD ["serve", "run", "serve.yaml"]
""").substitute(ray=ray, python=python, port=PORT, kind="gpu" if gpu else "cpu")


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
    plan: Plan,
    module: str,
    command: str,
    image: str,
    wheels: Iterable[str],
    notes: Iterable[str],
) -> str:
    """Return a README.

    Args:
        plan: the planned pipeline.
        module: name of the module.
        command: sends a request.
        image: its name.
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
        "## In a container\n"
        f"    docker build -t {image} .\n"
        f"    docker run --rm --shm-size=2g -p {PORT}:{PORT} -e MLKIT_TOKEN {image}",
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


def image_of(name: str, folder: Path) -> str:
    """Return the name of the image for a folder; other contents have another tag."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(folder).as_posix()}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    repository = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._") or "pipeline"
    return f"{repository}:{digest.hexdigest()[:12]}"
