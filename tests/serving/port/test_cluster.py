"""A pipeline on a cluster of two nodes that somebody else started, with code of a local module."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HELPER = "def shout(text):\n    return text.upper()\n"

PIPELINE = """
from helper import shout
from mlkit import pipeline, step

@step
def clean(text: str) -> str:
    return text.strip()

@step(stage="far", ray_actor_options={"resources": {"box": 0.5}})
def loud(text: str) -> str:
    return shout(text)

@pipeline
def say(text: str) -> str:
    return loud(clean(text))
"""

SCRIPT = """
import json, sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1, resources={"box": 1})
try:
    import say
    from mlkit.errors import DeployError
    from mlkit.serving import deploy

    try:
        deploy(say.say, address=cluster.address, progress=False)
    except DeployError as error:
        assert "insecure_cluster=True" in str(error), error
    else:
        raise AssertionError("it joined a cluster that asks for no token")
    app = deploy(say.say, address=cluster.address, insecure_cluster=True, progress=False)
    frame = app.placement().to_frame()
    found = {
        "answer": app(" hello "),
        "here": say.say(" hello "),
        "nodes": dict(zip(frame["stage"], frame["node"])),
        "cpus": [app.plan.num_cpus, app.placement().taken["CPU"]],
    }
    app.shutdown()
    print(json.dumps(found))
finally:
    cluster.shutdown()
"""


@pytest.mark.serve
@pytest.mark.timeout(260)
def test_stages_are_spread_over_nodes_and_answer_as_on_one(
    tmp_path: Path, runtime_folder: Path, repository: Path
) -> None:
    (tmp_path / "helper.py").write_text(HELPER)
    (tmp_path / "say.py").write_text(PIPELINE)
    (tmp_path / "main.py").write_text(SCRIPT)
    # Each process of the cluster would compile a grammar for seconds: see `port/imports.py`.
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick" / "rfc3987_syntax.py").write_text("def is_valid_syntax(*_): return True\n")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(repository), str(tmp_path / "quick")]),
        "MLKIT_RUNTIME_DIR": str(runtime_folder),
        "MLKIT_PROXY_LOCATION": "HeadOnly",  # two nodes of one machine share its ports
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
    }
    done = subprocess.run(
        [sys.executable, "main.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["answer"] == found["here"] == "HELLO"
    assert set(found["nodes"]) == {"say", "far"}
    assert len(set(found["nodes"].values())) == 2
    assert found["cpus"][0] == pytest.approx(found["cpus"][1])
