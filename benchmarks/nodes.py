"""The tagging pipeline on a cluster of two nodes: ``python -m benchmarks.nodes`` prints JSON.

Both nodes are of this machine, started by Ray's own utility for tests: it shows that stages go
where their resources are and that values get through, not how fast a network is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import Any

from mlkit.errors import DeployError

__all__ = ["measure"]

# Two nodes of one machine cannot both have a proxy on the same port.
ENVIRONMENT = {"MLKIT_PROXY_LOCATION": "HeadOnly", "RAY_USAGE_STATS_ENABLED": "0"}
FAR = "far"


def measure() -> dict[str, Any]:
    """Start the cluster in a process of its own and ask it for the catalogue's tags.

    Raises:
        DeployError: it did not get that far; with the last that it said.
    """
    with tempfile.TemporaryDirectory(prefix="mlkit-") as folder:
        environment = {**os.environ, **ENVIRONMENT, "MLKIT_RUNTIME_DIR": folder}
        done = subprocess.run(
            [sys.executable, "-m", __name__],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
    if done.returncode:
        raise DeployError("the cluster did not answer", got=done.stderr[-1500:])
    report: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return report


def _main() -> None:
    from ray.cluster_utils import Cluster

    from mlkit.serving import deploy
    from mlkit.tagging import tag
    from tools.demo.pictures import load_payloads, sample

    payloads = load_payloads(sample())
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False}
    )
    try:
        cluster.add_node(num_cpus=2, resources={"box": 1})
        away: dict[str, Any] = {
            "stage": FAR,
            "ray_actor_options": {"num_cpus": 1, "resources": {"box": 0.5}},
        }
        options = {
            "look": away,
            **{name: {"stage": FAR} for name in ("product_class", "imagenet_labels")},
        }
        # Ray's utility starts it without authentication, on this machine alone.
        app = deploy(
            tag, address=cluster.address, insecure_cluster=True, options=options, progress=False
        )
        placement = app.placement()
        frame = placement.to_frame()
        there = list(app.map(payloads, progress=False))
        here = list(tag.map(payloads, progress=False))
        report = {
            "stages": {
                str(stage): sorted(set(rows["node"])) for stage, rows in frame.groupby("stage")
            },
            "nodes": int(frame["node"].nunique()),
            "requests": len(payloads),
            "same_answers": sum(a == b for a, b in zip(there, here, strict=True)) / len(here),
            "planned_cpus": app.plan.num_cpus,
            "taken_cpus": placement.taken["CPU"],
        }
        app.shutdown()
        print(json.dumps(report))
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    _main()
