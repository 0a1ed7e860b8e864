"""A front replica in a process of its own, without Ray: what a step finds there."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

REPLICA = """
import asyncio, json, pickle, sys
from pathlib import Path
from types import SimpleNamespace

from starlette.testclient import TestClient

from mlkit.serving.replica.front import Replica, Shipment, _Switch
from mlkit.serving.replica.output import read_logs


async def main(folder):
    shipment = pickle.loads((folder / "shipment").read_bytes())
    replica = Replica.__new__(Replica)
    runtime = SimpleNamespace(push=print, handle=print, fetch=lambda path: Path(path).read_bytes())
    await replica.__init__(shipment, runtime=runtime)
    config = {"bundle": str(folder / "bundle"), "limits": {}, "workers": 1, "routes": {}}
    config |= {"sizes": {}, "log_levels": {"shop": 10}, "version": "v1", "state": "v1"}
    config |= {"replaced": {}, "trial": None, "check": False, "max_busy_workers": None}
    await replica.reconfigure(config)
    client = TestClient(_Switch(replica), base_url="http://127.0.0.1")
    response = await asyncio.to_thread(client.post, "/looked", json={"name": "SHOP_MODE"})
    await type(replica).__del__(replica)
    logs = read_logs(folder, "looked")
    lines = [[line.step, line.stream, line.text] for line in logs]
    (folder / "result").write_text(json.dumps([response.json(), lines]))


asyncio.run(main(Path(sys.argv[1])))
"""

NOTEBOOK = """
import asyncio, logging, os, pickle, sys
from pathlib import Path
from mlkit import pipeline, resource, step
from mlkit.plan import plan
from mlkit.serving.bundle import Origin, pack
from mlkit.serving.replica.front import Shipment

folder = Path(sys.argv[1])

async def load():
    loop = asyncio.get_running_loop()
    yield loop, os.environ["SHOP_MODE"]
    assert loop is asyncio.get_running_loop()
    print("closed")

@step
async def look(name: str, *, loaded: tuple = resource(load)) -> dict[str, bool | str]:
    logging.getLogger("shop").debug("looked at %s", name)
    sys.stdout.buffer.write(b"bytes\\n")
    display({"shown": 1})
    return {"variable": os.environ[name], "loader": loaded[1]}

@pipeline
def looked(name: str) -> dict[str, bool | str]:
    return look(name)

import builtins
builtins.display = print  # as IPython has it
inherited = dict(os.environ)
os.environ["SHOP_MODE"] = "late"
packed = pack(plan(looked))
(folder / "bundle").write_bytes(packed[0].data)
shipment = Shipment(
    app="looked", origin=Origin.here(packed, inherited), logs=str(folder), token=None, exact_key="k"
)
(folder / "shipment").write_bytes(pickle.dumps(shipment))
"""


def test_a_step_finds_in_a_replica_what_it_finds_in_the_notebook(tmp_path: Path) -> None:
    for code in (NOTEBOOK, REPLICA):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
    result: tuple[Any, list[list[str | None]]] = json.loads((tmp_path / "result").read_text())
    answer, lines = result
    assert answer == {"variable": "late", "loader": "late"}
    assert ["look", "log", "DEBUG shop: looked at SHOP_MODE"] in lines
    assert ["look", "out", "bytes"] in lines
    assert ["look", "out", "{'shown': 1}"] in lines
    assert [None, "out", "closed"] in lines
