"""Cold starts: from a deployment to its first response, by turns with plain Serve.

Each is a fresh process. Imports of the script are counted on neither side, those of Ray's processes
on both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from mlkit.load.analysis import ratio
from mlkit.serving.control.flags import free_port

__all__ = ["cold"]

TIMEOUT_S = 180.0
WARM_UP_S = 15.0
"""How long before the deployment ``warm_up()`` is called."""

PLAIN = """
import json, sys, time, urllib.request
import ray
from ray import serve

@serve.deployment
class Echo:
    async def __call__(self, request):
        return "ok"

port = int(sys.argv[1])
began = time.perf_counter()
ray.init(logging_level="ERROR", log_to_driver=False)
serve.start(http_options={"port": port}, logging_config={"log_level": "ERROR"})
serve.run(Echo.bind())
assert urllib.request.urlopen(f"http://127.0.0.1:{port}/").read() == b"ok"
print(json.dumps({"first_s": time.perf_counter() - began}))
serve.shutdown()
ray.shutdown()
"""

OURS = """
import json, sys, time
from mlkit import pipeline, step
from mlkit.serving import deploy, warm_up
from mlkit.tagging import tag
from tools.demo.pictures import load_payloads, sample

@step
def double(x: int) -> int:
    return 2 * x

@pipeline
def twice(x: int) -> int:
    return double(x)

image = load_payloads(sample())[0]
warm_up_s = float(sys.argv[1])
if warm_up_s:
    warm_up()
    time.sleep(warm_up_s)
began = time.perf_counter()
app = deploy(tag, progress=False)
app(**image)
first_s = time.perf_counter() - began
began = time.perf_counter()
other = deploy(twice, progress=False)
assert other(2) == 4
second_s = time.perf_counter() - began
other.shutdown()
began = time.perf_counter()
app.shutdown()
shutdown_s = time.perf_counter() - began
print(json.dumps({"first_s": first_s, "second_s": second_s, "shutdown_s": shutdown_s}))
"""


def cold(blocks: int, seconds: float, check: Callable[[], None]) -> dict[str, Any]:
    """Start each by turns, the first turn aside, which fills the caches of the disk.

    Args:
        blocks: turns that count.
        seconds: unused; a start takes as long as it takes.
        check: raises if the measurement was interrupted.
    """
    rows = []
    for _ in range(blocks + 1):
        rows.append((_run(PLAIN, f"{free_port()}"), _run(OURS, "0"), _run(OURS, f"{WARM_UP_S:g}")))
        check()
    plain, ours, warm = zip(*rows[1:], strict=True)
    first = ratio(_values(ours, "first_s"), _values(plain, "first_s"))
    return {
        "cold_start_over_plain_serve": {"value": first.value, "low": first.low, "high": first.high},
        "plain_serve_s": median(_values(plain, "first_s")),
        "cold_start_s": median(_values(ours, "first_s")),
        "warmed_up_start_s": median(_values(warm, "first_s")),
        "second_deploy_s": median(_values([*ours, *warm], "second_s")),
        "shutdown_s": median(_values([*ours, *warm], "shutdown_s")),
    }


def _values(rows: Sequence[dict[str, float]], name: str) -> list[float]:
    return [row[name] for row in rows]


def _run(program: str, argument: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="cold") as folder:
        done = subprocess.run(
            [sys.executable, "-c", program, argument],
            env={**os.environ, "MLKIT_RUNTIME_DIR": folder, "RAY_USAGE_STATS_ENABLED": "0"},
            stdout=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_S,
            check=True,
        )
    # Serve prints after it, when it stops.
    line = next(line for line in done.stdout.splitlines() if line.startswith("{"))
    row: dict[str, float] = json.loads(line)
    return row
